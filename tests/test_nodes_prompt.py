"""A subject in the host's own prompt encoding.

The reference is transformers' CLIPTextModel with the subject's vectors put in place of token embeddings by a hook, on
ids from the pack's own tokenizer. Both sides run float32: 1e-5 relative leaves room for another order of operations.
Where the host is compared with itself the result must be the same to the bit.
"""

import copy
import dataclasses

import pytest
import torch
from tiny_model import CONFIG, WIDTH, host_clip, reference_modules

from blipdiff_impl.prompts.tokenizers import clip_ids

EXACT = 1e-5
START, END = 49406, 49407
VECTORS = 16


@pytest.fixture(scope="module")
def text_module(comfy):
    return comfy.module("nodes.host.blip_diffusion.prompt")


@pytest.fixture(scope="module")
def reference():
    return reference_modules(CONFIG, seed=5)["text_encoder"]


@pytest.fixture(scope="module")
def clip(comfy, reference):
    return host_clip(comfy, reference)


@pytest.fixture(scope="module")
def make_subject(comfy):
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject

    def make(count=1, width=WIDTH, seed=0, category="dog"):
        vectors = torch.randn(count, VECTORS, width, generator=torch.Generator().manual_seed(seed))
        return Subject(vectors, category, "fingerprint", "a test")

    return make


