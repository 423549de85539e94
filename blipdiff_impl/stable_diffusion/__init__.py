"""What is drawn with, outside the host: Stable Diffusion 1.5's parts."""
