"""GILL: a frozen language model reads pictures and words and conditions Stable Diffusion (docs/method.md 14)."""
