"""Hooks on attention layers: UNets with several transformers in a block, grids, and what a layer may ask a tensor."""

import sys

import pytest
import torch
from asked_values import count_asked
from tiny_model import CONFIG, WIDTH

from blipdiff_impl.attention.grid import token_grid
from blipdiff_impl.errors import SubjectError

SIDE = 16
STEPS = 3


@pytest.fixture(scope="module")
def loaded(load_tiny):
    return load_tiny(seed=33)


@pytest.fixture(scope="module")
def deep(comfy):
    """A MODEL whose blocks have one to three transformers, as those of SDXL have up to ten."""
    from comfy.model_patcher import ModelPatcher
    from comfy.supported_models import SD15

    sizes = comfy.module("nodes.host.unet").host_config(CONFIG.unet)
    depths = {
        "transformer_depth": [1, 2, 0],
        "transformer_depth_middle": 3,
        "transformer_depth_output": [1, 1, 2, 2, 0, 0],
    }
    config = SD15({**sizes, **depths})
    config.unet_config["num_heads"] = 4
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        spread = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(spread + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="module")
def subject(comfy):
    vectors = torch.randn(1, 16, WIDTH, generator=torch.Generator().manual_seed(4))
    return comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(vectors, "dog", "f", "a test")


@pytest.fixture(scope="module")
def nodes(comfy, loaded, subject):
    """Each node that patches a MODEL: MODEL -> MODEL, positive, negative and number of pictures."""

    def scene(model):
        left = torch.zeros(1, 8 * SIDE, 8 * SIDE)
        left[..., : 4 * SIDE] = 1
        node = comfy.node("SubjectScene")
        positive, model = node.execute(loaded.clip, "a {dog} here", subject, mask_a=left, model=model).result
        return model, positive, text(""), 1

    def edit(model):
        latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}
        return *comfy.node("SubjectP2PEdit").execute(
            model, loaded.clip, latent, "cat", "dog", "on a sofa", "", 0.8, 0.4, 0.3, subject
        ).result[:3], 2  # fmt: skip

    def maps(model):
        prompt = comfy.node("SubjectPromptInfix").execute(loaded.clip, subject, "on the beach")[0]
        node = comfy.node("SubjectAttentionMaps")
        return node.execute(model, prompt, "subject", "", "all", 0.0, 1.0, "")[0], prompt, text(""), 1

    def text(words):
        return comfy.node("CLIPTextEncode")().encode(loaded.clip, words)[0]

    return {"scene": scene, "edit": edit, "maps": maps}


@pytest.fixture(scope="module")
def sample(comfy):
    def run(model, positive, negative, count, steps=STEPS):
        latent = {"samples": torch.zeros(count, 4, SIDE, SIDE), "batch_index": [0] * count}
        with torch.inference_mode():
            arguments = (6, steps, 5.0, "euler", "normal", positive, negative, latent)
            return comfy.nodes.common_ksampler(model, *arguments)[0]["samples"]

    return run


def untagged(conditioning):
    return [[text, {k: v for k, v in options.items() if "blipdiff" not in k}] for text, options in conditioning]


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
def test_every_transformer_of_every_block_is_controlled_once_an_evaluation(comfy, deep, nodes, sample, kind):
    attention, called = comfy.module("nodes.host.attention"), []
    model = deep.clone()

    def spy(call, q, k, v, attend):
        called.append((call.layer, call.size))
        return attend(q, k, v)

    attention.control_attention(model, kind, spy)
    with torch.inference_mode():
        _, positive, negative, _ = nodes["maps"](deep)
    assert torch.equal(sample(model, positive, negative, 1), sample(deep, positive, negative, 1))
    unet = deep.model.diffusion_model
    there = sum(type(module).__name__ == "BasicTransformerBlock" for module in unet.modules())
    assert there == 12 and len(called) == STEPS * there and len(set(called)) == there
    assert ("middle", 0, 2) in dict(called) and ("input", 3, 1) in dict(called) and ("output", 2, 1) in dict(called)


@pytest.mark.parametrize("name", ["scene", "edit", "maps"])
def test_the_nodes_work_with_several_transformers_in_a_block(comfy, deep, nodes, sample, name):
    with torch.inference_mode():
        model, positive, negative, count = nodes[name](deep)
    found = sample(model, positive, negative, count)
    plain = sample(deep, untagged(positive), negative, count)
    assert torch.isfinite(found).all() and torch.equal(found, plain) == (name == "maps")
    if name == "maps":
        with torch.inference_mode():
            assert comfy.node("SubjectAttentionView").execute(model, {"samples": found}).result[1].std() > 0
    if name == "edit":
        assert torch.allclose(found[0], plain[0], atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["scene", "edit", "maps"])
