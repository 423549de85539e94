"""Every node that patches a MODEL together with what else an artist connects: areas, guidance, batches, other patches.

What must hold needs no knowledge of how it is done. A MODEL that is patched, but sampled with prompts that are none of
the patch's business, gives bit for bit what the plain MODEL gives. An edit leaves its source alone. A scene leaves the
negative prompt alone, and a subject that is seen nowhere might as well be another. And what other nodes do shows beside
the patch as it shows without it.
"""

from itertools import product

import pytest
import torch
from also_connected import PATCHES, PIXELS, PLAIN_PROMPT, SIDE
from tiny_model import WIDTH, write_tiny_checkpoint

NEAR = 1e-4  # of the largest value: the host computes other chunks, and so adds in another order
STEPS = 2
PROMPT = "a {dog} chasing a {ball} in the snow"


@pytest.fixture(scope="module")
def world(comfy, tmp_path_factory):
    return World(comfy, tmp_path_factory.mktemp("combinations") / "tiny.safetensors")


class World:
    """A loaded model with random weights, and the nodes as functions."""

    def __init__(self, comfy, path):
        self.comfy = comfy
        write_tiny_checkpoint(path, seed=33)
        self.source = comfy.module("nodes.host.blip_diffusion.sources").Source(str(path))
        self.loaded = self.load()
        self.model, self.clip = self.loaded.model, self.loaded.clip
        self.known = {}

    @torch.inference_mode()
    def load(self):
        """What the loader node gives, read from the file again."""
        return self.comfy.module("nodes.host.blip_diffusion.loader").load_model(self.source, "fp32")

    def subject(self, category="dog", seed=4, count=1):
        vectors = torch.randn(count, 16, WIDTH, generator=torch.Generator().manual_seed(seed))
        return self.comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(vectors, category, "f", "a test")

    @torch.inference_mode()
    def text(self, text):
        return self.comfy.node("CLIPTextEncode")().encode(self.clip, text)[0]

    @torch.inference_mode()
    def scene(self, model=None, dog=1, ball=2, **more):
        left = torch.zeros(1, PIXELS, PIXELS)
        left[..., : PIXELS // 2] = 1
        subjects = self.subject("dog", dog), self.subject("ball", ball)
        return self.comfy.node("SubjectScene").execute(
            self.clip, PROMPT, *subjects, mask_a=left, mask_b=1 - left, model=model or self.model, soft_edge=0, **more
        ).result  # fmt: skip

    @torch.inference_mode()
    def edit(self, model=None, source="cat", target="dog", subject=True, count=1, **settings):
        values = {"cross_replace": 0.8, "self_replace": 0.4, "blend_threshold": 0.3, **settings}
        if subject:
            values["subject"] = self.subject()
        latent = {"samples": torch.zeros(count, 4, SIDE, SIDE)}
        return self.comfy.node("SubjectP2PEdit").execute(
            model or self.model, self.clip, latent, source, target, "on a sofa", "", **values
        ).result  # fmt: skip

    @torch.inference_mode()
    def recording(self, model=None, tokens="subject"):
        """MODEL and the prompt that it records."""
        prompt = self.comfy.node("SubjectPromptInfix").execute(self.clip, self.subject(), "on the beach")[0]
        node = self.comfy.node("SubjectAttentionMaps")
        return node.execute(model or self.model, prompt, tokens, "", "all", 0.0, 1.0, "")[0], prompt

    def patched(self, node):
        """MODEL, positive and negative of a node, made once."""
        return self.once(("patched", node), lambda: self._patched(node))

    def _patched(self, node):
        if node == "edit":
            return self.edit(blend_threshold=0.0, self_replace=1.0)[:3]
        positive, model = self.scene() if node == "scene" else self.recording()[::-1]
        return model, positive, self.text("")

    def run(self, node, name, cfg=5.0, ours=True):
        """Samples of a node's prompts under a combination, with its MODEL or the plain one, made once."""
        model, positive, negative = self.patched(node)
        given = (model, positive) if ours else (self.model, untagged(positive))
        return self.once(("run", node, name, cfg, ours), lambda: combined(self, name, *given, negative, cfg=cfg))

    @torch.inference_mode()
    def sample(self, model, positive, negative, latent, cfg=5.0, steps=STEPS, **more):
        return self.comfy.nodes.common_ksampler(
            model, 6, steps, cfg, "euler", "normal", positive, negative, latent, **more
        )[0]["samples"]  # fmt: skip

    def once(self, key, make):
        """What `make` gives, made at its first use."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]


def latents(count=2, side=SIDE):
    return {"samples": torch.zeros(count, 4, side, side), "batch_index": [0] * count}


def untagged(conditioning):
    return [[text, {k: v for k, v in options.items() if "blipdiff" not in k}] for text, options in conditioning]


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


ALL = {**PLAIN_PROMPT, **PATCHES}
combinations = pytest.mark.parametrize("name", ALL)
guidances = pytest.mark.parametrize("cfg", [1.0, 5.0])
# Other patches hardly care about guidance, so without it only prompts and areas are tried.
GUIDED = [(name, 5.0) for name in ALL] + [(name, 1.0) for name in PLAIN_PROMPT]
guided = pytest.mark.parametrize(("name", "cfg"), GUIDED, ids=[f"{name}-{cfg:g}" for name, cfg in GUIDED])
IN_AREAS = ("area", "area in shares", "area past the edge", "mask with bounds")


def combined(world, name, model, positive, negative, **more):
    """Samples of two pictures under a combination; random choices of other nodes are the same every time."""
    with torch.inference_mode():
        torch.manual_seed(0)
        arguments = ALL[name](world, model, positive, negative)
        return world.sample(*arguments, more.pop("latent", None) or latents(), **more)


@pytest.fixture(scope="module")
def prompts(world):
    """Prompts of nobody, as two chunks of two."""
    with torch.inference_mode():
        pair = [[torch.cat([world.text(text)[0][0] for text in ("a cat", "a dog")]), {}]]
        return pair, world.text("")


@combinations
def test_patches_leave_other_prompts_alone(world, prompts, name):
    """Bit for bit, all three on one MODEL."""

    def make():
        return world.recording(world.edit(world.scene()[1], blend=False, self_replace=1.0)[0])[0]

    model = world.once("all three", make)
    assert torch.equal(combined(world, name, model, *prompts), combined(world, name, world.model, *prompts))


def tuned_and_baked(world, method):
    """A tuned MODEL, whose weights are patches, and one that was loaded again and given those weights for its own."""
    import comfy.lora

    node = world.comfy.node("SubjectFinetune").PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    photos = torch.rand(2, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        subject = world.loaded.encoder.encode(photos, "dog")
        tuned = node.execute(
            world.model, world.clip, world.loaded.vae, subject, photos, method, 2, 0.01, 1, 4, 7,
            resolution=PIXELS, preview_every=0, precision="fp32",
        ).result[0]  # fmt: skip
        baked = world.load().model
        weights = baked.model.state_dict()
        for key, patches in tuned.patches.items():
            weights[key].copy_(comfy.lora.calculate_weight(patches, weights[key].clone(), key))
    return tuned, baked


@pytest.mark.parametrize("method", ["full", "lora"])
@combinations
def test_a_tuned_model_samples_as_its_weights_do(world, prompts, name, method):
    tuned, baked = world.once(("tuned", method), lambda: tuned_and_baked(world, method))
    ours = combined(world, name, tuned, *prompts)
    assert relative(ours, combined(world, name, baked, *prompts)) < NEAR
    assert relative(ours, combined(world, name, world.model, *prompts)) > 10 * NEAR


@guided
def test_recording_changes_nothing_and_records(world, name, cfg):
    ours = world.run("maps", name, cfg)
    assert torch.equal(ours, world.run("maps", name, cfg, ours=False))
    if name not in IN_AREAS:
        # Sampled again, as a MODEL keeps the records of its last runs only.
        model, positive, negative = world.patched("maps")
        again = combined(world, name, model, positive, negative, cfg=cfg)
        with torch.inference_mode():
            heat, mask, _ = world.comfy.node("SubjectAttentionView").execute(model, {"samples": again}).result
        assert torch.equal(again, ours) and mask.shape == (2, PIXELS, PIXELS)
        assert torch.isfinite(heat).all() and mask.std() > 0


@pytest.mark.parametrize("name", ["perturbed attention guidance", "self-attention guidance"])
def test_what_guidance_computes_besides_is_not_recorded(world, name):
    """In one step the prompt's own evaluation is the same with and without guidance."""
    maps = []
    for each in ("nothing", name):
        model, prompt = world.recording()
        samples = combined(world, each, model, prompt, world.text(""), steps=1)
        with torch.inference_mode():
            maps.append(world.comfy.node("SubjectAttentionView").execute(model, {"samples": samples}).result[1])
    assert torch.equal(*maps)


@guided
def test_an_edit_leaves_its_source_alone(world, name, cfg):
    ours, without = world.run("edit", name, cfg), world.run("edit", name, cfg, ours=False)
    assert relative(ours[0], without[0]) < NEAR and torch.isfinite(ours).all()
    assert relative(ours[1], without[1]) > 10 * NEAR


@guided
def test_an_edit_into_the_same_words_is_the_source(world, name, cfg):
    model, positive, negative, _ = world.once(
        "same words", lambda: world.edit(target="cat", subject=False, self_replace=1.0)
    )
    source, edit = combined(world, name, model, positive, negative, cfg=cfg)
    assert relative(edit, source) < NEAR


@guided
def test_the_mask_of_an_edit_fits_and_stays_where_its_prompt_is(world, name, cfg):
    model, positive, negative = world.patched("edit")
    samples = combined(world, name, model, positive, negative, cfg=cfg)
    with torch.inference_mode():
        found = world.comfy.node("SubjectEditResult").execute(model, {"samples": samples}).result[2]
    assert found.shape == (1, PIXELS, PIXELS) and found.any()
    if name in IN_AREAS:
        assert not found[..., : PIXELS // 2].any() and found[..., PIXELS // 2 :].any()
        source, edit = samples[..., : SIDE // 2]
        assert relative(edit, source) < NEAR


def first_predictions(world, name, model, positive, negative, cfg=5.0):
    """Of a combination's first step: the prompt's picture, the negative's, and what cross-attention gave out in its
    first layer."""
    seen, outs = [], []

    def keep(arguments):
        if not seen:
            seen.extend(arguments[key].clone() for key in ("cond_denoised", "uncond_denoised"))
        return arguments["denoised"]

    def listen(out, options):
        if options["block"] == ("input", 1) and not seen:
            outs.append((out.clone(), tuple(options["cond_or_uncond"]), options["activations_shape"]))
        return out

    model = model.clone()
    model.set_model_sampler_post_cfg_function(keep)
    model.set_model_attn2_output_patch(listen)
    combined(world, name, model, positive, negative, cfg=cfg, steps=1)
    return *seen, outs


@combinations
def test_a_scene_leaves_the_negative_prompt_alone(world, name):
    positive, model = world.scene()
    for negative in (world.text(""), world.text("blurry " * 100)):  # of one row, and as long as the prompt
        ours = first_predictions(world, name, model, positive, negative)
        without = first_predictions(world, name, world.model, untagged(positive), negative)
        assert relative(ours[1], without[1]) < 1e-5
        assert relative(ours[0], without[0]) > 10 * NEAR


@combinations
def test_a_subject_acts_only_in_its_region(world, name):
    """Another dog on the left: cross-attention gives out the same on the right, and for all other prompts."""
    negative, outs = world.text(""), []
    for dog in (1, 9):
        positive, model = world.scene(dog=dog)
        outs.append(first_predictions(world, name, model, positive, negative)[2])
    changed = 0
    for (one, kinds, (*_, height, width)), (other, *_) in zip(*outs, strict=True):
        differs = (one != other).any(dim=-1).unflatten(0, (len(kinds), -1)).unflatten(2, (height, width))
        for kind, places in zip(kinds, differs, strict=True):
            if width == SIDE:  # of the whole picture
                assert not places[..., width // 2 :].any() and not (kind == 1 and places.any())
            else:  # an area on the right; that of the negative is on the left, and is one of the prompt's too
                assert not places.any() or (name == "area of the negative" and kind == 0)
            changed += int(places.any())
    assert changed == (0 if name in IN_AREAS else 2 if name == "area of the negative" else 1)


@pytest.mark.parametrize("name", IN_AREAS)
def test_a_subject_outside_the_area_might_be_another(world, name):
    samples = []
    for dog, ball in ((1, 2), (9, 2), (1, 9)):
        positive, model = world.scene(dog=dog, ball=ball)
        samples.append(combined(world, name, model, positive, world.text("")))
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("node", ["scene", "edit", "maps"])
def test_other_patches_show_as_they_do_without_ours(world, node, name):
    """How far they move the samples, against how far they move those of the same prompts without the patch."""
    ours, theirs = (relative(*(world.run(node, each, ours=own) for each in (name, "nothing"))) for own in (True, False))
    assert ours > theirs / 3 > 0


FOREIGN = list(product(["attn1", "attn2"], ["before", "after"], ["short key", "long key"], ["scene", "edit", "maps"]))


@pytest.mark.parametrize(("kind", "when", "key", "node"), FOREIGN, ids=map("-".join, FOREIGN))
def test_attention_of_others_has_its_full_effect(world, kind, when, key, node):
    """A hook of another pack that adds to every layer's output adds the same beside ours, whole batches in hand."""
    batches = set()

    def adding(model):
        from comfy.ldm.modules.attention import optimized_attention

        def hook(q, k, v, options):
            batches.add((len(q), len(k), options["original_shape"][0]))
            given = optimized_attention(q, k, v, options["n_heads"], attn_precision=options["attn_precision"])
            return given + torch.linspace(-1, 1, q.shape[-1])

        model = model.clone()
        for block in (("input", 1), ("input", 3), ("middle", 0)):
            model.set_model_patch_replace(hook, kind, *block, *([0] if key == "long key" else []))
        return model

    def patched(model):
        if node == "edit":
            return world.edit(model, self_replace=1.0, blend=False)[:3]
        positive, model = world.scene(model) if node == "scene" else world.recording(model)[::-1]
        return model, positive, world.text("")

    def first_layer(model, positive, negative):
        found = []
        model = model.clone()
        listen = getattr(model, f"set_model_{kind}_output_patch")
        listen(lambda out, options: found.append((options["block"], out.clone())) or out)
        combined(world, "nothing", model, positive, negative)
        assert found[0][0] == ("input", 1)
        return found[0][1]

    model, positive, negative = world.once(("for others", node), lambda: patched(world.model))
    ours = world.once(("ours", node, kind), lambda: first_layer(model, positive, negative))
    without = world.once(("plain", node, kind), lambda: first_layer(world.model, untagged(positive), negative))
    theirs = first_layer(adding(world.model), untagged(positive), negative)
    both = first_layer(*(patched(adding(world.model)) if when == "before" else (adding(model), positive, negative)))
    effect = theirs - without
    assert torch.allclose(both - ours, effect, atol=1e-5) and effect.abs().max() > 0.01
    if kind == "attn2" and node != "maps":
        assert relative(ours, without) > NEAR
    assert {(q, k) for q, k, _ in batches} == {(pictures, pictures) for *_, pictures in batches}


def test_attention_that_is_replaced_altogether_stays_replaced(world):
    """A hook that ignores queries and keys, on every layer of self-attention: the same values come out beside an edit,
    which acts on queries and keys."""
    model, positive, negative, _ = world.edit(cross_replace=0.0, self_replace=1.0, blend=False)
    plain_model, samples = world.model, []
    for each, prompt in ((model, positive), (plain_model, untagged(positive))):
        each = each.clone()
        for name, number in (("input", 1), ("input", 3), ("middle", 0), ("output", 2), ("output", 3), ("output", 4)):
            each.set_model_attn1_replace(lambda q, k, v, options: v, name, number)
        samples.append(combined(world, "nothing", each, prompt, negative))
    assert torch.equal(*samples)


def two_stages(world, model, positive, negative, latent, cut=1, **more):
    """KSamplerAdvanced twice, the first handing on its noise."""
    first = world.sample(model, positive, negative, latent, start_step=0, last_step=cut, **more)
    rest = {**latent, "samples": first}
    return world.sample(model, positive, negative, rest, start_step=cut, disable_noise=True, **more)


@guidances
@pytest.mark.parametrize("node", ["plain", "scene", "edit", "maps"])
def test_two_stages_are_one_run(world, node, cfg):
    latent = latents(2)
    if node == "edit":  # whose shares of the run are those of each stage: all or nothing
        right = torch.zeros(1, PIXELS, PIXELS)
        right[..., PIXELS // 2 :] = 1
        model, positive, negative, _ = world.edit(cross_replace=1.0, self_replace=1.0, mask=right)
    else:
        positive, model = world.scene() if node == "scene" else world.recording()[::-1]
        model = world.model if node == "plain" else model
        negative = world.text("")
    whole = world.sample(model, positive, negative, latent, cfg=cfg)
    assert relative(two_stages(world, model, positive, negative, latent, cfg=cfg), whole) < NEAR


@pytest.mark.parametrize("node", ["scene", "edit", "maps"])
@pytest.mark.parametrize(
    ("name", "cfg"), [("nothing", 1.0), ("nothing", 5.0), ("area", 5.0), ("deep shrink by 1.5", 5.0)]
)
def test_a_batch_and_a_list_are_single_runs(world, node, name, cfg):
    """Pictures in one batch, and LATENTs one after the other, as the host goes through a list."""
    model, positive, negative = world.patched(node)
    each = 2 if node == "edit" else 1  # a picture and its edit share their noise
    together = {"samples": torch.zeros(2 * each, 4, SIDE, SIDE), "batch_index": [0] * each + [1] * each}
    batch = combined(world, name, model, positive, negative, latent=together, cfg=cfg)
    for number in (1, 0):
        alone = {"samples": torch.zeros(each, 4, SIDE, SIDE), "batch_index": [number] * each}
        found = combined(world, name, model, positive, negative, latent=alone, cfg=cfg)
        assert relative(found, batch[number * each :][:each]) < NEAR
