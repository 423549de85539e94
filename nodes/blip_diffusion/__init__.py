"""Nodes of BLIP-Diffusion."""
