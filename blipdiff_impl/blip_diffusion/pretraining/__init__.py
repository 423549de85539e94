"""Pre-training in two stages (paper section 3.2 and 3.3): images and text, then pictures of described subjects.

Never imported by the host. Needs `accelerate` (`pip install ".[training]"` in a clone).
"""
