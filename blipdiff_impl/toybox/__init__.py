"""The embedded model: a toy world, the training that made `toybox.safetensors`, and its evaluation.

Only the weight file is used when pictures are made; everything else here is for making and judging it again.
See docs/toybox.md. Commands: `python -m blipdiff_impl.toybox --help`.
"""
