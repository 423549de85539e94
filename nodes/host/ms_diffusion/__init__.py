"""What the nodes of MS-Diffusion do on the host's own objects.

`adapter_folder` finds files, `adapter` loads one and lends its resampler to the host's memory manager, `subject` makes
a subject of what artists connect, `phrases` asks the host's CLIP, `apply` computes keys and values and puts them on a
MODEL, where `run` adds them while a sampler runs.
"""
