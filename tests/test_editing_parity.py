"""Edit with Subject in the real host against the same edit done slowly on diffusers' UNet (tests/slow_editing.py).

The released structure in small widths, random weights, ten Euler steps, the same noise and noise levels. What the words
of a prompt are, which column belongs to which, and how many steps a share is, stands here by hand.
"""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from slow_editing import NEW, Edit, encode, first_mask, run
from tiny_model import CONFIG, PIECES, WIDTH, canonical, reference_modules

from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.prompts.tokenizers import clip_ids
from blipdiff_impl.stable_diffusion.config import UNetConfig

# Of the largest value. The promise is 1e-3; float32 against float64 gives up to 3e-6 here, and an attention schedule
# that is wrong by one late step gives 2e-4, so a tenth of the promise tells the two apart.
TOLERANCE = 1e-4
# What an edit must differ from its source by, of the largest value: 500 times as much (without guidance the least).
APART = 0.05
# No cell may be so near the threshold (of the range of its map) that rounding decides on which side it is;
# the seed and the thresholds are chosen so.
MARGIN = 1e-5
STEPS, SEED, SCALE, VECTORS = 10, 18, 0.18215, 16
WIDEST = torch.tensor(14.6146)  # the noise level that every schedule begins at
RELEASED_STRUCTURE = replace(
    CONFIG,
    unet=UNetConfig(
        block_out_channels=(32, 32, 64, 64), layers_per_block=2, attention_levels=(True, True, True, False),
        cross_attention_dim=WIDTH, num_attention_heads=4,
    ),
)  # fmt: skip
LEFT = torch.zeros(128, 128)
LEFT[16:112, :64] = 1
SOFT = torch.zeros(128, 128)
SOFT[:, :60] = 1  # half a latent's cell at its border


@dataclass(frozen=True)
class Case:
    """Inputs of the node, and what is to be expected of them.

    Attributes:
        node: inputs of Edit with Subject.
        source, target: the prompts that the text encoder reads; in the target, words before and after the vectors.
        plan: what the slow edit does.
        subject: whether there are vectors.
        size: height and width of the latents.
        pictures: how many, each with a subject of its own.
        denoise: below 1 starts from a picture.
    """

    node: dict
    source: str
    target: tuple[str, str]
    plan: Edit
    subject: bool = False
    size: tuple[int, int] = (16, 16)
    cfg: float = 5.0
    negative: str = ""
    pictures: int = 1
    denoise: float = 1.0


SUBJECT_COLUMNS = tuple(range(2, 2 + VECTORS))
# a cat on a sofa -> a dog on a sofa
SWAP = {"source_category": "cat", "target_category": "dog", "prompt": "on a sofa"}
SWAPPED = [0, 1, NEW, 3, 4, 5, 6]
# a cat on a sofa -> a <16 vectors> dog on a sofa
SPLICED = [0, 1, *[NEW] * VECTORS, NEW, 3, 4, 5, 6]
MASKED = {"source_words": (2,), "threshold": 0.6}


def swap(node=None, **others):
    """A word instead of a word."""
    plan = Edit(SWAPPED, **others.pop("plan", {}))
    return Case({**SWAP, **(node or {})}, "a cat on a sofa", ("a dog on a sofa", ""), plan, **others)


def splice(node=None, **others):
    """A subject instead of a word."""
    plan = Edit(SPLICED, **others.pop("plan", {}))
    return Case({**SWAP, **(node or {})}, "a cat on a sofa", ("a", "dog on a sofa"), plan, subject=True, **others)


