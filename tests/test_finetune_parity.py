"""A step of fine-tuning through the host's UNet and text encoder is the step of a plain diffusers loop.

The loop below is written from docs/method.md 5 on diffusers' and transformers' own modules. Both sides draw
the same pictures, timesteps and noise. Tolerance: relative error (norm of the difference over norm) 1e-3. Gradients
agree to about 1e-6 in float32; AdamW's first step divides each by its own size, so the smallest of them, near rounding,
come out as steps of another size. The UNet has 8 groups per norm for the same reason: with one channel per group the
biases in front of a norm have no gradient at all, and rounding alone would choose their direction.
"""

import dataclasses

import pytest
import torch
from tiny_model import CONFIG as TINY
from tiny_model import WIDTH, reference_modules

from blipdiff_impl.blip_diffusion.finetuning.settings import LORA_RATE
from blipdiff_impl.training.draws import draws

CONFIG = dataclasses.replace(TINY, unet=dataclasses.replace(TINY.unet, norm_num_groups=8))
STEP_TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-4
SEED, RATE, BATCH, SIDE, RANK = 5, 5e-6, 3, 64, 4
SUBJECT_PLACE = 2
CAPTION = [49406, 320, 1929, 49407]  # start, "a", "dog", end


@pytest.fixture(scope="module")
def loaded(load_tiny):
    return load_tiny(seed=41, config=CONFIG)


@pytest.fixture(scope="module")
def photos():
    """Already square and in steps of 1/255, so that nothing is resized or rounded."""
    pixels = torch.randint(256, (4, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(1))
    return pixels.float() / 255


@pytest.fixture(scope="module")
def reference(loaded, photos):
    return Reference(photos)


@pytest.fixture(scope="module")
def subject(loaded, photos):
    with torch.inference_mode():
        return loaded.encoder.encode(photos, "dog")


class Reference:
    """The plain loop's modules and latents."""

    def __init__(self, photos):
        self.modules = reference_modules(CONFIG, seed=41)
        pixels = photos.permute(0, 3, 1, 2) * 2 - 1
        with torch.no_grad():
            self.latents = self.modules["vae"].encode(pixels).latent_dist.mean * 0.18215

    def context(self, vectors):
        """Text encoder's output for the unpadded caption with the vectors spliced in, `[1, 20, W]`."""
        clip = self.modules["text_encoder"]
        ids = torch.tensor([CAPTION[:SUBJECT_PLACE] + [0] * 16 + CAPTION[SUBJECT_PLACE:]])

        def splice(module, inputs, output):
            return torch.cat([output[:, :SUBJECT_PLACE], vectors, output[:, SUBJECT_PLACE + 16 :]], 1)

        hook = clip.get_input_embeddings().register_forward_hook(splice)
        try:
            return clip(input_ids=ids).last_hidden_state
        finally:
            hook.remove()

    def train(self, unet, weights, factors, vectors, steps):
        """Plain AdamW; returns the gradients of the first step."""
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
        )
        everything = [vectors, *weights]
        optimiser = torch.optim.AdamW(
            [
                {"params": [p for p in everything if p.ndim > 1], "lr": RATE},
                {"params": [p for p in everything if p.ndim < 2], "lr": RATE, "weight_decay": 0.0},
                {"params": factors, "lr": LORA_RATE * RATE},
            ],
            betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
        )  # fmt: skip
        stream = draws(len(self.latents), BATCH, tuple(self.latents.shape[1:]), SEED)
        gradients = None
        for _ in range(steps):
            draw = next(stream)
            noisy = scheduler.add_noise(self.latents[draw.pictures], draw.noise, draw.timesteps)
            context = self.context(vectors).repeat(BATCH, 1, 1)
            loss = torch.nn.functional.mse_loss(unet(noisy, draw.timesteps, context).sample, draw.noise)
            optimiser.zero_grad()
            loss.backward()
            if gradients is None:
                gradients = [p.grad.clone() for p in (vectors, *weights, *factors)]
            optimiser.step()
        return gradients


