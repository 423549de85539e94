"""Editing in the host: prompts, what happens inside a run, noise, inversion and the result."""
