"""Several subjects in one prompt, in the real host: what the text encoder gets, what attention shows, what samplers do.

Masked attention is compared with explicit probabilities in float32: 1e-5 leaves room for another order of operations.
Runs that the host computes in other chunks add up in another order as well: 1e-4 of the largest value after 3 steps.
"""

from dataclasses import replace

import pytest
import torch
from tiny_model import CONFIG, WIDTH, host_clip, host_unet, reference_modules

EXACT, CHUNKED = 1e-5, 1e-4
SIZE = (8, 16)  # of the latent
PROMPT = "a {dog} chasing a {ball} in the snow"


@pytest.fixture(scope="module")
def parts():
    return reference_modules(CONFIG, seed=5)


@pytest.fixture(scope="module")
def clip(comfy, parts):
    return host_clip(comfy, parts["text_encoder"])


@pytest.fixture(scope="module")
def model(comfy, parts):
    return host_unet(comfy, parts["unet"])


@pytest.fixture(scope="module")
def make_subject(comfy):
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject

    def make(category="dog", count=1, seed=0, fingerprint="f", width=WIDTH):
        vectors = torch.randn(count, 16, width, generator=torch.Generator().manual_seed(seed))
        return Subject(vectors, category, fingerprint, "a test")

    return make


@pytest.fixture(scope="module")
def subjects(make_subject):
    return make_subject("dog", seed=1), make_subject("ball", seed=2)


@pytest.fixture
def scene(comfy, clip):
    """SubjectScene: conditioning and MODEL."""

    def run(prompt, *subjects, soft_edge=0, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectScene").execute(clip, prompt, *subjects, soft_edge=soft_edge, **inputs).result

    return run


@pytest.fixture
def sample(comfy, clip):
    def run(model, positive, negative=None, cfg=3.0, count=1, steps=3, batch_index=None, seed=4):
        latent = {"samples": torch.zeros(count, 4, *SIZE)}
        if batch_index is not None:
            latent["batch_index"] = batch_index
        with torch.inference_mode():
            negative = negative or comfy.node("CLIPTextEncode")().encode(clip, "")[0]
            arguments = (seed, steps, cfg, "euler", "normal", positive, negative, latent)
            return comfy.nodes.common_ksampler(model, *arguments)[0]["samples"]

    return run


def halves():
    left = torch.zeros(1, 64, 128)
    left[..., :64] = 1
    return {"mask_a": left, "mask_b": 1 - left}


# The halves as boxes, on a canvas of another size than the masks.
BOXES = {
    "box_a": {"x": 0, "y": 0, "width": 256, "height": 512},
    "box_b": [[{"x": 256, "y": 0, "width": 256, "height": 512}]],
}


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def spied(comfy, model, block=("input", 1)):
    """A clone of the MODEL that keeps q, k, v and the output of one cross-attention layer, evaluation by evaluation."""
    attention = comfy.module("nodes.host.attention")
    model, seen = model.clone(), []

    def spy(call, q, k, v, attend):
        out = attend(q, k, v)
        seen.append((call, q, k, v, out))
        return out

    attention.control_attention(model, attention.CROSS, spy, [block])
    return model, seen


def explicit(q, k, v, heads, bias):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2).double() for x in (q, k, v))
    probs = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias[:, None].double(), dim=-1)
    return (probs @ v).transpose(1, 2).flatten(2).float()


def test_one_subject_is_the_subject_prompt(comfy, clip, scene, subjects):
    with torch.inference_mode():
        expected = comfy.node("SubjectPromptInfix").execute(clip, subjects[0], "a [subject] dog in the snow")[0]
    assert torch.equal(scene("a {dog} in the snow", subjects[0])[0][0][0], expected[0][0])


def test_every_subject_of_one_prompt_counts(scene, subjects, make_subject):
    base = scene(PROMPT, *subjects)[0][0][0]
    assert base.shape == (1, 77, WIDTH)
    for changed in ((make_subject("dog", seed=9), subjects[1]), (subjects[0], make_subject("ball", seed=9))):
        assert not torch.equal(scene(PROMPT, *changed)[0][0][0], base)


