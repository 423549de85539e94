"""Nodes of MS-Diffusion."""
