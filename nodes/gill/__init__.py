"""Nodes of GILL."""
