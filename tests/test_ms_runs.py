"""MS-Diffusion in the runs of the real host, on a small UNet of Stable Diffusion XL's structure.

What must be equal is: to the last bit where the host does the same, 1e-4 of the largest value where it computes other
chunks, 1e-3 after ten steps against an implementation of its own on diffusers' UNet.
"""

import pytest
import torch
from also_connected import PATCHES, PLAIN_PROMPT
from asked_values import count_asked
from ms_world import CONFIG, LAYERS, TEXT_L, picture, relative, text_config, the_world
from slow_ms import SlowSubjects, slow_latents

EXACT, CHUNKED, SLOW = 1e-5, 1e-4, 1e-3
BOXES = ((0.0, 0.25, 0.6, 0.9), (0.35, 0.0, 1.0, 0.55))  # they overlap
PROMPT, SIZE = "a dog and a tea pot", (9, 7)


@pytest.fixture(scope="module")
def world(comfy):
    return the_world(comfy)


@pytest.fixture(scope="module")
def error(comfy):
    return comfy.module("blipdiff_impl.errors").SubjectError


@pytest.fixture(scope="module")
def applied(world):
    """MODEL with two subjects in boxes that overlap."""
    return world.apply(world.two(*BOXES))[0]


@pytest.fixture(scope="module")
def plain(world):
    return world.sample(world.model, size=SIZE)


def spied(world, model):
    """A clone that keeps (call, q, output) of every cross-attention layer, in the order of evaluation."""
    attention = world.comfy.module("nodes.host.attention")
    model, seen = model.clone(), []

    def spy(call, q, k, v, attend):
        out = attend(q, k, v)
        seen.append((call, q, out))
        return out

    attention.control_attention(model, attention.CROSS, spy)
    return model, seen


def phrase_rows(world, phrases):
    """The pooler's output of transformers' CLIP-L with the host's weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    own = CLIPTextModel(
        CLIPTextConfig(vocab_size=49408, eos_token_id=49407, **text_config(TEXT_L, "quick_gelu"))
    ).eval()
    weights = world.clip.cond_stage_model.clip_l.transformer.state_dict()
    weights = {name: tensor for name, tensor in weights.items() if name.startswith("text_model.")}
    wanted = own.state_dict()
    prefix = "" if next(iter(wanted)).startswith("text_model.") else "text_model."
    own.load_state_dict({name: weights[prefix + name].clone() for name in wanted if "position_ids" not in name})
    found = []
    for phrase in phrases:
        ids = [item for item, _ in world.clip.tokenize(phrase)["l"][0]]
        with torch.no_grad():
            found.append(own(torch.tensor([ids])).pooler_output[0])
    return torch.stack(found)


def image_rows(world, pictures):
    """transformers' hidden states but one, of pictures that the host has squashed."""
    from comfy.clip_vision import clip_preprocess

    vision = world.clip_vision
    shown = torch.cat(
        [clip_preprocess(each, vision.image_size, vision.image_mean, vision.image_std, crop=False) for each in pictures]
    )
    with torch.no_grad():
        return world.vision(shown.float(), output_hidden_states=True).hidden_states[-2]


def slow(world, boxes=BOXES, strengths=(1.0, 1.0), columns=None, first=5, size=SIZE, steps=10, count=1):
    """The latents that `World.sample` should give, of `World.two`."""
    import comfy.sample
    import comfy.samplers

    phrases = ("dog", "tea pot")
    features = image_rows(world, [picture(len(phrase)) for phrase in phrases])
    with torch.no_grad():
        subjects = SlowSubjects(world.adapter, features, phrase_rows(world, phrases), boxes, strengths, columns, first)
    noise = comfy.sample.prepare_noise(torch.zeros(count, 4, *size), 6, [0] * count)
    sigmas = comfy.samplers.calculate_sigmas(world.model.get_model_object("model_sampling"), "normal", steps)
    prompts = [(text[0][0], text[0][1]["pooled_output"]) for text in (world.text(PROMPT), world.text("bad"))]
    prompts = [tuple(each.clone() for each in prompt) for prompt in prompts]
    return slow_latents(world.unet, subjects, noise.clone(), sigmas.clone(), *prompts, 4.0, 0.13025)


def test_ten_steps_are_those_of_the_slow_implementation(world, applied, plain):
    """Not square, and odd."""
    found = world.sample(applied, size=SIZE, steps=10)
    assert relative(found, slow(world)) < SLOW
    assert relative(found, world.sample(world.model, size=SIZE, steps=10)) > 0.05


