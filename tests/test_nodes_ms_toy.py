"""The built-in MS-Diffusion adapter on the embedded model in the real host, alone and beside the pack's other nodes."""

import numpy as np
import pytest
import torch
from spied_attention import expected_maps, spied

from blipdiff_impl.ms_diffusion.checkpoint import open_adapter
from blipdiff_impl.ms_diffusion.file_names import TOYBOX_FILE
from blipdiff_impl.ms_diffusion.pretraining.base import prompt_ids
from blipdiff_impl.toy_world.world import HELD_OUT_SEED, subject_from_seed
from blipdiff_impl.toybox.adapter_base import ToyBase
from blipdiff_impl.toybox.adapter_data import cut_out_render

BUILT_IN = "toybox (built in, toy world only)"
LEFT, RIGHT = (0.05, 0.3, 0.45, 0.8), (0.55, 0.2, 0.95, 0.7)
PROMPT = "a mug and a robot on the beach"
SIZE = (12, 12)  # of the latent


def reference(kind, seed=0):
    """A cut-out as IMAGE, of the size that the tower sees."""
    drawn = cut_out_render(subject_from_seed(HELD_OUT_SEED + seed, kind), np.random.default_rng(seed))
    return torch.from_numpy(drawn.copy())[None].float() / 255


class Toy:
    """The nodes as functions."""

    def __init__(self, comfy):
        self.comfy = comfy
        self.model, self.clip, _, self.encoder, _ = self.call("SubjectModelLoader", BUILT_IN, "fp32")
        (self.adapter,) = self.call("MSDiffusionLoader", BUILT_IN)

    def call(self, node, *inputs, **named):
        with torch.inference_mode():
            return self.comfy.node(node).execute(*inputs, **named).result

    def subjects(self, things=(("mug", LEFT), ("robot", RIGHT))):
        found = None
        for number, (kind, box) in enumerate(things):
            (found,) = self.call("MSDiffusionSubject", reference(kind, number), kind, *box, 1.0, previous=found)
        return found

    def apply(self, model=None, subjects=None, **more):
        settings = {"scale": 1.0, "start_percent": 0.0, "end_percent": 1.0, "grounding": True, "auto_layout": False}
        return self.call(
            "MSDiffusionApply", model=model or self.model, clip=self.clip, ms_adapter=self.adapter,
            subjects=subjects or self.subjects(), **{**settings, **more},
        )  # fmt: skip

    @torch.inference_mode()
    def words(self, text):
        return self.comfy.node("CLIPTextEncode")().encode(self.clip, text)[0]

    def sample(self, model, positive=PROMPT, cfg=2.5, steps=3, count=1, size=SIZE):
        positive = self.words(positive) if isinstance(positive, str) else positive
        latent, negative = {"samples": torch.zeros(count, 4, *size)}, self.words("")
        with torch.inference_mode():
            drawn = self.comfy.nodes.common_ksampler(
                model, 3, steps, cfg, "euler", "normal", positive, negative, latent
            )
        return drawn[0]["samples"]


@pytest.fixture(scope="module")
def toy(comfy):
    return Toy(comfy)


@pytest.fixture(scope="module")
def error(comfy):
    return comfy.module("blipdiff_impl.errors").SubjectError


def test_it_is_small_and_the_first_in_the_list(comfy):
    assert TOYBOX_FILE.stat().st_size <= 4_000_000
    schema = comfy.node("MSDiffusionLoader").define_schema()
    assert schema.inputs[0].options[0] == BUILT_IN
    assert comfy.node("MSDiffusionLoader").validate_inputs(BUILT_IN) is True
    opened = open_adapter(TOYBOX_FILE)
    assert all(tensor.isfinite().all() for tensor in opened.tensors().values())


def test_its_picture_encoder_is_the_embedded_models_tower(toy):
    from blipdiff_impl.pictures.preprocess import normalise

    image = reference("cat")
    with torch.inference_mode():
        found = toy.adapter.clip_vision.encode_image(image, crop=False).penultimate_hidden_states.float()
    expected = ToyBase().features(normalise(image))
    assert found.shape == (1, 65, 128)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def test_phrases_are_those_that_it_was_trained_with(comfy, toy):
    found = comfy.module("nodes.host.ms_diffusion.phrases").phrase_vectors(toy.clip, ["mug", "robot"])
    expected = ToyBase().phrases(torch.stack([prompt_ids("mug")[0], prompt_ids("robot")[0]]))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("size, count, cfg", [((12, 12), 2, 2.5), ((24, 24), 1, 1.0), ((13, 20), 1, 3.0)])
def test_it_draws_without_a_picture_encoder_connected(toy, size, count, cfg):
    """A batch, no guidance, and a size that is odd and not square; each differs from plain sampling."""
    model, boxes = toy.apply()
    found, plain = (toy.sample(each, cfg=cfg, count=count, size=size) for each in (model, toy.model))
    assert torch.isfinite(found).all() and (found - plain).abs().max() > 0.1
    assert boxes.shape[0] == 1 and boxes.shape[-1] == 3


def test_scale_zero_is_the_model_alone(toy):
    assert torch.equal(toy.sample(toy.apply(scale=0.0)[0]), toy.sample(toy.model))


