"""Everything that knows the insides of ComfyUI, one subject per file; the method itself is in `blipdiff_impl`.

`models` puts the parts of a checkpoint (`sources`) into the host's own MODEL, CLIP and VAE (`unet`, `clip`, `vae`;
`weights` fills them completely or not at all), `encoder` lends the subject encoder to the host's memory manager, `text`
splices a subject into the host's prompt encoding, `pndm` is the published sampler, `finetuning` tunes a MODEL on a
subject, `saving` keeps subjects and what was tuned for them, `folders` finds checkpoints and `examples` the pictures of
the example workflows, `session` reports progress and asks whether to stop, `schema` keeps older hosts working, `setup`
runs when the pack is loaded.
"""
