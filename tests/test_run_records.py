"""Masks of edits and attention maps are found for as long as the LATENT lives: whatever became of the MODEL, of the
batch, and of the order in which the host runs nodes. Graphs go through the host's own executor."""

import copy
import gc
from types import SimpleNamespace

import pytest
import torch
from tiny_model import WIDTH

pytest_plugins = ["hostile_prompts"]

PLENTY = 1 << 50
EDIT = {"source_category": "cat", "target_category": "dog", "prompt": "on a sofa", "negative": "", "cross_replace": 0.8,
        "self_replace": 0.4, "blend_threshold": 0.5}  # fmt: skip
MAPS = {"tokens": "chosen words", "words": "dog, beach", "layers": "all", "start": 0.0, "end": 1.0}
SAMPLER = {"seed": 3, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


@pytest.fixture(scope="module")
def loaded(load_tiny):
    return load_tiny(seed=33)


@pytest.fixture(scope="module")
def subject(comfy):
    vectors = torch.randn(1, 16, WIDTH, generator=torch.Generator().manual_seed(4))
    return comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(vectors, "dog", "f", "a test")


@pytest.fixture(scope="module")
def seen():
    """What came to the end of a graph: lists of values by the name of the end."""
    return {}


@pytest.fixture(scope="module")
def any_nodes(comfy, handed, seen):
    """A beginning that hands on a value, and an end that keeps what comes; beside them nodes of the host's extras."""
    from comfy_api.latest import io
    from comfy_extras.nodes_custom_sampler import (
        BasicGuider,
        BasicScheduler,
        CFGGuider,
        KSamplerSelect,
        RandomNoise,
        SamplerCustomAdvanced,
    )
    from comfy_extras.nodes_rebatch import LatentRebatch

    class AnySource(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema("AnySource", inputs=[io.String.Input("key")], outputs=[io.AnyType.Output()])

        @classmethod
        def execute(cls, key):
            return io.NodeOutput(handed[key])

    class AnyEnd(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                "AnyEnd", inputs=[io.String.Input("name"), io.AnyType.Input("value")], outputs=[], is_output_node=True
            )

        @classmethod
        def execute(cls, name, value):
            seen.setdefault(name, []).append(value)
            return io.NodeOutput()

    return [AnySource, AnyEnd, LatentRebatch, BasicGuider, CFGGuider, BasicScheduler, KSamplerSelect, RandomNoise,
            SamplerCustomAdvanced]  # fmt: skip


@pytest.fixture
def start(handed, seen, loaded, subject):
    """The beginnings of a graph."""
    seen.clear()
    values = {"model": loaded.model, "clip": loaded.clip, "vae": loaded.vae, "subject": subject}
    handed.update(values)
    return {name: node("AnySource", key=name) for name in values}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def edit_graph(start, latents=1, seed=3, rebatch=0, feather=8):
    return {
        **start,
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=latents),
        "edit": node("SubjectP2PEdit", model=["model", 0], clip=["clip", 0], latent=["empty", 0],
                     subject=["subject", 0], **EDIT),
        "batches": node("RebatchLatents", latents=["edit", 3], batch_size=rebatch or 64),
        "sampled": node("KSampler", model=["edit", 0], positive=["edit", 1], negative=["edit", 2],
                        latent_image=["batches", 0] if rebatch else ["edit", 3], **SAMPLER | {"seed": seed}),
        "result": node("SubjectEditResult", model=["edit", 0], samples=["sampled", 0], vae=["vae", 0], feather=feather),
        "mask": node("AnyEnd", name="mask", value=["result", 2]),
        "picture": node("AnyEnd", name="picture", value=["result", 3]),
    }  # fmt: skip


def maps_graph(start, latents=1, seed=3, rebatch=0, opacity=0.6):
    return {
        **start,
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=latents),
        "prompt": node("SubjectPromptInfix", clip=["clip", 0], subject=["subject", 0], prompt="on the beach",
                       category="", template="released", prompt_strength=1.0, prompt_reps=1, subject_strength=1.0),
        "record": node("SubjectAttentionMaps", model=["model", 0], conditioning=["prompt", 0], **MAPS),
        "batches": node("RebatchLatents", latents=["empty", 0], batch_size=rebatch or 64),
        "sampled": node("KSampler", model=["record", 0], positive=["prompt", 0], negative=["prompt", 0],
                        latent_image=["batches", 0], **SAMPLER | {"seed": seed}),
        "view": node("SubjectAttentionView", model=["record", 0], samples=["sampled", 0], opacity=opacity),
        "mask": node("AnyEnd", name="mask", value=["view", 1]),
    }  # fmt: skip