def test_outside_of_the_boxes_less_changes_than_inside(toy):
    """The layers leave it alone; what reaches it comes by way of the picture."""
    model, _ = toy.apply(subjects=toy.subjects((("mug", (0.0, 0.0, 0.5, 1.0)),)))
    change = (toy.sample(model, steps=2) - toy.sample(toy.model, steps=2)).abs().mean(dim=(0, 1))
    assert change[:, :5].mean() > 1.4 * change[:, 7:].mean()


def test_an_adapter_of_a_file_needs_a_picture_encoder(comfy, toy, error):
    module = comfy.module("nodes.host.ms_diffusion.adapter")
    lone = module.HostAdapter(toy.adapter.adapter)
    with pytest.raises(error, match="No clip_vision is connected, and only the built-in adapter brings its own"):
        toy.call(
            "MSDiffusionApply", model=toy.model, clip=toy.clip, ms_adapter=lone, subjects=toy.subjects(), scale=1.0,
            start_percent=0.0, end_percent=1.0, grounding=True, auto_layout=False,
        )  # fmt: skip


def test_another_picture_encoder_is_refused(comfy, toy, error):
    other = type("Vision", (), {"encode_image": lambda self, image, crop: type(
        "Found", (), {"penultimate_hidden_states": torch.zeros(1, 5, 1664)})()})()  # fmt: skip
    with pytest.raises(error, match="1664 wide, the adapter takes 128"):
        toy.apply(clip_vision=other)


# Beside the pack's other nodes


def subject_prompt(toy, text="on the beach"):
    (subject,) = toy.call("SubjectEncoder", toy.encoder, reference("cat", 3), "cat")[:1]
    return toy.call("SubjectPromptInfix", toy.clip, subject, text)[0]


@pytest.mark.parametrize("first", ["maps", "subjects"])
def test_attention_maps_of_the_text_in_either_order(comfy, toy, first):
    """The picture is that of the subjects alone, and the maps are those of the text's own probabilities in that run."""
    positive = subject_prompt(toy)
    alone, seen = spied(comfy, toy.apply()[0])
    expected_samples = toy.sample(alone, positive)

    def recording(model):
        return toy.call("SubjectAttentionMaps", model, positive, "subject", "", "all", 0.0, 1.0)[0]

    model = toy.apply(model=recording(toy.model))[0] if first == "maps" else recording(toy.apply()[0])
    samples = toy.sample(model, positive)
    assert torch.equal(samples, expected_samples)
    records = model.get_attachment("blipdiffusion_attention_maps").records_of(samples)
    found = torch.cat([record.maps(SIZE) for record in records])
    expected = expected_maps(seen, range(2, 18), SIZE)[0, 0]
    assert found.shape[0] == 1 and float((found[0, 0] - expected).abs().max() / expected.max()) < 1e-3
    heat, mask, _ = toy.call("SubjectAttentionView", model, {"samples": samples})
    assert torch.isfinite(heat).all() and torch.isfinite(mask).all()


@pytest.mark.parametrize("first", ["scene", "subjects"])
def test_beside_subjects_in_one_prompt(toy, first):
    """Both act in either order, and the one does not undo the other."""
    (subject,) = toy.call("SubjectEncoder", toy.encoder, reference("cat", 3), "cat")[:1]
    mask = torch.zeros(1, 96, 96)
    mask[:, :, :48] = 1

    def scene(model):
        return toy.call(
            "SubjectScene", toy.clip, "a {a} and a {b} on the beach", subject, subject, mask_a=mask, mask_b=1 - mask,
            soft_edge=8, model=model,
        )  # fmt: skip

    positive, scened = scene(toy.model)
    both = toy.apply(model=scened)[0] if first == "scene" else scene(toy.apply()[0])[1]
    found = toy.sample(both, positive)
    assert (found - toy.sample(scened, positive)).abs().max() > 0.05  # the boxes act
    assert (found - toy.sample(toy.apply()[0], "a cat and a cat on the beach")).abs().max() > 0.05  # so do the masks
    again = toy.apply(model=scened)[0] if first == "subjects" else scene(toy.apply()[0])[1]
    assert float((found - toy.sample(again, positive)).abs().max() / found.abs().max()) < 1e-3


def test_two_subjects_of_one_kind_keep_their_own_boxes(toy):
    """Exchanging the boxes of two mugs is not the same picture, and exchanging both mugs and boxes is."""
    one, other = (reference("mug", number) for number in range(2))

    def placed(*pairs):
        found = None
        for image, box in pairs:
            (found,) = toy.call("MSDiffusionSubject", image, "mug", *box, 1.0, previous=found)
        return toy.sample(toy.apply(subjects=found)[0], "a mug and a mug on the beach")

    first, exchanged, same = (
        placed((one, LEFT), (other, RIGHT)), placed((one, RIGHT), (other, LEFT)), placed((other, RIGHT), (one, LEFT))
    )  # fmt: skip
    assert (first - exchanged).abs().max() > 0.1
    assert float((first - same).abs().max() / first.abs().max()) < 1e-3


def test_auto_layout_of_one_kind_takes_the_second_mention(toy):
    things = (("mug", LEFT), ("mug", RIGHT))
    text = "a mug and a mug on the beach"
    model, _ = toy.apply(subjects=toy.subjects(things), auto_layout=True, prompt=text, start_step=2)
    assert torch.isfinite(toy.sample(model, text, steps=4)).all()
