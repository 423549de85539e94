"""Nothing mixes the computer's memory with the GPU's, shown without a GPU: encoder, prompt, sampling, attention maps
and control, inversion and fine-tuning run on fake tensors of "cuda". And how often a step asks a tensor for its value.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch
from asked_values import count_asked
from fake_device import Waits, fake_gpu, zeros
from tiny_model import CONFIG, PIECES, WIDTH, canonical, reference_modules

from blipdiff_impl.attention.maps import MapRecord
from blipdiff_impl.attention.probabilities import apply_probabilities, probabilities
from blipdiff_impl.attention.regions import Regions
from blipdiff_impl.blip_diffusion import pipeline as pipelines
from blipdiff_impl.blip_diffusion.editing.blend import WordMaps, column_map, mix
from blipdiff_impl.blip_diffusion.editing.control import Columns, refine
from blipdiff_impl.blip_diffusion.editing.inversion import invert
from blipdiff_impl.blip_diffusion.encoder import SubjectEncoder
from blipdiff_impl.blip_diffusion.finetuning import plain
from blipdiff_impl.blip_diffusion.finetuning.pictures import TrainingPictures
from blipdiff_impl.blip_diffusion.finetuning.plain import encode_pictures, make_tuner, with_learned
from blipdiff_impl.blip_diffusion.finetuning.settings import METHODS, FinetuneSettings
from blipdiff_impl.blip_diffusion.finetuning.tuner import Tuner
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.blip_diffusion.text import encode_subject
from blipdiff_impl.prompts.alignment import Alignment
from blipdiff_impl.prompts.rows import compose
from blipdiff_impl.stable_diffusion.text_encoder import TextEncoder
from blipdiff_impl.training import draws

TEXT, CELLS, HEADS = 77, 64, 2


@pytest.fixture
def gpu():
    """`gpu.pipeline()`: the tiny model with all its weights on the GPU that is not there."""
    modules = reference_modules(CONFIG)
    text_encoder = TextEncoder.from_canonical(CONFIG.text_encoder, canonical("text_encoder", modules["text_encoder"]))
    with fake_gpu() as to_gpu:
        encoder = SubjectEncoder(to_gpu(modules["subject_encoder"]), PIECES, "fingerprint")
        pipeline = SubjectPipeline(
            CONFIG, encoder, to_gpu(text_encoder), to_gpu(modules["unet"]), to_gpu(modules["vae"])
        )
        yield SimpleNamespace(pipeline=pipeline, encoder=encoder)


def subject(vectors=1):
    """What a `Subject` holds, which lies in the computer's memory; its own checks would ask for values."""
    return SimpleNamespace(
        embeddings=zeros(vectors, 16, WIDTH),
        width=WIDTH,
        num_tokens=16,
        category="mug",
        source="",
        encoder_fingerprint="",
    )


def test_a_mix_of_devices_is_found():
    with fake_gpu():
        with pytest.raises(RuntimeError, match="cuda.*cpu|cpu.*cuda"):
            zeros(3, device="cuda") + zeros(3)
        with pytest.raises(Exception, match="local_scalar"):
            float(zeros(1, device="cuda"))
        there = zeros(3, device="cuda")
        with Waits() as waits:
            there.to(zeros(3)), zeros(3).to(there), there + 1
        assert waits.seen == ["_to_copy"]


def test_a_photo_becomes_vectors_in_the_computers_memory(gpu):
    ids = torch.ones(1, 3, dtype=torch.long)
    vectors = gpu.encoder._forward(zeros(32, 32, 3), ids)
    assert vectors.shape == (1, 16, WIDTH) and vectors.device.type == "cpu"
    padded = gpu.encoder.module(zeros(1, 3, 32, 32, device="cuda"), ids.cuda(), ids.cuda())  # as pre-training does
    assert padded.device.type == "cuda"


def test_a_prompt_with_subjects_is_encoded_and_drawn(gpu, monkeypatch):
    """Two subjects in a batch, guidance above 1, prompts of different lengths. The schedule is not diffusers'."""
    timeline = SimpleNamespace(
        timesteps=torch.tensor([981, 1]), step=lambda noise, t, latents: SimpleNamespace(prev_sample=latents - noise)
    )
    monkeypatch.setattr(pipelines, "make_scheduler", lambda name, steps: timeline)
    context = encode_subject(gpu.pipeline.text_encoder, compose("on the beach", "mug"), subject(2))
    long = encode_subject(gpu.pipeline.text_encoder, compose("[subject] " + "a mug " * 60, "mug"), subject(2))
    empty = gpu.pipeline.text_encoder.encode_plain("blurry")
    assert context.device.type == "cuda" and long.shape[1] > context.shape[1]
    for each in (context, long):
        latents = gpu.pipeline.denoise(zeros(2, 4, 8, 8), each, empty, 2, 7.5)
        assert latents.device.type == "cuda"
    assert gpu.pipeline.decode(latents).device.type == "cpu"