def test_a_batch_and_strengths_as_the_slow_implementation(world):
    model, _ = world.apply(world.two(*BOXES, strengths=(0.5, 1.5)), scale=0.6)
    how = {"size": (8, 8), "steps": 2, "count": 2}
    assert relative(world.sample(model, **how), slow(world, strengths=(0.3, 0.9), **how)) < CHUNKED


def test_auto_layout_as_the_slow_implementation(world, applied):
    model, _ = world.apply(world.two(*BOXES), auto_layout=True, prompt=PROMPT, start_step=2)
    how = {"size": (8, 8), "steps": 3}
    found = world.sample(model, **how)
    assert relative(found, slow(world, columns=((2,), (5, 6)), first=2, **how)) < CHUNKED
    assert relative(found, world.sample(applied, **how)) > 10 * CHUNKED
    assert torch.equal(world.sample(model, **how), found)  # a run begins anew


def test_every_layer_of_the_adapter_acts_once_an_evaluation(world, applied):
    model, seen = spied(world, applied)
    world.sample(model, size=SIZE)
    layers = [call.layer for call, *_ in seen]
    assert len(layers) == 2 * LAYERS and set(layers) == {layer.key for layer in world.adapter.layers}
    assert len(world.adapter.layers) == LAYERS


def test_the_released_adapter_has_the_seventy_layers_of_the_hosts_own_model(comfy):
    from comfy.supported_models import SDXL

    config = SDXL({
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "adm_in_channels": 2816,
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False,
        "num_classes": "sequential", "use_temporal_attention": False, "use_temporal_resblock": False,
    })  # fmt: skip
    config.unet_config["num_head_channels"], config.unet_config["num_heads"] = 64, -1
    config.set_inference_dtype(torch.float16, None)
    model = config.get_model({}, "", device=torch.device("meta"))
    from types import SimpleNamespace

    MSAdapter = comfy.module("blipdiff_impl.ms_diffusion.adapter").MSAdapter
    released = comfy.module("blipdiff_impl.ms_diffusion.config").RELEASED
    with torch.device("meta"):
        adapter = MSAdapter(released)
    assert len(adapter.layers) == 70
    comfy.module("nodes.host.ms_diffusion.apply").require_fitting(SimpleNamespace(model=model), adapter)


# Where nothing may change


def at_first_layer(world, model, **how):
    """Rows of the negative and of the positive prompt of the first cross-attention layer, on its grid."""
    model, seen = spied(world, model)
    world.sample(model, steps=1, **how)
    call, _, out = seen[0]
    rows = {kind: out[part].unflatten(1, call.size) for kind, part in call.chunks(len(out))}
    return rows.get(1), rows[0]


def test_outside_all_boxes_and_in_the_negative_half_every_bit_stays(world):
    """At the first cross-attention layer, whose queries are the same in both runs."""
    model, _ = world.apply(world.two((0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 0.5)))
    (negative, positive), (before, expected) = (
        at_first_layer(world, each, size=(16, 16)) for each in (model, world.model)
    )
    assert torch.equal(negative, before)
    assert torch.equal(positive[:, 4:], expected[:, 4:]) and torch.equal(positive[:, :, 4:], expected[:, :, 4:])
    assert (positive[:, :4, :4] != expected[:, :4, :4]).all()


@pytest.mark.parametrize("how", [{"scale": 0.0}, {"strengths": (0.0, 0.0)}, {"start": 0.98, "end": 0.99}])
def test_nothing_to_add_is_plain_sampling(world, plain, how):
    strengths = how.pop("strengths", (1.0, 1.0))
    model, _ = world.apply(world.two(*BOXES, strengths=strengths), **how)
    assert torch.equal(world.sample(model, size=SIZE), plain)


def test_the_model_that_goes_in_is_not_changed_and_nothing_stays(world, applied, plain):
    assert relative(world.sample(applied, size=SIZE), plain) > 0.01
    assert torch.equal(world.sample(world.model, size=SIZE), plain)
    assert not world.model.wrappers and not world.model.attachments
    assert "patches_replace" not in world.model.model_options["transformer_options"]
    again = world.sample(applied, size=SIZE)
    assert torch.equal(world.sample(applied, size=SIZE), again)


def test_what_was_made_for_a_run_goes_with_it(world, applied):
    world.sample(applied, size=SIZE)
    runs = world.comfy.module("nodes.host.ms_diffusion.run")
    (control,) = (
        each.control.__self__ for each in applied.model_options["transformer_options"]["blipdiffusion_attention"]
    )
    assert isinstance(control, runs.SubjectsInRuns) and not control._here and not control._masks


