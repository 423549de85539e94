"""Fine-tuning inside the host: `run` does it, on `copies` of the host's UNet and text encoder that can be trained.

`options` says what the node offers, `checks` refuses what cannot be trained, `memory` makes room, `progress` shows how
it goes, `patches` hands the result out as patches of a MODEL.
"""
