"""Editing in the real host: limits that must hold for random weights, any sampler, and whatever the host batches.

Source and edit are items of one batch. Two equal items of a plain batch differ in the last bits (the CPU splits work by
batch), so "equal" means within 1e-4 of the largest value after a few guided steps, unless a test says bit by bit.
"""

import pytest
import torch
from tiny_model import WIDTH

NEAR = 1e-4
STEPS = 4
SAMPLERS = (
    "euler", "ddim", "dpmpp_2m", "heun", "dpm_2", "lms", "uni_pc", "ipndm", "deis", "dpm_adaptive", "res_multistep",
    "euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lcm", "ddpm",
    "er_sde", "seeds_3", "sa_solver", "exp_heun_2_x0_sde", "euler_ancestral_cfg_pp",
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded(load_tiny):
    return load_tiny(seed=33)


@pytest.fixture(scope="module")
def subject(comfy):
    vectors = torch.randn(1, 16, WIDTH, generator=torch.Generator().manual_seed(4))
    return comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(vectors, "dog", "f", "a test")


def empty(count=1, height=8, width=8, **more):
    return {"samples": torch.zeros(count, 4, height, width), **more}


@pytest.fixture
def prepare(comfy, loaded):
    """Edit with Subject as a function."""

    def run(latent=None, source="cat", target="dog", prompt="on a sofa", negative="", **settings):
        values = {"cross_replace": 0.8, "self_replace": 0.4, "blend_threshold": 0.3, **settings}
        model = values.pop("model", loaded.model)
        with torch.inference_mode():
            return comfy.node("SubjectP2PEdit").execute(
                model, loaded.clip, latent or empty(), source, target, prompt, negative, **values
            ).result  # fmt: skip

    return run


@pytest.fixture
def sample(comfy):
    """KSampler as a function; returns the samples."""

    def run(model, positive, negative, latent, sampler="euler", cfg=5.0, seed=6, steps=STEPS, **more):
        with torch.inference_mode():
            return comfy.nodes.common_ksampler(
                model, seed, steps, cfg, sampler, "normal", positive, negative, latent, **more
            )[0]["samples"]

    return run


def near(a, b):
    return float((a - b).abs().max() / b.abs().max()) < NEAR


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_edit_into_the_same_words_is_the_source(prepare, sample, sampler):
    source, edit = sample(*prepare(target="cat", blend=False), sampler=sampler)
    assert near(edit, source)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_edit_into_other_words_differs(prepare, sample, subject, sampler):
    source, edit = sample(*prepare(subject=subject, blend=False), sampler=sampler)
    assert torch.isfinite(edit).all() and not near(edit, source)


@pytest.mark.parametrize("with_subject", [False, True])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_with_everything_off_the_edit_is_plain_sampling_of_its_prompt(
    prepare, sample, loaded, subject, with_subject, cfg
):
    chosen = {"subject": subject} if with_subject else {}
    model, positive, negative, latent = prepare(cross_replace=0.0, self_replace=0.0, blend=False, **chosen)
    ours = sample(model, positive, negative, latent, cfg=cfg)
    plain = [[cond, {}] for cond, _ in positive]
    assert torch.equal(ours, sample(loaded.model, plain, negative, latent, cfg=cfg))


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_a_mask_of_ones_is_no_mask_and_outside_it_is_the_source(prepare, sample, subject, sampler):
    mask = torch.ones(1, 64, 64)
    free = sample(*prepare(subject=subject, blend=False), sampler=sampler)
    assert near(sample(*prepare(subject=subject, mask=mask), sampler=sampler), free)
    mask[:, :, 24:] = 0
    source, edit = sample(*prepare(subject=subject, mask=mask), sampler=sampler)
    # Samplers combine both items by the same sums.
    assert (edit - source)[..., 3:].abs().max() <= 1e-5 * source.abs().max()
    assert not near(edit[..., :3], source[..., :3])


def test_the_automatic_mask_can_be_nothing_and_everything(prepare, sample, subject, comfy):
    for threshold, share in ((1.0, 0.0), (0.0, 1.0)):
        model, *rest = prepare(subject=subject, blend_threshold=threshold)
        samples = sample(model, *rest)
        with torch.inference_mode():
            result = comfy.node("SubjectEditResult").execute(model, {"samples": samples}).result
        source, edit = result[0]["samples"], result[1]["samples"]
        # The one lowest place of each map never belongs to it.
        assert abs(float(result[2].mean()) - share) < 0.1
        assert near(edit, source) == (share == 0.0)


def test_user_masks_replace_intersect_or_add(prepare, sample, subject, comfy):
    left = torch.zeros(1, 64, 64)
    left[:, :, :32] = 1
    used = {}
    for mode in ("replace", "intersect", "add", None):
        chosen = {} if mode is None else {"mask": left, "mask_mode": mode}
        model, *rest = prepare(subject=subject, blend_threshold=0.5, **chosen)
        samples = sample(model, *rest, steps=1)  # one step: the same maps for all
        with torch.inference_mode():
            used[mode] = comfy.node("SubjectEditResult").execute(model, {"samples": samples}).result[2] > 0
    assert torch.equal(used["replace"], left > 0)
    assert torch.equal(used["intersect"], used[None] & (left > 0)) and 0 < used["intersect"].float().mean() < 0.5
    assert torch.equal(used["add"], used[None] | (left > 0)) and used["add"].float().mean() > 0.5


def test_nothing_is_left_in_the_model(prepare, sample, loaded, subject):
    model, positive, negative, latent = prepare(subject=subject)
    plain = [[cond, {}] for cond, _ in positive]
    before = sample(loaded.model, plain, negative, latent)
    sample(model, positive, negative, latent)
    assert torch.equal(sample(loaded.model, plain, negative, latent), before)
    # Prompts of others pass through the patched MODEL untouched as far as attention goes.
    assert not loaded.model.model_options["transformer_options"].get("patches_replace")


def test_an_edit_is_repeatable_and_survives_a_failure(prepare, sample, subject):
    edit = prepare(subject=subject)
    before = sample(*edit)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(sample, edit)
    assert torch.equal(sample(*edit), before)


def _interrupted(sample, edit):
    model, *rest = edit
    model = model.clone()

    def stop(apply_model, arguments):
        raise KeyboardInterrupt

    model.set_model_unet_function_wrapper(stop)
    sample(model, *rest)


def test_clones_of_the_patched_model_edit_too(prepare, sample, subject):
    model, *rest = prepare(subject=subject)
    assert torch.equal(sample(model.clone(), *rest), sample(model, *rest))


def test_one_chunk_at_a_time_gives_the_same(prepare, sample, subject, loaded, monkeypatch):
    edit = prepare(subject=subject)
    together = sample(*edit)
    monkeypatch.setattr(loaded.model.model, "memory_required", lambda *args, **kwargs: 1e20)
    assert near(sample(*edit), together)


@pytest.mark.parametrize("size", [(8, 8), (16, 8), (9, 13)])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_any_size_and_guidance(prepare, sample, subject, size, cfg):
    samples = sample(*prepare(empty(1, *size), subject=subject), cfg=cfg)
    assert samples.shape == (2, 4, *size) and torch.isfinite(samples).all()


def test_a_batch_is_several_edits(prepare, sample, comfy):
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject
    vectors = torch.randn(2, 16, WIDTH, generator=torch.Generator().manual_seed(9))
    both = sample(*prepare(empty(2), subject=Subject(vectors, "dog", "f")))
    assert both.shape[0] == 4
    for index in range(2):
        latent = empty(1, batch_index=[index])
        alone = sample(*prepare(latent, subject=Subject(vectors[index : index + 1], "dog", "f")))
        assert near(both[2 * index : 2 * index + 2], alone)


def test_long_prompts_take_several_rows(prepare, sample, subject):
    long = "on a sofa " + ", with a lamp and a rug and a table" * 8
    model, positive, negative, latent = prepare(prompt=long, subject=subject)
    assert positive[0][0].shape[1] > 77
    assert torch.isfinite(sample(model, positive, negative, latent)).all()


def test_a_prompt_of_thousands_of_words(prepare):
    positive = prepare(prompt=" ".join(f"{word}" for word in ["lamp", "rug", "sofa"] * 1000))[1]
    assert positive[0][0].shape[1] >= 3000


def test_markers_however_they_are_written(prepare, sample, subject):
    for marker in ("[Subject]", "[ subject ]"):
        chosen = {"subject": subject, "blend": False, "reweight": f"{marker}: 2"}
        expected = prepare(prompt="a [subject] on a sofa", **{**chosen, "reweight": "[subject]: 2"})
        model, positive, negative, latent = prepare(prompt=f"a {marker} on a sofa", **chosen)
        assert torch.equal(positive[0][0], expected[1][0][0])
        assert torch.equal(sample(model, positive, negative, latent), sample(*expected))


def test_weights_change_the_edit_only(prepare, sample, subject):
    plain = sample(*prepare(subject=subject, blend=False))
    weighed = sample(*prepare(subject=subject, blend=False, reweight="sofa: 3, [subject]: 0.2"))
    assert near(weighed[0], plain[0]) and not near(weighed[1], plain[1])


def test_advanced_sampler_in_two_parts(prepare, sample, subject):
    model, positive, negative, latent = prepare(subject=subject, blend=False)
    first = sample(model, positive, negative, latent, start_step=0, last_step=2)
    rest = {**latent, "samples": first}
    second = sample(model, positive, negative, rest, start_step=2, disable_noise=True)
    assert torch.isfinite(second).all() and not near(second[1], second[0])


def test_a_noise_mask_is_kept_for_both(prepare, sample, subject):
    latent = {"samples": torch.randn(1, 4, 8, 8), "noise_mask": torch.zeros(1, 1, 64, 64)}
    samples = sample(*prepare(latent, subject=subject))
    assert (samples - latent["samples"]).abs().max() < 1e-4


def test_the_pairs_share_numbers_and_noise(prepare):
    *_, latent = prepare(empty(2, batch_index=[3, 7], extra="kept"))
    assert latent["batch_index"] == [3, 3, 7, 7] and latent["extra"] == "kept"


def test_the_published_sampler_edits_as_well(prepare, subject, comfy):
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    model, positive, negative, latent = prepare(subject=subject, blend=False)
    with torch.inference_mode():
        sigmas = comfy.node("SubjectSchedulePNDM").execute(model, STEPS, 1.0)[0]
        sampler = comfy.node("SubjectSamplerPNDM").execute()[0]
        out = SamplerCustom.execute(model, True, 3, 5.0, positive, negative, sampler, sigmas, latent)[0]["samples"]
    assert torch.isfinite(out).all() and not near(out[1], out[0])


REFUSALS = [
    ({"blend_words": "tiger"}, "'tiger' is not in the prompt. Its words are: a, cat, on, sofa"),
    ({"reweight": "tiger: 2"}, "'tiger' is not in the prompt"),
    ({"reweight": "sofa"}, "reweight holds 'sofa'"),
    ({"source": " "}, "category is empty"),
    ({"source": "<|endoftext|>"}, "'<.endoftext.>' is not in the prompt"),
    ({"target": "<|endoftext|>"}, "'<.endoftext.>' is not in the prompt"),
    ({"target": ""}, "category is empty"),
    ({"latent": {"samples": torch.zeros(1, 4, 8)}}, "shape"),
    ({"latent": {"samples": torch.zeros(1, 16, 8, 8)}}, r"takes pictures \[N, 4"),
    ({"latent": {"samples": torch.full((1, 4, 8, 8), float("nan"))}}, "NaN"),
    ({"mask": torch.zeros(1, 64, 64)}, "mask is empty"),
    ({"mask": torch.full((1, 64, 64), float("nan"))}, "NaN"),
    ({"mask": torch.ones(3, 64, 64)}, "3 masks for 1 latents"),
    ({"mask": torch.ones(1, 1, 64, 64)}, "a MASK is"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSALS, ids=[said[:20] for _, said in REFUSALS])
def test_what_cannot_be_edited_is_said(prepare, subject_error, settings, said):
    with pytest.raises(subject_error, match=said):
        prepare(**settings)


def test_subjects_must_fit_the_latents(prepare, comfy, subject_error):
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject
    with pytest.raises(subject_error, match="2 subjects for 3 latents"):
        prepare(empty(3), subject=Subject(torch.randn(2, 16, WIDTH), "dog", "f"))
    with pytest.raises(subject_error, match="width 768"):
        prepare(subject=Subject(torch.randn(1, 16, 768), "dog", "f"))


def test_an_adaptive_sampler_shares_the_noise_that_it_is_asked_to_add(prepare, comfy):
    import comfy.samplers as samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    model, positive, negative, latent = prepare(target="cat", blend=False)
    sigmas = torch.tensor([10.0, 3.0, 0.3, 0.0])
    adaptive = samplers.ksampler("dpm_adaptive", {"eta": 1.0})
    with torch.inference_mode():
        source, edit = SamplerCustom.execute(model, True, 3, 5.0, positive, negative, adaptive, sigmas, latent)[0][
            "samples"
        ]
    assert near(edit, source)


def test_an_odd_batch_and_a_churning_sampler_are_refused(prepare, subject, subject_error, comfy):
    import comfy.samplers as samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    model, positive, negative, latent = prepare(subject=subject)
    with torch.inference_mode(), pytest.raises(subject_error, match="goes in pairs"):
        comfy.nodes.common_ksampler(model, 1, 2, 5.0, "euler", "normal", positive, negative, empty())
    sigmas = torch.tensor([10.0, 3.0, 0.0])
    churning = samplers.ksampler("euler", {"s_churn": 1.0})
    with torch.inference_mode(), pytest.raises(subject_error, match="adds noise of its own.*dpmpp_2m"):
        SamplerCustom.execute(model, True, 3, 5.0, positive, negative, churning, sigmas, latent)
    # The host keeps sampler objects; what was lent to one is taken back.
    ancestral = samplers.ksampler("euler_ancestral")
    with torch.inference_mode():
        SamplerCustom.execute(model, True, 3, 5.0, positive, negative, ancestral, sigmas, latent)
    assert "noise_sampler" not in ancestral.extra_options


def test_a_model_without_cross_attention_is_refused(prepare, subject_error):
    class Other:
        model = type("Flux", (), {"diffusion_model": torch.nn.Linear(1, 1)})()
        get_model_object = None  # by which a MODEL is known

    with pytest.raises(subject_error, match="no UNet with cross-attention"):
        prepare(model=Other())


def test_results_belong_to_their_runs(prepare, sample, subject, comfy, subject_error, loaded):
    result = comfy.node("SubjectEditResult").execute
    model, *rest = prepare(subject=subject, blend_threshold=0.5)
    runs = [sample(model, *rest, seed=seed) for seed in (1, 2)]
    with torch.inference_mode():
        masks = [result(model, {"samples": samples}).result[2] for samples in runs]
        assert not torch.equal(*masks)
        assert torch.equal(result(model, {"samples": runs[0]}).result[2], masks[0])
        with pytest.raises(subject_error, match="not from a run of this MODEL"):
            result(model, {"samples": runs[0] * 1.01})
        with pytest.raises(subject_error, match="does not edit"):
            result(loaded.model, {"samples": runs[0]})
        source, edit, _, picture = result(model, {"samples": runs[0]}).result
    assert torch.equal(source["samples"], runs[0][0::2]) and torch.equal(edit["samples"], runs[0][1::2])
    assert type(picture).__name__ == "ExecutionBlocker" and "VAE" in picture.message


CHAINED = {"source": "mug", "target": "ball", "prompt": "on a table", "blend_threshold": 0.5}


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_an_edit_on_the_model_of_another_takes_its_place(prepare, sample, subject, comfy, sampler):
    left, result = torch.zeros(1, 64, 64), comfy.node("SubjectEditResult").execute
    left[..., :32] = 1
    first = prepare(subject=subject, mask=left)
    second, alone = prepare(**CHAINED, model=first[0]), prepare(**CHAINED)
    samples = sample(*second, sampler=sampler)
    assert torch.equal(samples, sample(*alone, sampler=sampler))
    with torch.inference_mode():
        masks = [result(each[0], {"samples": samples}).result[2] for each in (second, alone)]
    assert torch.equal(*masks)
    # The first one's own MODEL is as it was.
    samples = sample(*first, sampler=sampler)
    assert torch.equal(samples, sample(*prepare(subject=subject, mask=left), sampler=sampler))
    with torch.inference_mode():
        assert torch.equal(result(first[0], {"samples": samples}).result[2], left)


def test_a_picture_is_edited_twice_with_models_in_a_row(prepare, sample, comfy, loaded, subject):
    """Edit, take the edited picture, invert it and edit it again, each with the MODEL of the node before."""

    def twice(chained):
        with torch.inference_mode():
            model, *rest = prepare(subject=subject)
            samples = {"samples": sample(model, *rest)}
            edited = comfy.node("SubjectEditResult").execute(model, samples).result[1]
            model = model if chained else loaded.model
            inverted = comfy.node("SubjectInvert").execute(model, loaded.clip, edited, "dog", "on a sofa", STEPS)[0]
        return sample(*prepare(inverted, source="dog", target="cat", model=model))

    assert torch.equal(twice(True), twice(False))


def test_prompts_of_two_edits_in_one_run(prepare, sample, comfy):
    """The last edit's settings hold for both, with each one's own columns."""
    first = prepare(blend=False)
    model, positive, negative, latent = prepare(**CHAINED, blend=False, model=first[0])
    both = sample(model, positive + first[1], negative, latent)
    assert torch.isfinite(both).all() and not near(both[1], both[0])
    same = [prepare(source=each, target=each, blend=False)[1] for each in ("cat", "mug")]
    assert near(*sample(model, same[0] + same[1], negative, latent))


def test_a_run_without_prompts_of_an_edit_is_plain(prepare, sample, comfy, loaded, subject, subject_error):
    model, positive, negative, latent = prepare(subject=subject, mask=torch.ones(1, 64, 64))
    plain = [[cond, {}] for cond, _ in positive]
    one = [[cond[:1], {}] for cond, _ in positive]
    assert torch.equal(sample(model, one, negative, empty()), sample(loaded.model, one, negative, empty()))
    samples = sample(model, plain, negative, latent, seed=77)  # not those of an edit with all controls at 0
    assert torch.equal(samples, sample(loaded.model, plain, negative, latent, seed=77))
    with pytest.raises(subject_error, match="another positive prompt made them"):
        comfy.node("SubjectEditResult").execute(model, {"samples": samples})


def test_soft_edges_with_a_sampler_that_stops_short(prepare, sample, subject):
    """uni_pc ends just before the picture: the last bit is the source's where the mask is black, and only there."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :24], mask[:, :, 24:48] = 1, 0.3
    source, edit = sample(*prepare(subject=subject, mask=mask), sampler="uni_pc")
    apart = (edit - source).abs().amax(0)
    assert not apart[:, 6:].any()
    assert (apart[:, :6] > 0).all()


@pytest.mark.parametrize("feather", [0, 1, 7, 64])
def test_outside_the_mask_the_original_comes_through(prepare, sample, subject, comfy, loaded, feather):
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    model, *rest = prepare(subject=subject, mask=mask)
    samples = {"samples": sample(model, *rest)}
    original = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        node = comfy.node("SubjectEditResult")
        *_, used, picture = node.execute(model, samples, loaded.vae, original, True, feather).result
        decoded = node.execute(model, samples, loaded.vae, original, False).result[3]
    assert torch.equal(picture[used <= 0], original[used <= 0])
    if feather < 32:
        assert torch.allclose(picture[:, 30:34, 30:34], decoded[:, 30:34, 30:34], atol=1e-6)


def test_originals_of_other_sizes(prepare, sample, subject, comfy, loaded, subject_error):
    model, *rest = prepare(subject=subject, mask=torch.ones(1, 64, 64))
    samples = {"samples": sample(model, *rest)}
    with torch.inference_mode():
        run = comfy.node("SubjectEditResult").execute
        assert run(model, samples, loaded.vae, torch.rand(1, 70, 64, 3)).result[3].shape == (1, 64, 64, 3)
        assert run(model, samples, loaded.vae, torch.rand(1, 64, 64, 1)).result[3].shape == (1, 64, 64, 3)
        sizes = {(1, 96, 64, 3): "64x96 pixels, the edit 64x64", (3, 64, 64, 3): "3 originals",
                 (1, 64, 64, 2): "The original has the shape", (64, 64, 3): "The original has the shape"}  # fmt: skip
        for size, said in sizes.items():
            wrong = torch.rand(size)
            with pytest.raises(subject_error, match=said):
                run(model, samples, loaded.vae, wrong)


def test_markers_that_pass_as_words_are_pointed_out(prepare, on_node):
    prepare(prompt="[subjekt] on a sofa", target_prompt="a {subject} in the snow")
    assert len(on_node) == 1 and on_node[0].startswith("[subjekt], {subject} in the prompt is read as words.")
    prepare(prompt="[Subject] on a sofa", target_prompt="a subject of the king")
    assert len(on_node) == 1