@pytest.fixture
def tune(comfy, loaded, subject, photos):
    node = comfy.node("SubjectFinetune").PREPARE_CLASS_CLONE({"hidden_inputs": {}})

    def run(method, steps):
        with torch.inference_mode():
            result = node.execute(
                loaded.model, loaded.clip, loaded.vae, subject, photos, method, steps, RATE, BATCH, RANK, SEED,
                resolution=SIDE, preview_every=0, precision="fp32",
            ).result  # fmt: skip
        return result[0], result[1]

    return run


def host_names(comfy):
    """diffusers' name of each weight -> the host's."""
    config = comfy.module("nodes.host.unet").host_config(CONFIG.unet)
    return {canonical: f"diffusion_model.{name}" for canonical, name in comfy.utils.unet_to_diffusers(config).items()}


def relative(found, expected):
    """Over all tensors together."""
    difference = torch.stack([(a - b).norm() for a, b in zip(found, expected, strict=True)]).norm()
    return float(difference / torch.stack([b.norm() for b in expected]).norm())


def changes(model):
    """Patches of a tuned MODEL as whole changes of its weights."""
    patches = {}
    for key, entries in model.patches.items():
        (strength, patch, *_) = entries[-1]
        assert strength == 1.0
        if isinstance(patch, tuple):
            patches[key] = patch[1][0]
        else:
            up, down, alpha = patch.weights[:3]
            patches[key] = alpha / len(down) * up @ down
    return patches


@pytest.mark.parametrize("steps", [1, 3])
def test_full_steps_equal_the_plain_loop(reference, tune, subject, steps, comfy):
    unet = reference.modules["unet"].requires_grad_(False)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    vectors = torch.nn.Parameter(subject.embeddings.clone())
    reference.train(unet.requires_grad_(True), list(unet.parameters()), [], vectors, steps)
    expected = {name: p.detach() - before[name] for name, p in unet.named_parameters()}
    unet.requires_grad_(False).load_state_dict(before)

    model, tuned = tune("full", steps)
    found, names = changes(model), host_names(comfy)
    assert found.keys() == {names[name] for name in expected}
    error = relative([found[names[name]] for name in expected], list(expected.values()))
    assert error < STEP_TOLERANCE
    moved = vectors.detach() - subject.embeddings
    assert moved.norm() > 0 and relative([tuned.embeddings - subject.embeddings], [moved]) < STEP_TOLERANCE


@pytest.mark.parametrize("steps", [1, 3])
def test_lora_steps_equal_the_plain_loop(reference, tune, subject, comfy, loaded, steps):
    model, tuned = tune("lora", steps)
    start = tuner_of(comfy, loaded, subject, "lora", reference.latents)
    unet, names = reference.modules["unet"].requires_grad_(False), host_names(comfy)
    pairs = {}
    for name, layer in start._layers.items():
        pairs[f"diffusion_model.{name}.weight"] = (layer.up.detach().clone(), layer.down.detach().clone())
    factors, hooks, kept = [], [], {}
    for name, module in unet.named_modules():
        key = names.get(f"{name}.weight")
        if key in pairs:
            up, down = (torch.nn.Parameter(p) for p in pairs[key])
            kept[key] = (up, down)
            factors += [up, down]
            hooks.append(module.register_forward_hook(lambda m, i, o, up=up, down=down: o + i[0] @ down.T @ up.T))
    assert kept.keys() == pairs.keys() == changes(model).keys()
    vectors = torch.nn.Parameter(subject.embeddings.clone())
    reference.train(unet, [], factors, vectors, steps)
    for hook in hooks:
        hook.remove()
    expected = [up.detach() @ down.detach() for up, down in kept.values()]
    found = changes(model)
    assert relative([found[key] for key in kept], expected) < STEP_TOLERANCE
    assert relative([tuned.embeddings - subject.embeddings], [vectors.detach() - subject.embeddings]) < STEP_TOLERANCE