GRAPHS = {"edit": edit_graph, "maps": maps_graph}
OTHER_GRAPH = {"other": node("EmptyLatentImage", width=64, height=64, batch_size=2),
               "end": node("AnyEnd", name="other", value=["other", 0])}  # fmt: skip


@pytest.fixture
def pressed(executor, monkeypatch):
    """The host's default executor, and a switch for memory that is short until no MODEL of an earlier graph is kept."""
    import execution
    import psutil

    found = type(executor)(execution)
    limits = {"ram": 1.0, "ram_inactive": 1.0, "lru": 0}
    found.executor = execution.PromptExecutor(found.executor.server, execution.CacheType.RAM_PRESSURE, limits)
    state = SimpleNamespace(run=found.run, short=False, cache=found.executor.caches.outputs)

    def available():
        cache = state.cache
        old = [outputs_of(e) for key, e in cache.cache.items() if cache.used_generation[key] != cache.generation]
        models = any(hasattr(value, "get_attachment") for outputs in old for value in outputs)
        return SimpleNamespace(available=0 if state.short and models else PLENTY, total=PLENTY)

    monkeypatch.setattr(psutil, "virtual_memory", available)
    return state


def outputs_of(entry):
    """All values of a node's entry in the host's cache."""
    return [value for values in (entry.outputs if hasattr(entry, "outputs") else entry[0]) for value in values]


@pytest.mark.parametrize(("kind", "change"), [("edit", {"feather": 3}), ("maps", {"opacity": 0.3})])
def test_a_model_that_the_host_gave_up(pressed, start, seen, kind, change):
    build = GRAPHS[kind]
    assert pressed.run(build(start)) == []
    pressed.short = True
    assert pressed.run(OTHER_GRAPH) == []
    pressed.short = False
    kept = [value for entry in pressed.cache.cache.values() for value in outputs_of(entry)]
    assert any(isinstance(value, dict) for value in kept) and not any(hasattr(v, "get_attachment") for v in kept)
    assert pressed.run(build(start, **change)) == []
    first, second = seen["mask"]
    assert torch.equal(first, second) and first.any()


@pytest.mark.parametrize("kind", GRAPHS)
def test_memory_that_is_short_all_the_time(pressed, start, seen, kind, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 28, total=PLENTY))
    for graph in (GRAPHS[kind](start), OTHER_GRAPH, GRAPHS[kind](start)):
        assert pressed.run(graph) == []
    assert torch.equal(*seen["mask"])


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_list_of_more_batches_than_anyone_counts(executor, start, seen, kind):
    """The host ends the whole list in the sampler before the next node starts."""
    latents = 7
    assert executor.run(GRAPHS[kind](start, latents, seed=11, rebatch=2 if kind == "edit" else 1)) == []
    masks = seen.pop("mask")
    assert len(masks) == latents and len({mask.numpy().tobytes() for mask in masks}) > 1
    assert executor.run(GRAPHS[kind](start, latents, seed=11)) == []
    together = seen["mask"][0]
    # A batch and its parts differ in the last bits, and so may a cell that lies at the threshold.
    assert (together - torch.cat(masks)).abs().mean() < 0.02


@pytest.fixture
def edited(comfy, loaded, subject):
    """MODEL, both prompts and LATENT of an edit, by the number of pictures."""

    def run(latents=1):
        with torch.inference_mode():
            empty = {"samples": torch.zeros(latents, 4, 8, 8)}
            node = comfy.node("SubjectP2PEdit")
            return node.execute(loaded.model, loaded.clip, latent=empty, subject=subject, **EDIT).result

    return run