BLENDED = {"edit_words": (*SUBJECT_COLUMNS, 18), **MASKED}
CASES = {
    "replacement": swap({"cross_replace": 1.0}, plan={"cross_steps": 10}),
    "replacement for a share": swap({"cross_replace": 0.4}, plan={"cross_steps": 4}),
    "refinement": Case(
        {**SWAP, "cross_replace": 0.8, "target_prompt": "asleep on a big red sofa", "target_category": "cat"},
        "a cat on a sofa",
        ("a cat asleep on a big red sofa", ""),
        Edit([0, 1, 2, NEW, 3, 4, NEW, NEW, 5, 6], cross_steps=8),
    ),
    "words left out": Case(
        {**SWAP, "cross_replace": 0.8, "prompt": "on a big red sofa", "target_prompt": "on a sofa"},
        "a cat on a big red sofa",
        ("a dog on a sofa", ""),
        Edit([0, 1, NEW, 3, 4, 7, 8], cross_steps=8),
    ),
    "several tokens": Case(
        {
            "source_category": "teddy bear", "target_category": "t-shirt", "prompt": "on a sofa, a sofa",
            "cross_replace": 0.8, "blend": True,
        },
        "a teddy bear on a sofa, a sofa",
        ("a t-shirt on a sofa, a sofa", ""),
        Edit(
            [0, 1, NEW, NEW, NEW, 4, 5, 6, 7, 8, 9, 10], cross_steps=8,
            source_words=(2, 3), edit_words=(2, 3, 4), threshold=0.6,
        ),
    ),
    "reweighting": swap(
        {"cross_replace": 0.6, "reweight": "sofa: 3, dog: 0.5"}, plan={"cross_steps": 6, "weights": {5: 3, 2: 0.5}}
    ),
    "reweighting alone": splice({"reweight": "[subject]: 2"}, plan={"weights": dict.fromkeys(SUBJECT_COLUMNS, 2)}),
    "self-attention for a share": splice({"self_replace": 0.3}, plan={"self_steps": 3}),
    "subject": splice(
        {"cross_replace": 0.8, "self_replace": 0.4}, plan={"cross_steps": 8, "self_steps": 4}
    ),
    "subject, guidance 1": splice(
        {"cross_replace": 0.8, "self_replace": 0.4}, cfg=1.0, plan={"cross_steps": 8, "self_steps": 4}
    ),
    "subject for the same word": Case(
        {**SWAP, "source_category": "dress", "target_category": "dress", "cross_replace": 0.8, "blend": True},
        "a dress on a sofa",
        ("a", "dress on a sofa"),
        Edit([0, 1, *[NEW] * VECTORS, 2, 3, 4, 5, 6], cross_steps=8, **BLENDED),
        subject=True,
    ),
    "mask from words": swap(
        {"blend": True, "cross_replace": 0.4},
        plan={"cross_steps": 4, "edit_words": (2,), **MASKED},
    ),
    "mask, subject": splice(
        {"blend": True, "cross_replace": 0.8, "self_replace": 0.4},
        plan={"cross_steps": 8, "self_steps": 4, **BLENDED},
    ),
    "mask, large, guidance 1": splice(
        {"blend": True, "cross_replace": 0.8, "blend_threshold": 0.5},
        size=(32, 32), cfg=1.0, plan={"cross_steps": 8, **BLENDED, "threshold": 0.5},
    ),
    "mask, wide": splice(
        {"blend": True, "cross_replace": 0.8, "self_replace": 0.4},
        size=(16, 24), plan={"cross_steps": 8, "self_steps": 4, **BLENDED},
    ),
    "mask, odd sides": splice(
        {"blend": True, "cross_replace": 0.8, "self_replace": 0.4},
        size=(19, 13), plan={"cross_steps": 8, "self_steps": 4, **BLENDED},
    ),
    "mask, later and more words": splice(
        {"blend": True, "cross_replace": 0.4, "blend_start": 0.3, "blend_words": "sofa", "reweight": "dog: 2"},
        plan={
            "cross_steps": 4, "blend_from": 3, "weights": {18: 2}, "source_words": (2, 5),
            "edit_words": (*SUBJECT_COLUMNS, 18, 21), "threshold": 0.6,
        },
    ),
    "mask, long negative": splice(
        {"blend": True, "cross_replace": 0.8, "reweight": "sofa: 2"},
        negative="bad " * 80,  # makes the host repeat the shorter prompts
        plan={"cross_steps": 8, "weights": {21: 2}, **BLENDED},
    ),
    "mask, two pictures": splice(
        {"blend": True, "cross_replace": 0.8}, pictures=2, plan={"cross_steps": 8, **BLENDED}
    ),
    "mask, from a picture": splice(
        {"blend": True, "cross_replace": 0.8}, denoise=0.6, plan={"cross_steps": 8, **BLENDED}
    ),
    "fixed mask is the textbook's blend": splice(
        {"blend": True, "mask": LEFT, "cross_replace": 0.8}, plan={"cross_steps": 8, "mask": LEFT, "textbook": True}
    ),
    "fixed mask, soft": splice(
        {"blend": True, "mask": SOFT, "cross_replace": 0.8}, plan={"cross_steps": 8, "mask": SOFT}
    ),
    "both masks": splice(
        {"blend": True, "mask": LEFT, "mask_mode": "intersect", "cross_replace": 0.8},
        plan={"cross_steps": 8, "mask": LEFT, "join": "intersect", **BLENDED},
    ),
    "either mask": splice(
        {"blend": True, "mask": LEFT, "mask_mode": "add", "blend_threshold": 0.7, "cross_replace": 0.8},
        plan={"cross_steps": 8, "mask": LEFT, "join": "add", **BLENDED, "threshold": 0.7},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    """Text encoder and UNet of the libraries, with attention that looks at some words much more than at others."""
    modules = reference_modules(RELEASED_STRUCTURE, seed=29)
    for name, parameter in modules["unet"].named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
            parameter.mul_(2.5)
    return modules


@pytest.fixture(scope="module")
def loaded(comfy, reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "small.safetensors"
    write_single_file(path, {n: canonical(n, m) for n, m in reference.items()}, RELEASED_STRUCTURE, PIECES)
    source = comfy.module("nodes.host.blip_diffusion.sources").Source(str(path))
    with torch.inference_mode():
        return comfy.module("nodes.host.blip_diffusion.loader").load_model(source, "fp32")


@pytest.fixture(scope="module")
def slow(reference):
    """The slow edit as a function: one `Outcome` for each picture."""
    unet = copy.deepcopy(reference["unet"]).double()

    def outcomes(case, noise, sigmas):
        return [
            run(unet, texts(reference["text_encoder"], case, i), noise[i : i + 1], start_of(case, i), sigmas, case.cfg,
                case.plan)
            for i in range(case.pictures)
        ]  # fmt: skip

    return outcomes


def vectors_of(case):
    return torch.randn(case.pictures, VECTORS, WIDTH, generator=torch.Generator().manual_seed(4))


def picture(case):
    """Latents to start from, in the VAE's scale."""
    size = (case.pictures, 4, *case.size)
    return 5 * torch.randn(size, generator=torch.Generator().manual_seed(8)) if case.denoise < 1 else torch.zeros(size)


def start_of(case, index):
    return picture(case)[index : index + 1] * SCALE if case.denoise < 1 else None


@torch.no_grad()
def texts(text_encoder, case, index):
    before, after = (clip_ids(part) for part in case.target)
    vectors = vectors_of(case)[index] if case.subject else None
    slots = [0] * VECTORS if case.subject else []
    return {
        "source": encode(text_encoder, clip_ids(case.source)),
        "edit": encode(text_encoder, [*before, *slots, *after], vectors, 1 + len(before)),
        "negative": encode(text_encoder, clip_ids(case.negative) or [49407]),
    }


def noise_and_sigmas(comfy, model, case):
    """What the host's KSampler starts with and goes through."""
    import comfy.sample
    import comfy.samplers

    noise = comfy.sample.prepare_noise(torch.zeros(case.pictures, 4, *case.size), SEED, range(case.pictures))
    sampling = model.get_model_object("model_sampling")
    total = int(STEPS / case.denoise)
    return noise, comfy.samplers.calculate_sigmas(sampling, "normal", total)[-(STEPS + 1) :]


def host_edit(comfy, loaded, case, steps=STEPS):
    """Latents `[2 * pictures, 4, h, w]` in the UNet's scale, and the mask `[pictures, h, w]` in cells."""
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject
    subject = Subject(vectors_of(case), "dog", "f", "a test") if case.subject else None
    inputs = {"cross_replace": 0.0, "self_replace": 0.0, "blend_threshold": 0.6, "blend": False, **case.node}
    latent = {"samples": picture(case)}
    with torch.inference_mode():
        model, *rest = comfy.node("SubjectP2PEdit").execute(
            loaded.model, loaded.clip, latent, negative=case.negative, subject=subject, **inputs
        ).result  # fmt: skip
        samples = comfy.nodes.common_ksampler(
            model, SEED, steps, case.cfg, "euler", "normal", *rest, denoise=case.denoise
        )[0]
        mask = comfy.node("SubjectEditResult").execute(model, samples).result[2]
    return samples["samples"] * SCALE, mask[:, ::8, ::8]


def distance(a, b):
    """The largest difference, of the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module")
def edited(comfy, loaded):
    """The host's edit of a case by its name; each is made once."""
    done = {}

    def find(name):
        if name not in done:
            done[name] = host_edit(comfy, loaded, CASES[name])
        return done[name]

    return find


@pytest.mark.parametrize("name", CASES)
def test_the_host_edits_like_the_slow_edit(comfy, loaded, slow, edited, name):
    found, masks = edited(name)
    outcomes = slow(CASES[name], *noise_and_sigmas(comfy, loaded.model, CASES[name]))
    assert len(found) == 2 * len(outcomes)
    for source, edit, mask, expected in zip(found[0::2], found[1::2], masks, outcomes, strict=True):
        assert expected.margin > MARGIN
        assert torch.equal(mask > 0, torch.ones_like(mask) > 0 if expected.mask is None else expected.mask > 0)
        assert distance(source, expected.source[0]) < TOLERANCE
        assert distance(edit, expected.edit[0]) < TOLERANCE
        assert distance(expected.edit, expected.source) > APART


@pytest.mark.parametrize(
    "size", [(64, 64), (32, 32), (48, 88), (65, 34)], ids=lambda size: f"{size[1] * 8}x{size[0] * 8}"
)
def test_the_mask_is_read_where_the_release_reads_it(comfy, loaded, reference, size):
    """Five layers, 16x16 each at 512x512, and never the middle block."""
    case = splice({"blend": True}, size=size, cfg=1.0, plan=BLENDED)
    found = host_edit(comfy, loaded, case, steps=1)[1][0]
    noise, _ = noise_and_sigmas(comfy, loaded.model, case)
    unet = copy.deepcopy(reference["unet"]).double()
    expected, margin = first_mask(unet, texts(reference["text_encoder"], case, 0), noise, WIDEST, case.plan)
    assert margin > MARGIN and 0.02 < expected.mean() < 0.98
    assert torch.equal(found > 0, expected > 0)


WRONG = {
    "one step more of cross-attention": ("replacement for a share", {"cross_steps": 5}),
    "one step less of cross-attention": ("replacement for a share", {"cross_steps": 3}),
    "one step more of self-attention": ("self-attention for a share", {"self_steps": 4}),
    "one step less of self-attention": ("self-attention for a share", {"self_steps": 2}),
    "the thing copied": ("replacement", {"copied": [0, 1, 2, 3, 4, 5, 6]}),
    "the end not copied": ("refinement", {"copied": [0, 1, 2, NEW, 3, 4, NEW, NEW, 5, NEW]}),
    "the release's shift by 16": ("subject", {"copied": [0, 1, *[NEW] * VECTORS, *range(18, 77)]}),
    "a weight forgotten": ("reweighting", {"weights": {5: 3}}),
    "a lower threshold": ("mask, subject", {"threshold": 0.55}),
    "only the source's word": ("mask, subject", {"edit_words": ()}),
    "a step too early": ("mask, later and more words", {"blend_from": 2}),
    "a soft mask on every step's latents": ("fixed mask, soft", {"textbook": True}),
}


@pytest.mark.parametrize(("name", "change"), WRONG.values(), ids=WRONG)
def test_a_small_mistake_is_seen(comfy, loaded, slow, edited, name, change):
    case = replace(CASES[name], plan=replace(CASES[name].plan, **change))
    wrong = slow(case, *noise_and_sigmas(comfy, loaded.model, case))[0]
    source, edit = edited(name)[0][:2]
    assert distance(source, wrong.source[0]) < TOLERANCE
    assert distance(edit, wrong.edit[0]) > 5 * TOLERANCE