@pytest.mark.parametrize(
    ("method", "precision", "rich"),
    [("full", "fp32", False), ("full", "bf16", True), ("lora", "bf16", True), ("vectors", "fp32", True)],
)
def test_fine_tuning(gpu, monkeypatch, method, precision, rich):
    """The loss, and all that follows on the gradients. Rich: mirrored, masked, averaged, with pictures of the class."""
    monkeypatch.setattr(Tuner, "_value", lambda tuner, loss: 1.0)  # the one question of a step
    # The order of the photos is drawn in the computer's memory, as numbers that fake tensors do not have.
    monkeypatch.setattr(draws, "_rounds", lambda count, generator: itertools.cycle(range(count)))
    # A copy of a fake tensor belongs to a copy of its mode; this model is not used again.
    monkeypatch.setattr(plain, "copy", SimpleNamespace(deepcopy=lambda module: module))
    settings = FinetuneSettings(method=method, steps=2, rank=2, flip=rich, ema_decay=0.9 * rich, background_weight=0.5)
    weights = zeros(3, 1, 8, 8) if rich else None
    pictures = TrainingPictures(zeros(3, 4, 8, 8), zeros(3, 4, 8, 8) if rich else None, weights)
    tuner = make_tuner(gpu.pipeline, subject(), pictures, settings, pictures if rich else None, precision)

    def backward(loss):
        """Autograd's engine asks the driver for the device; gradients lie where their weights do."""
        assert loss.device.type == "cuda"
        for weight in (*tuner._trained, *tuner._masters._working):
            weight.grad = torch.zeros_like(weight)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    tuner.run()
    learned = tuner.learned()
    assert learned.vectors.device.type == "cuda" and len(tuner.losses) == 2
    tuned = with_learned(gpu.pipeline, learned)
    assert {weight.device.type for weight in tuned.unet.parameters()} == {"cuda"}


def test_photos_to_latents(gpu):
    pictures = encode_pictures(gpu.pipeline, zeros(2, 64, 64, 3), FinetuneSettings(flip=True, background_weight=0.3))
    assert pictures.latents.device.type == pictures.mirrored.device.type == "cuda"
    masked = encode_pictures(
        gpu.pipeline, zeros(2, 64, 64, 3), FinetuneSettings(background_weight=0.3), zeros(2, 64, 64)
    )
    assert masked.weights.device.type == "cuda"


def layer(dtype=torch.float16):
    """Queries and keys of a cross-attention layer, a source and its edit."""
    return zeros(2, CELLS, 32, device="cuda", dtype=dtype), zeros(2, TEXT, 32, device="cuda", dtype=dtype)


def test_attention_control():
    alignment = lambda: Alignment(torch.arange(TEXT), torch.ones(TEXT))  # noqa: E731
    with fake_gpu():
        q, k = layer()
        probs = probabilities(q, k, HEADS, zeros(2, CELLS, TEXT, device="cuda"))
        columns = Columns(alignment(), (3, 4), (5,), zeros(TEXT))
        for known in (columns, columns.repeated(1), columns.extended(TEXT)):
            edit = refine(probs[:1], probs[1:], known, follow=True)
        assert (
            apply_probabilities(
                edit,
                zeros(1, TEXT, 32, device="cuda", dtype=q.dtype),
            ).dtype
            == q.dtype
        )
        words = WordMaps()
        for area in (None, (4, 8, 0, 0)):
            words.add(*(column_map(probs[i : i + 1], columns.edit_words, (8, 8)) for i in (0, 1)), area)
        mask = words.mask((8, 8), 0.3)
        assert mix(zeros(1, 4, 8, 8, device="cuda"), zeros(1, 4, 8, 8, device="cuda"), mask).device.type == "cuda"


def test_attention_maps():
    with fake_gpu():
        record = MapRecord((("subject", (1, 2, 3)), ("mug", (4,))))
        q, k = layer()
        record.add(q, k, HEADS, (8, 8), TEXT, zeros(2, CELLS, TEXT, device="cuda"))
        record.add(q[:, :16], k, HEADS, (4, 4), TEXT)
        apart = record.apart(2)
        assert [each.maps((64, 64)).device.type for each in apart] == ["cpu", "cpu"]
        assert record.maps((64, 64)).device.type == "cuda"


@pytest.mark.parametrize("repetitions", [0, 4])
def test_inversion(monkeypatch, repetitions):
    """DDIM waits for nothing; a repetition asks whether it has come to rest, which fake tensors do not know."""
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: 1.0)
    with fake_gpu(), Waits() as waits:
        sigmas = [0.0, 1.0, 2.0]
        states = invert(lambda x, sigma: x * 0.5, zeros(1, 4, 8, 8, device="cuda"), sigmas, repetitions)
    assert [state.device.type for state in states] == ["cuda"] * 3 and waits.seen == []


def scene():
    """Two subjects beside each other in prompts of two pictures, in the computer's memory as nodes leave them."""
    masks = zeros(1, 64, 64), zeros(2, 32, 32)
    return Regions(TEXT, ((3, 19, 0), (20, 36, 1)), masks)


