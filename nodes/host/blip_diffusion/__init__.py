"""What the nodes of BLIP-Diffusion do on the host's own objects.

`loader` puts the parts of a checkpoint (`sources`) into the host's MODEL, CLIP and VAE, `encode` lends the subject
encoder to its memory manager, `prompt`, `schedule` and `scene` splice subjects into its prompt encoding, `editing` and
`finetuning` act on its MODEL, `save` keeps subjects (`subject_folders`) and what was tuned for them (`tuned_weights`,
`tuning_record`).
"""
