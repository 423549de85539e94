"""Fine-tuning inside the host: `run` does it, on `copies` of the host's UNet and text encoder that can be trained.

`form` says what the node offers, `fitness` refuses what cannot be trained, `room` sees to memory, `watching` shows how
it goes, `delivery` hands the result out as patches of a MODEL.
"""
