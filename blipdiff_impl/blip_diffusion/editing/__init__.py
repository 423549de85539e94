"""Editing by attention control (prompt-to-prompt, Hertz et al. 2022; paper section 3.4), as plain tensor code."""