def test_weights_and_long_prompts_work(scene, subjects):
    weighted = scene("a ({dog}:1.4) and a {ball}", *subjects)[0][0][0]
    plain = scene("a {dog} and a {ball}", *subjects)[0][0][0]
    assert not torch.equal(weighted[:, 2:19], plain[:, 2:19]) and torch.equal(weighted[:, 19:], plain[:, 19:])
    long = scene("snow " * 60 + "a {dog} and a {ball}" + " snow" * 60, *subjects)[0][0][0]
    assert long.shape == (1, 231, WIDTH)


def test_regions_add_one_row(scene, subjects, model):
    conditioning, _ = scene(PROMPT, *subjects, model=model, **halves())
    assert conditioning[0][0].shape == (1, 154, WIDTH)


def test_columns_of_a_subject_know_nothing_of_the_other(scene, subjects, model, make_subject):
    def columns(*subjects):
        return scene(PROMPT, *subjects, model=model, **halves())[0][0][0][0]

    base, other = columns(*subjects), columns(make_subject("dog", seed=9), subjects[1])
    changed = (base != other).any(dim=1).nonzero().flatten().tolist()
    assert changed == list(range(77, 77 + 17))  # 16 vectors and "dog", behind the prompt in words


def test_masked_attention_is_the_explicit_one(comfy, scene, subjects, model, sample):
    spy, seen = spied(comfy, model)
    conditioning, patched = scene(PROMPT, *subjects, model=spy, **halves())
    sample(patched, conditioning, steps=1)
    call, q, k, v, out = seen[0]
    shown = torch.zeros(len(q), q.shape[1], k.shape[1])
    left = (torch.arange(SIZE[0] * SIZE[1]) % SIZE[1] < SIZE[1] // 2)[:, None]
    words = conditioning[0][1]["blipdiffusion_columns"].words
    dog, ball = (dict(words)[word] for word in ("dog", "ball"))
    hidden = torch.zeros(q.shape[1], 154, dtype=torch.bool)
    hidden[:, [dog[0], *range(77, 94)]] = ~left
    hidden[:, [ball[0], *range(94, 111)]] = left
    hidden[:, 111:] = True
    rows = [row for kind, row in call.chunks(len(q)) if kind == 0]
    shown[rows[0], :, :154] = torch.where(hidden, -torch.inf, 0.0)
    assert relative(out, explicit(q, k, v, call.heads, shown)) < EXACT


def test_soft_masks_weigh_columns(comfy, scene, subjects, model, sample):
    """With a mask of 0.25 everywhere the subject's probabilities are a quarter, before normalisation."""
    spy, seen = spied(comfy, model)
    mask = torch.full((1, 64, 128), 0.25)
    conditioning, patched = scene("a {dog} in the snow", subjects[0], model=spy, mask_a=mask)
    sample(patched, conditioning, steps=1, cfg=1.0)
    call, q, k, v, out = seen[0]
    bias = torch.zeros(1, q.shape[1], 154)
    word = dict(conditioning[0][1]["blipdiffusion_columns"].words)["dog"][0]
    bias[..., [word, *range(77, 94)]] = torch.tensor(0.25).log()
    bias[..., 94:] = -torch.inf
    assert relative(out, explicit(q, k, v, call.heads, bias)) < EXACT


def test_a_subject_changes_nothing_outside_its_mask(comfy, scene, subjects, model, sample, make_subject):
    """At the first cross-attention layer, whose queries are the same in both runs."""
    outs = []
    for dog in (subjects[0], make_subject("dog", seed=9)):
        spy, seen = spied(comfy, model)
        conditioning, patched = scene(PROMPT, dog, subjects[1], model=spy, **halves())
        sample(patched, conditioning, steps=1)
        assert torch.equal(seen[0][1], outs[0][0]) if outs else True
        outs.append((seen[0][1], seen[0][4].unflatten(1, SIZE)))
    first, second = (out for _, out in outs)
    assert torch.equal(first[:, :, SIZE[1] // 2 :], second[:, :, SIZE[1] // 2 :])
    assert not torch.equal(first[:, :, : SIZE[1] // 2], second[:, :, : SIZE[1] // 2])


def test_masks_that_are_all_white_are_none(scene, subjects, model):
    white = torch.ones(1, 64, 128)
    plain, same = scene(PROMPT, *subjects, model=model)
    masked, unpatched = scene(PROMPT, *subjects, model=model, mask_a=white, mask_b=white)
    assert torch.equal(plain[0][0], masked[0][0]) and "blipdiffusion_regions" not in masked[0][1]
    assert same is model and unpatched is model


def test_one_white_mask_is_a_subject_without_one(scene, subjects, model):
    left = halves()["mask_a"]
    half, _ = scene(PROMPT, *subjects, model=model, mask_a=left)
    both, _ = scene(PROMPT, *subjects, model=model, mask_a=left, mask_b=torch.ones(1, 64, 128))
    assert torch.equal(half[0][0], both[0][0])


def test_a_bias_of_zero_changes_nothing(comfy, clip, model, scene, subjects, sample):
    """A prompt that carries regions which show everything, against the MODEL without the patch."""
    Regions = comfy.module("blipdiff_impl.blip_diffusion.scene").Regions
    plain = scene(PROMPT, *subjects)[0]
    regions = Regions(77, ((3, 20, 0),), (torch.ones(1, 4, 4),))
    tagged = [[plain[0][0], {**plain[0][1], "blipdiffusion_regions": regions}]]
    patched = comfy.module("nodes.host.regions").with_regions(model)
    assert relative(sample(patched, tagged), sample(model, plain)) < CHUNKED


def test_the_model_that_went_in_is_untouched(model, scene, subjects, sample):
    plain = scene(PROMPT, *subjects)[0]
    before = sample(model, plain)
    conditioning, patched = scene(PROMPT, *subjects, model=model, **halves())
    with_regions = sample(patched, conditioning)
    assert torch.equal(sample(model, plain), before)
    assert "patches_replace" not in model.model_options["transformer_options"] and not model.wrappers
    assert torch.equal(sample(patched, plain), before)  # a prompt without regions
    assert relative(with_regions, before) > 0.01


def test_regions_are_followed_once_however_many_scenes_share_a_model(model, scene, subjects, sample):
    conditioning, once = scene(PROMPT, *subjects, model=model, soft_edge=32, **halves())  # log m twice would show
    again, twice = scene(PROMPT, *subjects, model=once, soft_edge=32, **halves())
    assert torch.equal(sample(twice, again), sample(once, conditioning))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_prompt_alone_carries_its_regions(model, scene, subjects, sample, cfg):
    """Sampled with the MODEL of the loader in place of the one that the node gives: the same picture, bit for bit."""
    conditioning, patched = scene(PROMPT, *subjects, model=model, **halves())
    expected = sample(patched, conditioning, cfg=cfg, count=2)
    assert torch.equal(sample(model, conditioning, cfg=cfg, count=2), expected)
    without = [
        [text, {key: value for key, value in options.items() if key != "hooks"}] for text, options in conditioning
    ]
    assert relative(sample(model, without, cfg=cfg, count=2), expected) > 0.01  # what would be lost
    plain = scene(PROMPT, *subjects)[0]
    assert torch.equal(sample(model, plain, cfg=cfg), sample(patched, plain, cfg=cfg))  # nothing stays on the MODEL


def test_two_prompts_with_regions_patch_a_run_once(model, scene, subjects, sample, make_subject):
    first, patched = scene(PROMPT, *subjects, model=model, soft_edge=32, **halves())  # log m twice would show
    second, _ = scene(PROMPT, make_subject("dog", seed=9), subjects[1], model=model, soft_edge=32, **halves())
    both = first + second
    assert torch.equal(sample(model, both), sample(patched, both))
    assert torch.equal(sample(model, first, second), sample(patched, first, second))


def test_hooks_of_others_on_the_prompt_stay(comfy, clip, model, scene, subjects, sample):
    """A LoRA that the host hooks to the prompt acts, with and without the patch on the MODEL."""
    import comfy.hooks as hooks

    conditioning, patched = scene(PROMPT, *subjects, model=model, **halves())
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight"
    change = torch.randn(model.model_state_dict()[key].shape, generator=torch.Generator().manual_seed(0))
    group = hooks.HookGroup()
    hook = hooks.WeightHook(strength_model=1.0, strength_clip=1.0)
    hook.weights, hook.need_weight_init = {key: ("diff", (change,))}, False
    group.add(hook)
    hooked = hooks.set_hooks_for_conditioning(conditioning, group)
    found = sample(model, hooked)
    assert relative(found, sample(model, conditioning)) > 0.01
    assert torch.equal(found, sample(patched, hooked))


def test_one_chunk_at_a_time_gives_the_same(comfy, model, scene, subjects, sample, monkeypatch):
    spy, seen = spied(comfy, model)
    conditioning, patched = scene(PROMPT, *subjects, model=spy, **halves())
    together = sample(patched, conditioning, count=2)
    assert {call.kinds for call, *_ in seen} == {(1, 0)}
    seen.clear()
    monkeypatch.setattr(model.model, "memory_required", lambda *a, **k: 1e20)
    assert relative(sample(patched, conditioning, count=2), together) < CHUNKED
    assert {call.kinds for call, *_ in seen} == {(1,), (0,)}


def test_a_longer_negative_prompt_repeats_the_positive(comfy, clip, model, scene, subjects, sample, monkeypatch):
    spy, seen = spied(comfy, model)
    conditioning, patched = scene(PROMPT, *subjects, model=spy, **halves())
    with torch.inference_mode():
        negative = comfy.node("CLIPTextEncode")().encode(clip, "blurry " * 160)[0]
    assert negative[0][0].shape[1] == 231
    together = sample(patched, conditioning, negative)
    assert seen[0][2].shape[1] == 462
    monkeypatch.setattr(model.model, "memory_required", lambda *a, **k: 1e20)
    assert relative(sample(patched, conditioning, negative), together) < CHUNKED


def test_without_guidance_only_the_prompt_counts(model, scene, subjects, sample, make_subject):
    conditioning, patched = scene(PROMPT, *subjects, model=model, **halves())
    plain = scene(PROMPT, *subjects)[0]
    found = sample(patched, conditioning, cfg=1.0)
    assert torch.isfinite(found).all() and relative(found, sample(model, plain, cfg=1.0)) > 0.01


def test_a_batch_of_subjects_and_masks_is_its_single_runs(model, scene, make_subject, sample):
    dogs, balls = make_subject("dog", 2, seed=1), make_subject("ball", 2, seed=2)
    masks = {name: torch.cat([mask, mask.flip(-1)]) for name, mask in halves().items()}
    conditioning, patched = scene(PROMPT, dogs, balls, model=model, **masks)
    together = sample(patched, conditioning, count=4)  # more pictures than subjects: these come in turn
    for i in range(4):
        pair = (replace(s, embeddings=s.embeddings[i % 2 :][:1]) for s in (dogs, balls))
        own = {name: mask[i % 2 :][:1] for name, mask in masks.items()}
        alone, patched = scene(PROMPT, *pair, model=model, **own)
        assert relative(sample(patched, alone, batch_index=[i]), together[i : i + 1]) < CHUNKED


def test_single_subjects_serve_a_batch(model, scene, make_subject, subjects):
    conditioning, _ = scene(PROMPT, make_subject("dog", 3), subjects[1], model=model, **halves())
    assert conditioning[0][0].shape == (3, 154, WIDTH)


def test_words_appended_later_are_seen_everywhere(comfy, clip, model, scene, subjects, sample):
    conditioning, patched = scene(PROMPT, *subjects, model=spied(comfy, model)[0], **halves())
    with torch.inference_mode():
        more = comfy.node("CLIPTextEncode")().encode(clip, "at night")[0]
        joined = comfy.node("ConditioningConcat")().concat(conditioning, more)[0]
    finder = comfy.module("nodes.host.conditioning_tags")
    tagged = finder.Tagged(joined[0][1]["blipdiffusion_regions"], joined[0][0].shape[1], SIZE, None)
    bias = comfy.module("nodes.host.regions").entry_bias(tagged, SIZE, 231, 1)
    assert bias.shape[-1] == 231 and not bias[..., 154:].any() and bias[..., 77:154].any()
    assert torch.isfinite(sample(patched, joined)).all()


def test_a_second_prompt_in_the_list_has_no_regions(comfy, clip, model, scene, subjects, sample):
    """Two entries of different length and meaning in one positive prompt; each has its own columns."""
    spy, seen = spied(comfy, model)
    conditioning, patched = scene(PROMPT, *subjects, model=spy, **halves())
    with torch.inference_mode():
        other = comfy.node("CLIPTextEncode")().encode(clip, "snow " * 100)[0]
    assert other[0][0].shape == conditioning[0][0].shape
    sample(patched, conditioning + other, steps=1)
    plain = [
        relative(out[i : i + 1], explicit(q[i : i + 1], k[i : i + 1], v[i : i + 1], call.heads, torch.zeros(1, 1, 1)))
        for call, q, k, v, out in seen
        for i in range(len(q))
    ]
    assert sorted(error < EXACT for error in plain) == [False, True, True]  # the scene; the other prompt, the negative


def test_an_area_looks_at_its_part_of_the_masks(comfy, model, scene, subjects, sample):
    spy, seen = spied(comfy, model)
    conditioning, patched = scene(PROMPT, *subjects, model=spy, **halves())
    area = comfy.node("ConditioningSetArea")().append(conditioning, 64, 64, 64, 0, 1.0)[0]  # the right half
    sample(patched, area, steps=1, cfg=1.0)
    call, q, k, v, out = seen[0]
    assert call.size == (8, 8)
    bias = torch.zeros(1, 64, 154)
    dog = dict(conditioning[0][1]["blipdiffusion_columns"].words)["dog"][0]
    bias[..., [dog, *range(77, 94)]] = -torch.inf
    bias[..., 111:] = -torch.inf
    assert relative(out, explicit(q, k, v, call.heads, bias)) < EXACT


@pytest.mark.parametrize("with_model", [True, False])
def test_boxes_are_regions_as_masks_are(model, scene, subjects, sample, with_model):
    chosen = {"model": model} if with_model else {}
    by_boxes = scene(PROMPT, *subjects, **BOXES, **chosen)
    by_masks = scene(PROMPT, *subjects, **halves(), **chosen)
    sampled = [sample(patched if with_model else model, positive) for positive, patched in (by_boxes, by_masks)]
    assert relative(*sampled) < EXACT


def test_several_boxes_are_one_region(model, scene, subjects, sample):
    """Two boxes that together are the left half, drawn on a canvas of the picture's own size."""
    parts = [{"x": 0, "y": y, "width": 64, "height": 32} for y in (0, 32)]
    given = {"canvas_width": 128, "canvas_height": 64, "box_b": {"x": 64, "y": 0, "width": 64, "height": 64}}
    in_parts, patched = scene(PROMPT, *subjects, box_a=parts, model=model, **given)
    whole, _ = scene(PROMPT, *subjects, **halves(), model=model)
    assert relative(sample(patched, in_parts), sample(patched, whole)) < EXACT


def test_a_box_and_a_mask_serve_one_prompt(model, scene, subjects, sample):
    mixed = {"mask_a": halves()["mask_a"], "box_b": BOXES["box_b"]}
    mixed, patched = scene(PROMPT, *subjects, **mixed, model=model)
    masks, _ = scene(PROMPT, *subjects, **halves(), model=model)
    assert relative(sample(patched, mixed), sample(patched, masks)) < EXACT


def test_without_a_model_the_host_masks_conditioning(model, scene, subjects, sample):
    from comfy_execution.graph_utils import ExecutionBlocker

    conditioning, nothing = scene(PROMPT, *subjects, **halves())
    assert isinstance(nothing, ExecutionBlocker)
    dog, ball, whole = (options for _, options in conditioning)
    assert torch.equal(dog["mask"], halves()["mask_a"]) and torch.equal(ball["mask"], halves()["mask_b"])
    assert dog["set_area_to_bounds"] and dog["mask_strength"] == 1.0 and "mask" not in whole
    alone = scene("a {dog} chasing a in the snow", subjects[0])[0]
    assert torch.equal(conditioning[0][0], alone[0][0])
    assert torch.isfinite(sample(model, conditioning, count=2)).all()


def test_a_free_subject_without_a_model_is_in_the_whole_picture(scene, subjects):
    conditioning, _ = scene(PROMPT, *subjects, mask_a=halves()["mask_a"])
    assert len(conditioning) == 2
    assert torch.equal(conditioning[1][0], scene("a chasing a {ball} in the snow", subjects[1])[0][0][0])


def bad(**changes):
    return {**halves(), **changes}


def test_bad_input(scene, subjects, model, make_subject, subject_error, comfy):
    dog, ball = subjects
    zero = replace(dog, embeddings=torch.zeros(1, 16, WIDTH))
    for sentence, given, inputs in (
        ("different models", (dog, make_subject("ball", fingerprint="g")), {}),
        ("subject_a has 2, subject_b has 3", (make_subject("dog", 2), make_subject("ball", 3)), {}),
        ("mask_a has 3", (make_subject("dog", 2), ball), bad(mask_a=torch.rand(3, 8, 8), model=model)),
        ("all zero", (zero, ball), {}),
        ("width 32", (make_subject("dog", width=32), ball), {}),
        ("mask_c is connected, but subject_c is not", subjects, {"mask_c": torch.rand(1, 8, 8)}),
        ("box_c is connected, but subject_c is not", subjects, {"box_c": BOXES["box_a"]}),
        ("Both mask_a and box_a", subjects, bad(**BOXES)),
        ("lies outside the picture", subjects, {"box_a": {**BOXES["box_a"], "x": 600}}),
        ("no box in what is connected", subjects, {"box_a": []}),
        ("mask_b is empty", subjects, bad(mask_b=torch.zeros(1, 8, 8))),
        ("mask_b holds NaN", subjects, bad(mask_b=torch.full((1, 8, 8), torch.nan))),
    ):
        with pytest.raises(subject_error, match=sentence):
            scene(PROMPT, *given, **inputs)
    with pytest.raises(subject_error, match="subject_b"):
        scene("a {dog}", dog, ball)


def test_a_model_of_another_family_is_refused(comfy, scene, subjects, subject_error):
    config = replace(CONFIG, unet=replace(CONFIG.unet, cross_attention_dim=48))
    unet = reference_modules(config, seed=1)["unet"]
    other = host_unet(comfy, unet, config)
    with pytest.raises(subject_error, match="width 48"):
        scene(PROMPT, *subjects, model=other, **halves())


def test_overlapping_masks_show_both(comfy, scene, subjects, model):
    mask = halves()["mask_a"]
    conditioning, _ = scene(PROMPT, *subjects, model=model, mask_a=mask, mask_b=mask)
    bias = conditioning[0][1]["blipdiffusion_regions"].bias(SIZE, SIZE)[0].unflatten(0, SIZE)
    assert not bias[:, : SIZE[1] // 2, :111].any() and (bias[:, SIZE[1] // 2 :, 77:111] < -1000).all()