@pytest.fixture
def recorded(comfy, loaded, subject):
    """MODEL, prompts and LATENT of a run whose maps are recorded."""

    def run(latents=1):
        with torch.inference_mode():
            positive = comfy.node("SubjectPromptInfix").execute(loaded.clip, subject, "on the beach")[0]
            model = comfy.node("SubjectAttentionMaps").execute(loaded.model, positive, **MAPS)[0]
            return model, positive, positive, {"samples": torch.zeros(latents, 4, 8, 8)}

    return run


@pytest.fixture
def prepared(edited, recorded):
    """Either, by its name."""
    return {"edit": edited, "maps": recorded}


@pytest.fixture
def sample(comfy):
    def run(model, positive, negative, latent, seed=6, steps=3, **more):
        with torch.inference_mode():
            return comfy.nodes.common_ksampler(
                model, seed, steps, 4.0, "euler", "normal", positive, negative, latent, **more
            )[0]

    return run


@pytest.fixture
def look(comfy):
    """The MASK that belongs to samples."""

    def run(model, samples):
        kind, place = ("SubjectEditResult", 2) if model.get_attachment("blipdiffusion_edit") else (
            "SubjectAttentionView", 1)  # fmt: skip
        with torch.inference_mode():
            return comfy.node(kind).execute(model, samples).result[place]

    return run


@pytest.mark.parametrize("kind", GRAPHS)
def test_pictures_of_batches_that_were_cut_and_joined(prepared, sample, look, kind):
    run = prepared[kind](3)
    samples, more = sample(*run), sample(*run, seed=7)
    each, masks = len(samples["samples"]) // 3, torch.cat([look(run[0], samples), look(run[0], more)])
    both = torch.cat([samples["samples"], more["samples"]])
    for pictures in ([4], [2, 3], [5, 0, 0, 1]):
        chosen = torch.cat([both[each * i : each * (i + 1)] for i in pictures])
        assert torch.equal(look(run[0], {"samples": chosen}), masks[pictures])


def test_a_part_of_the_pictures_that_were_inverted(comfy, loaded, subject, sample, look, subject_error):
    from comfy_extras.nodes_rebatch import LatentRebatch

    with torch.inference_mode():
        pictures = {"samples": torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
        latent = comfy.node("SubjectInvert").execute(loaded.model, loaded.clip, pictures, "cat", "on a sofa", 3)[0]
        inputs = {"latent": latent, "subject": subject, **EDIT}
        model, positive, negative, pairs = comfy.node("SubjectP2PEdit").execute(loaded.model, loaded.clip, **inputs)
        batches = LatentRebatch.execute([pairs], [2])[0]
    together = sample(model, positive, negative, pairs)
    for number, batch in enumerate(batches):
        alone = sample(model, positive, negative, batch)
        expected = together["samples"][2 * number : 2 * number + 2]
        assert (alone["samples"] - expected).abs().max() < 1e-3 * expected.abs().max()
        assert torch.equal(alone["samples"][0], pictures["samples"][number])
        assert torch.equal(look(model, alone), look(model, {"samples": expected}))
    with pytest.raises(subject_error, match="got 1 pictures of an edit, but 3 were inverted"):
        sample(model, positive, negative, {"samples": torch.randn(2, 4, 8, 8)})


def test_masks_that_do_not_fit_a_part_of_the_pictures(comfy, loaded, subject, sample, subject_error):
    with torch.inference_mode():
        inputs = {"latent": {"samples": torch.zeros(3, 4, 8, 8)}, "mask": torch.ones(3, 64, 64), **EDIT}
        model, positive, negative, pairs = comfy.node("SubjectP2PEdit").execute(loaded.model, loaded.clip, **inputs)
    with pytest.raises(subject_error, match="3 masks, but the sampler got 1"):
        sample(model, positive, negative, {"samples": pairs["samples"][:2]})


@pytest.mark.parametrize("kind", GRAPHS)
def test_copies(prepared, sample, look, kind):
    run = prepared[kind]()
    samples = sample(*run)
    expected = look(run[0], samples)
    copied = copy.deepcopy(samples)
    del samples
    gc.collect()
    assert torch.equal(look(run[0], copied), expected)
    # Older hosts copy what a MODEL carries.
    other = run[0].clone()
    other.model_options, other.attachments = copy.deepcopy(other.model_options), copy.deepcopy(other.attachments)
    assert torch.equal(look(other, sample(other, *run[1:])), expected)


@pytest.mark.parametrize("kind", GRAPHS)
def test_two_stages_each_have_their_own(prepared, sample, look, kind):
    model, positive, negative, latent = prepared[kind]()
    first = sample(model, positive, negative, latent, steps=4, start_step=0, last_step=2)
    second = sample(model, positive, negative, {**latent, **first}, steps=4, start_step=2, disable_noise=True)
    masks = [look(model, stage) for stage in (first, second, first)]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("sampler_name", ["euler", "dpmpp_2m", "uni_pc"])
@pytest.mark.parametrize("last", [3, 4])
def test_both_outputs_of_the_advanced_sampler(comfy, prepared, look, kind, sampler_name, last):
    from comfy_extras import nodes_custom_sampler as custom

    model, positive, negative, latent = prepared[kind](2)
    with torch.inference_mode():
        guider = custom.CFGGuider.execute(model, positive, negative, 4.0)[0]
        sigmas = custom.BasicScheduler.execute(model, "normal", 4, 1.0)[0][: last + 1]
        sampler = custom.KSamplerSelect.execute(sampler_name)[0]
        noise = custom.RandomNoise.execute(5)[0]
        output, denoised = custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).result
    assert last == 4 or not torch.equal(output["samples"], denoised["samples"])
    assert torch.equal(look(model, output), look(model, denoised))


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_cancelled_run_leaves_nothing(comfy, prepared, sample, look, kind):
    records = comfy.module("nodes.host.run_records")
    run, mm = prepared[kind](), comfy.model_management
    kept = len(records.RECORDS._recent)
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        sample(*run, seed=123)
    mm.interrupt_current_processing(False)
    assert len(records.RECORDS._recent) == kept
    look(run[0], sample(*run, seed=123))