def tuner_of(comfy, loaded, subject, method, latents):
    """The tuner that the node builds, before its first step."""
    copies, run = (
        comfy.module("nodes.host.blip_diffusion.finetuning.copies"),
        comfy.module("nodes.host.blip_diffusion.finetuning.run"),
    )
    device = torch.device("cpu")
    with torch.inference_mode(False):
        unet = copies.copy_unet(loaded.model, device)
        encoder = copies.copy_text_encoder(loaded.clip, device)
        caption = run.SubjectCaption(encoder, CAPTION[1:-1])
        settings = run.FinetuneSettings(
            method=method, steps=1, learning_rate=RATE, batch_size=BATCH, rank=RANK, seed=SEED
        )
        pictures = run.TrainingPictures(latents)
        predict, table = copies.predict_with(unet), run.alphas_bar(loaded.model)
        return run.Tuner(unet, predict, caption, subject.embeddings, pictures, settings, table)


def test_gradients_equal_the_plain_loop(comfy, reference, loaded, subject, monkeypatch):
    unet = reference.modules["unet"].requires_grad_(True)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    vectors = torch.nn.Parameter(subject.embeddings.clone())
    expected = reference.train(unet, list(unet.parameters()), [], vectors, 1)
    expected = dict(zip(["vectors", *before], expected, strict=True))
    unet.requires_grad_(False).load_state_dict(before)

    tuner = tuner_of(comfy, loaded, subject, "full", reference.latents)
    gradients = {}

    def record(*_):
        own = dict(zip(tuner._names, tuner._masters.masters, strict=True))
        gradients.update({f"diffusion_model.{name}": p.grad.clone() for name, p in own.items()})
        gradients["vectors"] = tuner.vectors.grad.clone()

    monkeypatch.setattr(tuner._optimiser, "step", record)
    tuner.run()
    names = host_names(comfy) | {"vectors": "vectors"}
    assert relative([gradients["vectors"]], [expected["vectors"]]) < GRADIENT_TOLERANCE
    assert relative([gradients[names[name]] for name in expected], list(expected.values())) < GRADIENT_TOLERANCE


def test_the_copy_computes_what_the_host_computes(comfy, loaded):
    """Also with a LoRA on the MODEL: the copy holds the weights that sampling would use."""
    copies = comfy.module("nodes.host.blip_diffusion.finetuning.copies")
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 600]), torch.randn(2, 20, WIDTH)
    patched = loaded.model.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    patched.add_patches({key: ("diff", (torch.randn(32, WIDTH),))})
    for model in (loaded.model, patched):
        with torch.inference_mode(False), torch.no_grad():
            unet = copies.copy_unet(model, torch.device("cpu"))
            found = copies.predict_with(unet)(x, t, context)
        with torch.inference_mode():
            comfy.model_management.load_models_gpu([model])
            expected = model.model.diffusion_model(x, t, context=context)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_text_copy_computes_what_the_host_computes(comfy, loaded):
    """With clip skip too; vectors at index 2 of a padded prompt."""
    copies, run = (
        comfy.module("nodes.host.blip_diffusion.finetuning.copies"),
        comfy.module("nodes.host.blip_diffusion.finetuning.run"),
    )
    vectors = torch.randn(1, 16, WIDTH)
    rows = [(49406, 1.0), (320, 1.0), *[(v, 1.0) for v in vectors[0]], (1929, 1.0), *[(49407, 1.0)] * 58]
    for skip in (None, -1, -2):
        clip = loaded.clip.clone()
        clip.clip_layer(skip)
        with torch.inference_mode():
            expected = clip.encode_from_tokens({"l": [rows]})
        with torch.inference_mode(False), torch.no_grad():
            encoder = copies.copy_text_encoder(clip, torch.device("cpu"))
            found = run.SubjectCaption(encoder, [320, 1929], padded=True)(vectors)
        torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-5 * float(expected.abs().max()))
