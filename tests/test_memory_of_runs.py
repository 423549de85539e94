"""What a run of a patched MODEL leaves in memory: nothing of its attention, however it ends."""

import gc
import weakref

import pytest
import torch
from tiny_model import WIDTH

SIDE = 16
# What a run is allowed to leave: its record, a mask or a map of the latent's size. The bias of one layer has as many
# numbers as there are places times columns of a prompt, 150 times that.
RECORD = 16 * 1024


@pytest.fixture(scope="module")
def loaded(load_tiny):
    return load_tiny(seed=33)


@pytest.fixture
def patched(comfy, loaded):
    """A MODEL of each kind, with its prompts and the pictures of a batch."""
    vectors = torch.randn(1, 16, WIDTH, generator=torch.Generator().manual_seed(4))
    subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(vectors, "dog", "f", "a test")

    def scene(model):
        left = torch.zeros(1, 8 * SIDE, 8 * SIDE)
        left[..., : 4 * SIDE] = 1
        node = comfy.node("SubjectScene")
        return node.execute(loaded.clip, "a {dog} here", subject, mask_a=left, model=model).result

    def run(kind):
        with torch.inference_mode():
            negative = comfy.node("CLIPTextEncode")().encode(loaded.clip, "")[0]
            if kind == "edit":
                latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}
                return comfy.node("SubjectP2PEdit").execute(
                    loaded.model, loaded.clip, latent, "cat", "dog", "on a sofa", "", 0.8, 0.4, 0.3, subject
                ).result[:3] + (2,)  # fmt: skip
            prompt, model = scene(loaded.model)
            if kind != "scene":  # maps of a scene, whose regions they take into account
                node = comfy.node("SubjectAttentionMaps")
                model = loaded.model if kind == "maps" else model
                model = node.execute(model, prompt, "subject", "", "all", 0.0, 1.0, "")[0]
            return model, prompt, negative, 1

    return run


def held():
    """Bytes of all tensors that Python knows; sparse ones, which other tests leave, have no storage to ask for."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.layout == torch.strided]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("ending", ["done", "failed"])
@pytest.mark.parametrize("kind", ["scene", "edit", "maps", "maps of a scene"])
def test_runs_leave_their_record_and_nothing_else(comfy, patched, kind, ending):
    model, positive, negative, count = patched(kind)
    evaluations = []

    def counted(apply_model, arguments):
        evaluations.append(None)
        if ending == "failed" and len(evaluations) == 2:
            raise KeyboardInterrupt
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(counted)

    def run(seed):
        evaluations.clear()
        latent = {"samples": torch.zeros(count, 4, SIDE, SIDE), "batch_index": [0] * count}
        with torch.inference_mode():
            arguments = (seed, 2, 5.0, "euler", "normal", positive, negative, latent)
            if ending == "failed":
                with pytest.raises(KeyboardInterrupt):
                    comfy.nodes.common_ksampler(model, *arguments)
            else:
                comfy.nodes.common_ksampler(model, *arguments)

    for seed in range(2):
        run(seed)
    before = held()
    for seed in range(2, 7):
        run(seed)
    allowed = 0 if kind == "scene" or ending == "failed" else 5 * RECORD
    assert held() - before <= allowed


@pytest.mark.parametrize("kind", ["scene", "edit", "maps", "maps of a scene"])
def test_a_patched_model_that_is_dropped_is_gone(comfy, patched, kind):
    """With everything that its runs made: no module of the pack keeps it."""
    model, positive, negative, count = patched(kind)
    latent = {"samples": torch.zeros(count, 4, SIDE, SIDE), "batch_index": [0] * count}
    with torch.inference_mode():
        comfy.nodes.common_ksampler(model, 1, 2, 5.0, "euler", "normal", positive, negative, latent)
    options = weakref.ref(model)
    del model
    comfy.model_management.unload_all_models()
    gc.collect()
    assert options() is None
