"""The host's TrainLoraNode, looked at while it trains.

The node gives out its LoRA at the end only. Its module makes the LoRA's tensors and the optimiser by a function each;
these are wrapped for the time of a training, to keep hold of what they make. Training itself is the node's own.
"""

import copy
import importlib
from unittest import mock

import torch

RANK, BATCH = 16, 3


class HostTrainer:
    """The node on a model.

    Args:
        comfy: from `load_comfy`.
        model: a checkpoint's path, or "toybox".
        unet: diffusers' UNet with the same weights; a copy gets the LoRA.
    """

    def __init__(self, comfy, model, unet):
        self._comfy, self._unet = comfy, unet
        self._node = importlib.import_module("comfy_extras.nodes_train")
        self._copies = comfy.module("nodes.host.blip_diffusion.finetuning.copies")
        source = comfy.module("nodes.host.blip_diffusion.sources").Source(model)
        with torch.inference_mode():
            loaded = comfy.module("nodes.host.blip_diffusion.loader").load_model(source, "fp32")
        self._model, self._clip, self._vae = loaded.model, loaded.clip, loaded.vae

    def train(self, photos, caption, rate, steps, note):
        """Learn photos `[N, S, S, 3]` in 0..1.

        Args:
            note: `note(step, unet)` after each of `steps`, with the LoRA of that moment in the UNet.
        """
        with torch.inference_mode():
            text = self._comfy.node("CLIPTextEncode")().encode(self._clip, caption)[0]
            latents = {"samples": self._vae.encode(photos)}
        if 0 in steps:
            note(0, self._unet)
        torch.manual_seed(0)  # of the photos' order and the timesteps, which the node draws from it
        with self._watched(steps, note):
            self._node.TrainLoraNode.execute(
                model=[self._model], latents=[latents], positive=[text], batch_size=[BATCH], steps=[max(steps)],
                grad_accumulation_steps=[1], learning_rate=[rate], rank=[RANK], optimizer=["AdamW"],
                loss_function=["MSE"], seed=[0], training_dtype=["fp32"], lora_dtype=["fp32"],
                quantized_backward=[False], algorithm=["LoRA"], gradient_checkpointing=[False], checkpoint_depth=[1],
                offloading=[False], existing_lora=["[None]"], bucket_mode=[False], bypass_mode=[False],
            )  # fmt: skip

    def _watched(self, steps, note):
        """While this holds, `note` is called after the steps of the node's optimiser."""
        make = self._node._create_optimizer
        adapters = self._node._setup_lora_adapters
        tensors, done = {}, 0

        def kept(*arguments):
            result = adapters(*arguments)
            tensors.update(result[0])
            return result

        def after_step(*_):
            nonlocal done
            done += 1
            if done in steps:
                state = torch.get_rng_state()  # drawing may not change what is trained on
                note(done, self._with_lora(tensors))
                torch.set_rng_state(state)

        def hooked(*arguments):
            optimiser = make(*arguments)
            optimiser.register_step_post_hook(after_step)
            return optimiser

        return mock.patch.multiple(self._node, _create_optimizer=hooked, _setup_lora_adapters=kept)

    @torch.no_grad()
    def _with_lora(self, tensors):
        """Diffusers' UNet with these tensors, put in by the host."""
        lora = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        patched = self._node.LoraModelLoader.execute(self._model, lora, 1.0)[0]
        weights = dict(self._copies.effective_weights(patched, self._copies.UNET, torch.device("cpu")))
        names = self._comfy.utils.unet_to_diffusers(self._model.model.model_config.unet_config)
        unet = copy.deepcopy(self._unet)
        own = {theirs: weights[ours] for theirs, ours in names.items() if ours in weights}
        for name, parameter in unet.named_parameters():
            parameter.copy_(own[name].reshape(parameter.shape))
        return unet