# In combination


def test_one_chunk_at_a_time_gives_the_same(world, applied, monkeypatch):
    together = world.sample(applied, size=SIZE, count=2)
    monkeypatch.setattr(world.model.model, "memory_required", lambda *a, **k: 1e20)
    assert relative(world.sample(applied, size=SIZE, count=2), together) < CHUNKED


def test_without_guidance_there_is_no_negative_half(world, applied):
    found, expected = (world.sample(each, size=SIZE, cfg=1.0) for each in (applied, world.model))
    assert relative(found, expected) > 0.01
    model, seen = spied(world, applied)
    world.sample(model, size=SIZE, cfg=1.0, steps=1)
    assert {call.kinds for call, *_ in seen} == {(0,)}


def test_a_batch_is_its_single_pictures(world, applied):
    together = world.sample(applied, size=SIZE, count=3)
    assert relative(together, world.sample(applied, size=SIZE).expand(3, -1, -1, -1)) < CHUNKED


def test_every_sampler_of_the_host(world, applied, subtests):
    """Finite, and other than without subjects where the first box is."""
    from comfy.samplers import KSampler

    assert len(KSampler.SAMPLERS) > 30
    for sampler in KSampler.SAMPLERS:
        with subtests.test(sampler=sampler):
            found, expected = (
                world.sample(each, size=(8, 8), steps=2, sampler=sampler) for each in (applied, world.model)
            )
            assert torch.isfinite(found).all()
            assert relative(found[..., 2:7, :4], expected[..., 2:7, :4]) > 0.005


def test_an_area_sees_its_part_of_the_boxes(world):
    """The prompt on the right half only: a box on the left is not there, one on the right fills it."""
    left, right = ((x, 0.0, x + 0.5, 1.0) for x in (0.0, 0.5))
    with torch.inference_mode():
        area = world.comfy.node("ConditioningSetArea")().append(world.text(PROMPT), 64, 128, 64, 0, 1.0)[0]
    how = {"positive": area, "size": (16, 16), "cfg": 1.0}
    expected = at_first_layer(world, world.model, **how)[1]
    nothing, everything = (
        at_first_layer(world, world.apply(world.subject("dog", box))[0], **how)[1] for box in (left, right)
    )
    assert torch.equal(nothing, expected) and everything.shape[1:3] == (8, 4)
    assert (everything != expected).all()


def test_areas_of_the_positive_prompt_leave_the_negative_one_alone(world):
    """The host copies each area of the one beside the other."""
    with torch.inference_mode():
        area = world.comfy.node("ConditioningSetArea")().append(world.text("snow"), 64, 64, 64, 0, 1.0)[0]
    model, seen = spied(world, world.apply(world.two((0, 0, 1, 1), (0, 0, 1, 1)))[0])
    same, before = spied(world, world.model)
    for each in (model, same):
        world.sample(each, positive=area + world.text(PROMPT), size=(16, 16), steps=1)
    firsts = [
        {(call.kinds[place], call.size, place): out[rows] for call, _, out in calls if call.layer == ("input", 4, 0)
         for place, (_, rows) in enumerate(call.chunks(len(out)))}
        for calls in (seen, before)
    ]  # fmt: skip
    assert firsts[0].keys() == firsts[1].keys() and {kind for kind, *_ in firsts[0]} == {0, 1}
    assert len({size for _, size, _ in firsts[0]}) == 2
    for key, out in firsts[0].items():
        assert torch.equal(out, firsts[1][key]) == (key[0] == 1), key


def guided(world, model, guider):
    """Samples by a guider node of the host."""
    custom = world.comfy.nodes.NODE_CLASS_MAPPINGS
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, RandomNoise, SamplerCustomAdvanced

    del custom
    with torch.inference_mode():
        noise, sampler = RandomNoise.execute(6)[0], KSamplerSelect.execute("euler")[0]
        sigmas = BasicScheduler.execute(model, "normal", 1, 1.0)[0]
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, {"samples": torch.zeros(1, 4, 8, 8)})[0]


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_guidance_by_three_prompts_knows_which_is_negative(world, applied, style):
    """It counts the negative prompt first."""
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    model, seen = spied(world, applied)
    same, before = spied(world, world.model)
    for each in (model, same):
        with torch.inference_mode():
            texts = [world.text(words) for words in (PROMPT, "a tea pot", "bad")]
            guider = DualCFGGuider.execute(each, *texts, 3.0, 2.0, style)[0]
        guided(world, each, guider)
    changed = {
        kind: not torch.equal(seen[0][2][rows], before[0][2][rows]) for kind, rows in seen[0][0].chunks(len(seen[0][2]))
    }
    assert changed == {0: False, 1: True, 2: True}