def test_hooks_of_others_act_on_one_transformer_and_on_all_of_a_block(deep, nodes, sample, name, when):
    """One on a transformer's own key, one on the key of a block of three, where the former comes first."""
    called = []

    def hooked(model):
        def hook(name):
            def attention(q, k, v, options):
                called.append((name, options["block_index"]))
                return torch.zeros_like(q)

            return attention

        model = model.clone()
        model.set_model_attn2_replace(hook("block"), "middle", 0)
        model.set_model_attn2_replace(hook("second"), "middle", 0, 1)
        return model

    with torch.inference_mode():
        if when == "before":
            model, positive, negative, count = nodes[name](hooked(deep))
        else:
            model, positive, negative, count = nodes[name](deep)
            model = hooked(model)
    sample(model, positive, negative, count, steps=1)
    assert called == [("block", 0), ("second", 1), ("block", 2)]


def test_the_grid_is_what_the_host_says_or_has_the_shape_of_the_picture():
    assert token_grid(63, [2, 320, 7, 9], [2, 4, 64, 96]) == (7, 9)
    for latent, tokens, grid in (
        ([1, 4, 64, 64], 4096, (64, 64)),
        ([1, 4, 64, 96], 384, (16, 24)),
        ([1, 4, 9, 13], 35, (5, 7)),
        ([1, 4, 9, 13], 12, (3, 4)),
        ([1, 4, 64, 96], 43 * 64, (43, 64)),  # of two thirds of the size
        ([1, 4, 96, 64], 43 * 64, (64, 43)),
        ([1, 4, 128, 96], 85 * 64, (85, 64)),
        ([1, 4, 64, 64], 21 * 21, (21, 21)),  # two thirds, halved
    ):
        for activations in (None, [1, 320, 3, 3]):
            assert token_grid(tokens, activations, latent) == grid
    with pytest.raises(SubjectError, match="left 2867 tokens of a picture of 64x64 .* merges or drops"):
        token_grid(2867, [1, 320, 64, 64], [1, 4, 64, 64])


@pytest.mark.parametrize("name", ["scene", "edit", "maps"])
def test_a_host_that_says_no_grid(loaded, nodes, sample, name):
    with torch.inference_mode():
        model, positive, negative, count = nodes[name](loaded.model)
    expected = sample(model, positive, negative, count)
    older = model.clone()

    def without(n, context, value, options):
        options.pop("activations_shape", None)
        return n, context, value

    older.set_model_attn2_patch(without)
    assert torch.equal(sample(older, positive, negative, count), expected)


@pytest.mark.parametrize("name", ["scene", "edit", "maps"])
def test_tensors_are_asked_once_an_evaluation_at_most(loaded, nodes, sample, name, monkeypatch):
    """A value that a GPU holds is waited for. What each further step asks more than the host itself."""
    with torch.inference_mode():
        model, positive, negative, count = nodes[name](loaded.model)

    def each_step(model, positive):
        counts = []
        for steps in (3, 7):
            asked.clear()
            sample(model, positive, negative, count, steps=steps)
            counts.append(len(asked))
        return (counts[1] - counts[0]) / 4

    asked = count_asked(monkeypatch)
    own = each_step(model, positive) - each_step(loaded.model, untagged(positive))
    assert own == (0 if name == "scene" else 1)


def test_tiles_of_self_attention_stay_beside_their_own_picture(comfy, loaded, nodes, sample):
    """HyperTile cuts each picture into rows of the batch: those of an edit get queries and keys of its source's."""
    __import__("comfy_extras.nodes_hypertile")
    seen = []

    def listen(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        if 0 in options["cond_or_uncond"]:
            rows = len(options["cond_or_uncond"]) - 1 - options["cond_or_uncond"].index(0)
            chunk = -1 if rows == 0 else 0
            pairs = [x.unflatten(0, (len(options["cond_or_uncond"]), 2, -1))[chunk] for x in (q, k)]
            seen.append((*pairs, len(q) // options["original_shape"][0]))
        return optimized_attention(q, k, v, options["n_heads"], attn_precision=options["attn_precision"])

    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, 4, 32, 32)}
        model, positive, negative, latent = comfy.node("SubjectP2PEdit").execute(
            loaded.model, loaded.clip, latent, "cat", "dog", "on a sofa", "", 1.0, 1.0, 0.3, blend=False
        ).result  # fmt: skip
        tiled = sys.modules["comfy_extras.nodes_hypertile"].HyperTile.execute(model, 32, 2, 2, False)[0]
        tiled.set_model_attn1_replace(listen, "middle", 0)
        comfy.nodes.common_ksampler(tiled, 6, 2, 5.0, "euler", "normal", positive, negative, latent)
    assert seen and {tiles for *_, tiles in seen} == {4}
    for q, k, _ in seen:
        assert torch.equal(q[0], q[1]) and torch.equal(k[0], k[1]) and not torch.equal(q[0, 0], q[0, 1])
