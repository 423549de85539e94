"""BLIP-Diffusion: a subject as 16 vectors in the prompt (docs/method.md)."""
