"""MS-Diffusion: several subjects, each in its own box, on Stable Diffusion XL (docs/method.md 13)."""