@pytest.fixture
def infix(comfy):
    """SubjectPromptInfix as a function; returns the host's conditioning list."""

    def run(clip, subject, prompt, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectPromptInfix").execute(clip, subject, prompt, **inputs)[0]

    return run


@pytest.fixture
def host_encode(comfy):
    """The host's own CLIPTextEncode."""

    def run(clip, text):
        with torch.inference_mode():
            return comfy.node("CLIPTextEncode")().encode(clip, text)[0]

    return run


def padded(ids):
    return [START, *ids, END, *[END] * (75 - len(ids))]


def transformers_encode(model, ids, vectors, at):
    """Last hidden state `[1, 77, W]` with `vectors` in place of the embeddings of positions `at`.. ."""

    def splice(module, inputs, output):
        return torch.cat([output[:, :at], vectors[None], output[:, at + len(vectors) :]], dim=1)

    handle = embedding(model).register_forward_hook(splice)
    try:
        return model(torch.tensor([ids])).last_hidden_state
    finally:
        handle.remove()


def embedding(model):
    return getattr(model, "text_model", model).embeddings.token_embedding


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def released_ids(phrase, repetitions=20):
    """61 ids of the repeated phrase, with sixteen more where the vectors go."""
    ids = clip_ids(", ".join([phrase] * repetitions))[:59]
    return padded([ids[0], *[0] * VECTORS, *ids[1:]])


def test_released_template_is_the_published_splice(infix, clip, reference, make_subject):
    subject = make_subject()
    found = infix(clip, subject, "swimming underwater")[0][0]
    expected = transformers_encode(reference, released_ids("a dog swimming underwater"), subject.embeddings[0], 2)
    assert found.shape == (1, 77, WIDTH)
    assert relative_error(found, expected) < EXACT


def test_paper_template_ends_with_the_subject(infix, clip, reference, make_subject):
    subject = make_subject()
    words = clip_ids("on a beach, the dog is")
    expected = transformers_encode(reference, padded([*words, *[0] * VECTORS]), subject.embeddings[0], 1 + len(words))
    assert relative_error(infix(clip, subject, "on a beach", template="paper")[0][0], expected) < EXACT


@pytest.mark.parametrize("template", ["released", "paper"])
def test_marker_places_the_subject(infix, clip, reference, make_subject, template):
    subject = make_subject()
    before, after = clip_ids("two cats and"), clip_ids("in the snow")
    expected = transformers_encode(
        reference, padded([*before, *[0] * VECTORS, *after]), subject.embeddings[0], 1 + len(before)
    )
    found = infix(clip, subject, "two cats and [subject] in the snow", template=template)[0][0]
    assert relative_error(found, expected) < EXACT


def test_category_of_the_node_wins_over_the_subjects_own(infix, clip, reference, make_subject):
    subject = make_subject(category="dog")
    expected = transformers_encode(reference, released_ids("a tiger on a beach"), subject.embeddings[0], 2)
    assert relative_error(infix(clip, subject, "on a beach", category="tiger")[0][0], expected) < EXACT


@pytest.mark.parametrize(
    "prompt",
    ["on a beach", "on a (sandy:1.4) beach", r"a smile \(:", "word " * 100],
    ids=["plain", "weight", "escape", "long"],
)
def test_strength_zero_is_the_hosts_own_encoding(infix, host_encode, clip, make_subject, prompt):
    found = infix(clip, make_subject(), prompt, subject_strength=0.0)
    expected = host_encode(clip, f"a dog {' '.join(prompt.split())}")
    assert torch.equal(found[0][0], expected[0][0])
    assert torch.equal(found[0][1]["pooled_output"], expected[0][1]["pooled_output"])


def test_strength_blends_plain_and_subject(infix, clip, make_subject):
    subject = make_subject(2)
    plain, full = (infix(clip, subject, "on a beach", subject_strength=s)[0][0] for s in (0.0, 1.0))
    half, more = (infix(clip, subject, "on a beach", subject_strength=s)[0][0] for s in (0.5, 1.5))
    assert half.shape == (2, 77, WIDTH)
    torch.testing.assert_close(half, (plain + full) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(more, plain + 1.5 * (full - plain), rtol=0, atol=1e-5)


def test_strength_between_works_where_the_subject_adds_a_row(infix, host_encode, clip, make_subject):
    """70 words fit one row without the subject and need two with it: the plain side gets an empty row."""
    subject, prompt = make_subject(), "word " * 70
    full = infix(clip, subject, prompt)[0][0]
    plain = host_encode(clip, f"a dog {prompt.strip()}")[0][0]
    assert (plain.shape[1], full.shape[1]) == (77, 154)
    half = infix(clip, subject, prompt, subject_strength=0.5)[0][0]
    empty = host_encode(clip, "")[0][0]
    torch.testing.assert_close(half, (torch.cat([plain, empty], 1) + full) / 2, rtol=0, atol=1e-6)


def test_weights_move_only_their_own_positions(infix, host_encode, clip, make_subject):
    subject = make_subject()
    plain = infix(clip, subject, "sandy beach", prompt_reps=1)[0][0]
    weighted = infix(clip, subject, "(sandy:1.5) beach", prompt_reps=1)[0][0]
    place = 1 + 1 + VECTORS + 1  # start, "a", the subject, "dog"
    empty = host_encode(clip, "")[0][0]
    expected = plain.clone()
    expected[:, place] = (plain[:, place] - empty[:, place]) * 1.5 + empty[:, place]
    torch.testing.assert_close(weighted, expected, rtol=0, atol=1e-6)


def test_the_subject_can_be_weighted(infix, host_encode, clip, make_subject):
    subject = make_subject()
    plain = infix(clip, subject, "[subject] on a beach")[0][0]
    weighted = infix(clip, subject, "([subject]:0.5) on a beach")[0][0]
    empty = host_encode(clip, "")[0][0]
    expected = plain.clone()
    expected[:, 1:17] = (plain[:, 1:17] + empty[:, 1:17]) / 2
    torch.testing.assert_close(weighted, expected, rtol=0, atol=1e-6)


def test_embeddings_of_the_user_are_found(comfy, infix, clip, reference, make_subject):
    from pathlib import Path

    from safetensors.torch import save_file

    folder = Path(comfy.folder_paths.get_folder_paths("embeddings")[0])
    folder.mkdir(parents=True, exist_ok=True)
    style = torch.randn(2, WIDTH)
    save_file({"emb_params": style}, folder / "host_text_style.safetensors")
    subject = make_subject()
    found = infix(clip, subject, "[subject] by embedding:host_text_style")[0][0]
    by = clip_ids("by")
    vectors = torch.cat([subject.embeddings[0], embedding(reference)(torch.tensor(by)), style])
    ids = padded([0] * (VECTORS + len(by) + len(style)))
    assert relative_error(found, transformers_encode(reference, ids, vectors, 1)) < EXACT


def test_prompts_longer_than_a_row_go_on_in_further_rows(infix, clip, reference, make_subject):
    subject = make_subject()
    words = clip_ids("word " * 100)
    found = infix(clip, subject, "word " * 100)[0][0]
    dog = clip_ids("dog")
    first = [320, *[0] * VECTORS, *dog, *words[: 75 - 1 - VECTORS - len(dog)]]
    rest = words[75 - 1 - VECTORS - len(dog) :]
    expected = [
        transformers_encode(reference, padded(first), subject.embeddings[0], 2),
        reference(torch.tensor([padded(rest)])).last_hidden_state,
    ]
    assert found.shape == (1, 154, WIDTH)
    assert relative_error(found, torch.cat(expected, 1)) < EXACT


def test_lora_on_the_clip_acts(infix, clip, reference, make_subject):
    name = "encoder.layers.1.mlp.fc1.weight"
    delta = torch.randn(CONFIG.text_encoder.intermediate_size, WIDTH) * 0.3
    patched = clip.clone()
    assert patched.add_patches({f"clip_l.transformer.text_model.{name}": ("diff", (delta,))}, 0.7)
    changed = copy.deepcopy(reference)
    dict(changed.named_parameters())[_parameter_name(changed, name)].add_(0.7 * delta)
    subject = make_subject()
    expected = transformers_encode(changed, released_ids("a dog on a beach"), subject.embeddings[0], 2)
    assert relative_error(infix(patched, subject, "on a beach")[0][0], expected) < EXACT
    without = transformers_encode(reference, released_ids("a dog on a beach"), subject.embeddings[0], 2)
    assert relative_error(infix(clip, subject, "on a beach")[0][0], without) < EXACT


def _parameter_name(model, tail):
    return next(name for name, _ in model.named_parameters() if name.endswith(tail))


def test_clip_skip_acts(infix, clip, reference, make_subject):
    skipping = clip.clone()
    skipping.clip_layer(-2)
    subject = make_subject()
    hidden = {}
    layers = getattr(reference, "text_model", reference).encoder.layers

    def keep(module, inputs, output):
        hidden["state"] = output[0] if isinstance(output, tuple) else output

    handle = layers[-2].register_forward_hook(keep)
    transformers_encode(reference, released_ids("a dog on a beach"), subject.embeddings[0], 2)
    handle.remove()
    expected = getattr(reference, "text_model", reference).final_layer_norm(hidden["state"])
    assert relative_error(infix(skipping, subject, "on a beach")[0][0], expected) < EXACT


def test_scheduled_hooks_give_one_entry_each(comfy, infix, host_encode, clip, make_subject):
    """A LoRA hook that fades out over the steps: the node makes the entries that the host's text node makes."""
    import comfy.hooks as hooks

    name = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    group = hooks.create_hook_lora({}, 1.0, 1.0)
    group.hooks[0].weights_clip = {name: ("diff", (torch.ones(CONFIG.text_encoder.intermediate_size, WIDTH) * 0.2,))}
    group.hooks[0].need_weight_init = False
    frames = hooks.HookKeyframeGroup()
    frames.add(hooks.HookKeyframe(1.0, start_percent=0.0))
    frames.add(hooks.HookKeyframe(0.0, start_percent=0.5))
    group.set_keyframes_on_hooks(frames)
    hooked = clip.clone()
    hooked.apply_hooks_to_conds = group
    hooked.patcher.forced_hooks = group.clone()
    hooked.use_clip_schedule = True
    hooked.patcher.register_all_hook_patches(group, hooks.create_target_dict(hooks.EnumWeightTarget.Clip))

    subject = make_subject()
    ranges = [(entry[1]["clip_start_percent"], entry[1]["clip_end_percent"]) for entry in host_encode(hooked, "a dog")]
    for strength in (1.0, 0.5):
        found = infix(hooked, subject, "on a beach", subject_strength=strength)
        assert [(entry[1]["clip_start_percent"], entry[1]["clip_end_percent"]) for entry in found] == ranges
        assert len(found) == 2 and all("hooks" in entry[1] for entry in found)
        unhooked = infix(clip, subject, "on a beach", subject_strength=strength)[0][0]
        assert torch.equal(found[1][0], unhooked)  # strength 0 of the hook
        assert (found[0][0] - unhooked).abs().max() > 0.01


def test_a_batch_of_subjects_is_a_batch_of_conditionings(infix, clip, make_subject):
    pair = make_subject(2)
    found = infix(clip, pair, "on a beach")[0][0]
    for index in range(2):
        single = dataclasses.replace(pair, embeddings=pair.embeddings[index : index + 1])
        assert torch.equal(found[index : index + 1], infix(clip, single, "on a beach")[0][0])
    assert not torch.equal(found[0], found[1])


def test_a_subject_of_another_width_is_refused_with_both_numbers(infix, clip, make_subject, subject_error):
    with pytest.raises(subject_error, match=f"width 768.*width {WIDTH}"):
        infix(clip, make_subject(width=768), "on a beach")


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_clip_of_sdxl_is_refused_and_named(comfy, infix, make_subject, subject_error, strength):
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    small = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    clip = comfy.sd.CLIP(
        ClipTarget(SDXLTokenizer, SDXLClipModel),
        model_options={"clip_l_model_config": small, "clip_g_model_config": small},
    )
    with pytest.raises(subject_error, match="'g'.*Stable Diffusion 1.5"):
        infix(clip, make_subject(width=64), "on a beach", subject_strength=strength)


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t "])
def test_an_empty_prompt_draws_the_subject_alone(infix, clip, make_subject, prompt):
    alone = infix(clip, make_subject(), prompt, prompt_reps=1)
    assert torch.equal(alone[0][0], infix(clip, make_subject(), "a [subject] dog")[0][0])


def test_a_subject_without_category_needs_one(infix, clip, make_subject, subject_error):
    with pytest.raises(subject_error, match="category is empty"):
        infix(clip, make_subject(category=""), "on a beach", category="  ")


def test_a_subject_of_another_encoder_works_with_a_warning(infix, clip, make_subject, caplog):
    clip.cond_stage_model.blipdiffusion_subject_encoder = "another"
    try:
        infix(clip, make_subject(), "on a beach")
        assert "made by the encoder of another model" in caplog.text
        caplog.clear()
        clip.cond_stage_model.blipdiffusion_subject_encoder = "fingerprint"
        infix(clip, make_subject(), "on a beach")
        assert "another model" not in caplog.text
    finally:
        del clip.cond_stage_model.blipdiffusion_subject_encoder