@pytest.mark.parametrize("area", [None, (4, 8, 0, 0)])
def test_regions(area):
    with fake_gpu():
        q, k = layer()
        bias = scene().bias((8, 8), (8, 8), area)
        with Waits() as waits:
            probs = probabilities(q, k, HEADS, bias.to(q))
        assert bias.shape == (2, CELLS, TEXT) and probs.device.type == "cuda" and waits.seen == []


def test_regions_in_a_layer_of_the_host(comfy, monkeypatch):
    """The bias is made once, and then used again on the GPU. There the host attends by PyTorch's kernels."""
    from comfy.ldm.modules.attention import attention_pytorch

    attention, regions, tags = (
        comfy.module(f"nodes.host.{name}") for name in ("attention", "regions", "conditioning_tags")
    )
    monkeypatch.setattr(attention, "optimized_attention_masked", attention_pytorch)
    biases, entry = regions.RegionBiases(), (attention.POSITIVE, "entry")
    options = {"original_shape": (2, 4, 8, 8), "activations_shape": (2, 32, 8, 8), "attn_precision": None}
    call = attention.AttentionCall(("input", 1, 0), HEADS, (0,), (entry,), 2, CELLS, options)
    with fake_gpu():
        biases._finder._found[entry] = tags.Tagged(scene(), TEXT, (8, 8), None)
        q, k = layer()
        control = regions.RegionControl(biases)
        for _ in range(2):
            with Waits() as waits:
                outputs = control(
                    call, q, k, k, lambda q, k, v, changes: [change(q[r], k[r], v[r]) for r, change in changes]
                )
            (output,) = outputs
            assert (output.device.type, output.dtype) == ("cuda", q.dtype) and waits.seen == []


def edits():
    """Without a mask of the user's, and with one in each way that it can count."""
    yield {}
    yield from ({"mask_mode": mode} for mode in ("replace", "intersect", "add"))


@pytest.mark.parametrize("changes", edits())
def test_the_blend_of_an_edit(comfy, changes):
    editing = "nodes.host.blip_diffusion.editing"
    run, options = comfy.module(f"{editing}.run"), comfy.module(f"{editing}.options")
    moment = comfy.module("nodes.host.run_clock").Moment(1.0, 5, 10)
    with fake_gpu():
        settings = options.EditSettings(mask=zeros(1, 64, 64) if changes else None, **changes)
        one = run._Run(settings, (8, 8), {("input", 1): 0}, None)
        one.maps.add(*(zeros(1, 8, 8, device="cuda") for _ in range(2)))
        latent = zeros(1, 4, 8, 8, device="cuda", dtype=torch.float16)
        with Waits() as waits:
            blended = one.blended(latent, latent, moment)
        assert (blended.device.type, blended.dtype) == ("cuda", latent.dtype) and waits.seen == []
        editor = run.Editor(settings)
        editor._clock._schedule = [1.0, 0.0]
        assert editor._finished(blended, one).device.type == "cuda"
        assert one.final_mask(1).device.type == "cpu"


def test_inversion_asks_once_a_repetition(monkeypatch):
    """Whether another evaluation of the UNet is worth it: at most four times a step as the node is set, with DDIM
    never."""
    noise, evaluated = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), []

    def denoise(x, sigma):
        evaluated.append(sigma)
        return x - sigma * noise.tanh() * x.sin()

    asked = count_asked(monkeypatch)
    for repetitions in (0, 4):
        asked.clear(), evaluated.clear()
        invert(denoise, noise, [0.0, 1.0, 2.0, 3.0], repetitions)
        assert asked == ["__float__"] * (len(evaluated) - 3) and len(asked) <= 3 * repetitions
    assert asked


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_fine_tuning_asks_for_one_value(monkeypatch, method):
    modules = reference_modules(CONFIG)
    text_encoder = TextEncoder.from_canonical(CONFIG.text_encoder, canonical("text_encoder", modules["text_encoder"]))
    pipeline = SubjectPipeline(CONFIG, None, text_encoder, modules["unet"], modules["vae"])
    settings = FinetuneSettings(method=method, steps=3, rank=2, flip=True, ema_decay=0.9, learning_rate=1e-4)
    pictures = TrainingPictures(torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.rand(4, 1, 8, 8))
    one = subject()
    one.embeddings = torch.randn(1, 16, WIDTH)
    tuner = make_tuner(pipeline, one, pictures, settings, precision="bf16")
    tuner._step()  # whatever is made at the first use
    next_draw = tuner._draws.__next__

    def drawn():
        """Which pictures come next is drawn in the computer's memory."""
        before = len(asked)
        draw = next_draw()
        del asked[before:]
        return draw

    monkeypatch.setattr(tuner, "_draws", iter(drawn, None))
    asked = count_asked(monkeypatch)
    tuner._step()
    tuner._step()
    monkeypatch.undo()
    assert asked == ["__float__"] * 2 and len(tuner.losses) == 3
