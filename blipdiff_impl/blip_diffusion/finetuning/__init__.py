"""Fine-tuning a model on one subject (paper section 3.3, docs/method.md 5): the UNet, or low-rank factors beside its
attention, and the subject's 16 vectors learn to draw its photos from the caption `a [subject] {category}`.

Knows nothing of ComfyUI: `tuner` takes a UNet, a function `predict(x_t, t, context) -> eps` that runs it, a function
from the vectors to the text encoder's output (`captions`, on the frozen encoder of `text`), and latents (`pictures`).
`memory` and `precision` decide how to train on a device, `plain` and `command` are the way from a checkpoint and a
folder of photos without the host.
"""