def test_guidance_by_degraded_attention_asks_for_the_negative_prompt_alone(world, applied):
    """Self-attention guidance evaluates it as the first and only one."""
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    with torch.inference_mode():
        sag = SelfAttentionGuidance.execute(applied, 0.5, 2.0)[0]
    model, seen = spied(world, sag)
    plainly, before = spied(world, applied)
    for each in (model, plainly):
        world.sample(each, size=(8, 8), steps=1)
    alone = [(call, q, out) for call, q, out in seen if call.kinds == (0,)]
    assert alone
    for call, q, out in alone:
        k, v = (layer(world.text("bad")[0][0]) for layer in cross_projections(world, call.layer))
        with torch.inference_mode():
            assert torch.equal(out, call.attention(q, k, v)), call.layer


def cross_projections(world, layer):
    kind, number, index = layer
    unet = world.model.model.diffusion_model
    block = unet.middle_block if kind == "middle" else getattr(unet, f"{kind}_blocks")[number]
    attention = next(part for part in block if hasattr(part, "transformer_blocks")).transformer_blocks[index].attn2
    return attention.to_k, attention.to_v


def test_perturbed_guidance_counts_no_evaluation_twice(world):
    """Auto layout counts evaluations; the extra one of perturbed-attention guidance is none."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    box, layout = (world.apply(world.two(*BOXES), **how)[0] for how in (
        {}, {"auto_layout": True, "prompt": PROMPT, "start_step": 2}))  # fmt: skip
    with torch.inference_mode():
        box, layout = (PerturbedAttentionGuidance.execute(each, 2.0)[0] for each in (box, layout))
    one = [world.sample(each, size=(8, 8), steps=1) for each in (box, layout)]
    two = [world.sample(each, size=(8, 8), steps=2) for each in (box, layout)]
    assert torch.equal(*one) and not torch.equal(*two)


def adding(value, layer=("input", 4, 0)):
    """Another pack's patch, as IP-Adapters do it: the host's attention, and something more, on one layer."""
    from comfy.ldm.modules.attention import optimized_attention

    def patch(q, k, v, options):
        return optimized_attention(q, k, v, options["n_heads"], attn_precision=options["attn_precision"]) + value

    return lambda model: model.set_model_attn2_replace(patch, *layer)


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_packs_patch_on_the_same_layer_keeps_its_effect(world, first):
    model = world.model.clone()
    if first == "theirs":
        adding(10.0)(model)
        model, _ = world.apply(world.two(*BOXES), model=model)
    else:
        model = world.apply(world.two(*BOXES), model=model)[0].clone()
        adding(10.0)(model)
    ours = world.apply(world.two(*BOXES))[0]
    (negative, positive), (before, expected) = (at_first_layer(world, each, size=SIZE) for each in (model, ours))
    assert torch.allclose(negative, before + 10, atol=1e-4) and torch.allclose(positive, expected + 10, atol=1e-4)


ALONE = ("self-attention guidance", "perturbed attention guidance")  # they send one half again: tests of their own


@pytest.mark.parametrize("name", [name for name in {**PLAIN_PROMPT, **PATCHES} if name not in ALONE])
def test_what_else_is_connected_does_what_it_did(world, name):
    """The negative half of the first cross-attention layer keeps every bit beside it, the positive half is drawn on."""
    subjects = world.two((0.0, 0.0, 1.0, 1.0), (0.5, 0.0, 1.0, 1.0))
    seen = []
    for model in (world.model, world.apply(subjects)[0]):
        with torch.inference_mode():
            arguments = {**PLAIN_PROMPT, **PATCHES}[name](world, model, world.text(PROMPT), world.text("bad"))
        model, calls = spied(world, arguments[0])
        torch.manual_seed(0)
        found = world.sample(model, *arguments[1:], size=(16, 16), steps=1)
        firsts = [(call, out) for call, _, out in calls if call.layer == ("input", 4, 0)]
        seen.append([(kind, out[rows]) for call, out in firsts for kind, rows in call.chunks(len(out))])
        assert torch.isfinite(found).all()
    assert [kind for kind, _ in seen[0]] == [kind for kind, _ in seen[1]] and {kind for kind, _ in seen[0]} == {0, 1}
    for (kind, before), (_, after) in zip(*seen, strict=True):
        assert torch.equal(before, after) == (kind == 1)


@pytest.mark.parametrize("first", ["regions", "subjects"])
def test_regions_on_the_same_layers_in_either_order(world, first):
    """What one of the pack's own patches does shows beside the other as it shows alone."""
    regions = world.comfy.module("nodes.host.regions")
    Regions = world.comfy.module("blipdiff_impl.attention.regions").Regions
    half = torch.zeros(1, 16, 16)
    half[..., :8] = 1
    text = world.text(PROMPT)
    tagged = [[text[0][0], {**text[0][1], "blipdiffusion_regions": Regions(77, ((2, 3, 0),), (half,))}]]
    with torch.inference_mode():
        if first == "regions":
            both = world.apply(world.two(*BOXES), model=regions.with_regions(world.model))[0]
        else:
            both = regions.with_regions(world.apply(world.two(*BOXES))[0])
        ours, theirs = world.apply(world.two(*BOXES))[0], regions.with_regions(world.model)
    runs = [
        at_first_layer(world, each, positive=tagged, size=(16, 16))[1] for each in (both, ours, theirs, world.model)
    ]
    assert relative(runs[0] - runs[1], runs[2] - runs[3]) < EXACT * 100
    assert not torch.equal(runs[2], runs[3]) and not torch.equal(runs[1], runs[3])


