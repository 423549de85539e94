"""Everything that knows the insides of ComfyUI; the files right here serve every method and know none.

`unet`, `clip` and `vae` make the host's own parts from tensors, `weights` fills them completely or not at all,
`lent_module` lends a plain network to the host's memory manager, `attention` hooks the layers of a MODEL, `regions` and
`attention_maps` stand on that, `conditioning_tags` finds again which prompt a chunk belongs to, `prompt_rows` takes
prompts apart, `pndm` is the published sampler, `folders` finds files, `inputs` checks what comes in, `session` reports
progress and asks whether to stop, `schema` keeps older hosts working, `setup` runs when the pack is loaded.
"""