@pytest.mark.parametrize("kind", GRAPHS)
def test_samples_of_no_run_are_refused(prepared, sample, look, subject_error, kind):
    run = prepared[kind]()
    samples = sample(*run)["samples"]
    for other in (samples * 1.01, samples[:, :, :4], torch.cat([samples, samples.flip(-1)]), samples[:0], samples[0]):
        with pytest.raises(subject_error, match="change (its|the sampler's) seed"):
            look(run[0], {"samples": other})
    if kind == "edit":
        with pytest.raises(subject_error, match="not from a run of this MODEL"):
            look(run[0], {"samples": samples[:1]})


@pytest.fixture
def store(comfy):
    return comfy.module("nodes.host.run_records").RunRecords


def kept(store, samples, value="value", size=60, name="name"):
    store.keep([name], [(value, size)] * len(samples), [samples])
    return samples


def test_a_record_lives_as_long_as_its_latent(store):
    records = store(limit=100)
    held = [kept(records, torch.rand(1, 2, 2), number) for number in range(50)]
    assert [records.find(["name"], samples) for samples in held] == [[number] for number in range(50)]
    copies = [samples.clone() for samples in held]
    del held
    gc.collect()
    # Copies cannot be followed: of them, as many as fit are found, the newest.
    found = [records.find(["name"], samples)[0] for samples in copies]
    assert found == [None] * 49 + [49]
    assert len(records._all) == 1 and not len(records._of_latents) > 1


def test_what_was_looked_up_with_a_copy_lives_as_long_as_the_copy(store):
    records = store(limit=0)
    samples = kept(records, torch.rand(1, 2, 2))
    again = samples.clone()
    records.find(["name"], again)
    kept(records, torch.rand(1, 2, 2))
    del samples
    gc.collect()
    assert records.find(["name"], again) == ["value"]


def test_the_last_run_stays_however_large(store):
    records = store(limit=100)
    samples = torch.rand(4, 2, 2)
    kept(records, samples.clone())
    gc.collect()
    assert records.find(["name"], samples) == ["value"] * 4


def test_names_are_asked_in_their_order(store):
    records = store()
    samples = kept(records, kept(records, torch.rand(1, 2, 2), "own", name="mine"), "other", name="any")
    assert records.find(["mine", "any"], samples) == ["own"]
    assert records.find(["yours", "any"], samples) == ["other"]
    assert records.find(["yours"], samples) == [None]