def test_two_appliers_add_up_at_a_layer(world):
    """Where their boxes do not touch, each subject is what it is alone."""
    one, other = world.subject("dog", (0, 0, 0.5, 1)), world.subject("tea pot", (0.5, 0, 1, 1))
    both = world.apply(other, model=world.apply(one)[0])[0]
    joined = world.apply(world.two((0, 0, 0.5, 1), (0.5, 0, 1, 1)))[0]
    found, expected = (at_first_layer(world, each, size=(16, 16))[1] for each in (both, joined))
    assert relative(found, expected) < EXACT


def test_a_part_of_the_run(world, applied):
    """Four steps in which only the second half acts: the first two evaluations are plain."""
    model, seen = spied(world, world.apply(world.two(*BOXES), start=0.5)[0])
    same, before = spied(world, world.model)
    for each in (model, same):
        world.sample(each, size=(8, 8), steps=4)
    equal = [torch.equal(seen[place][2], before[place][2]) for place in range(0, 4 * LAYERS, LAYERS)]
    assert equal == [True, True, False, False]


def test_a_longer_negative_prompt_repeats_the_positive_one(world):
    """Auto layout with keys that the host repeats."""
    model, _ = world.apply(world.two(*BOXES), auto_layout=True, prompt=PROMPT, start_step=1)
    long = "blurry " * 120
    together = world.sample(model, negative=long, size=(8, 8))
    separate, seen = spied(world, model)
    world.sample(separate, negative=long, size=(8, 8), steps=1)
    assert {call.kinds for call, *_ in seen} == {(1, 0)}
    assert relative(together, world.sample(model, negative="bad", size=(8, 8))) > 0  # it is another prompt
    assert torch.isfinite(together).all()


def test_a_prompt_that_is_not_the_one_given_for_auto_layout(world, error):
    long = "snow " * 100 + PROMPT
    model, _ = world.apply(world.two(*BOXES), auto_layout=True, prompt=long)
    assert torch.isfinite(world.sample(model, positive=long, size=(8, 8), steps=1)).all()
    with pytest.raises(error, match="at column 108, but the prompt that is sampled has 77 columns.*same text"):
        world.sample(model, positive=PROMPT, size=(8, 8), steps=1)


@pytest.mark.parametrize("auto_layout", [False, True])
def test_layers_ask_no_tensor_for_its_value(world, auto_layout, monkeypatch):
    """A value that a GPU holds is waited for. A further step asks for the noise level, besides what the host asks."""
    model, _ = world.apply(world.two(*BOXES), auto_layout=auto_layout, prompt=PROMPT, start_step=2)

    def each_step(model):
        counts = []
        for steps in (2, 3):
            asked.clear()
            world.sample(model, size=(8, 8), steps=steps)
            counts.append(len(asked))
        return counts[1] - counts[0]

    asked = count_asked(monkeypatch)
    assert each_step(model) - each_step(world.model) == 1


def test_the_projections_stay_where_they_are_while_sampling(world, applied, monkeypatch):
    def refuse(*args):
        raise AssertionError("the adapter was asked while sampling")

    for module in world.ms_adapter.adapter.modules():
        monkeypatch.setattr(module, "forward", refuse)
    assert torch.isfinite(world.sample(applied, size=(8, 8))).all()
    assert CONFIG.unet.widths == (32, 64, 128)
