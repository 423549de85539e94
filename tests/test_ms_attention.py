"""The image branch of cross-attention: against diffusers where both agree, against a plain loop where they do not."""

import pytest
import torch
import torch.nn.functional as F
from ms_fixtures import SMALL, random_adapter, with_resampler

from blipdiff_impl.attention.boxes import Box, box_masks, box_tensor
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.ms_diffusion.adapter_attention import KeysAndValues, add_subjects, coverage, scaled
from blipdiff_impl.ms_diffusion.layers import adapter_layers

CONTEXT, TOKENS = 96, 4
LEFT, RIGHT, MIDDLE = Box(0, 0.25, 0.5, 0.75), Box(0.5, 0, 1, 1), Box(0.25, 0.25, 0.75, 0.75)


class Layer:
    """A cross-attention of diffusers with a projection of ours, random; the text is attended to by PyTorch."""

    def __init__(self, width=128, heads=2, seed=0, batch=2, grid=(16, 16), subjects=2):
        from diffusers.models.attention_processor import Attention

        torch.manual_seed(seed)
        self.heads, self.grid = heads, grid
        self.attention = Attention(query_dim=width, cross_attention_dim=CONTEXT, heads=heads, dim_head=width // heads)
        self.projection = KeysAndValues(CONTEXT, width)
        self.hidden = torch.randn(batch, grid[0] * grid[1], width)
        self.prompt, self.tokens = torch.randn(batch, 77, CONTEXT), torch.randn(subjects, TOKENS, CONTEXT)
        with torch.no_grad():
            self.q, k, v = (
                self.attention.to_q(self.hidden),
                self.attention.to_k(self.prompt),
                self.attention.to_v(self.prompt),
            )
            self.text = dense(self.q, k, v, heads)
            self.k, self.v = self.projection(self.tokens.flatten(0, 1)[None])

    @torch.no_grad()
    def ours(self, masks, strengths):
        strengths = torch.tensor(strengths)
        covered = coverage(masks, TOKENS, strengths)
        return add_subjects(self.text, self.q, self.k, scaled(self.v, strengths), covered, self.heads)

    @torch.no_grad()
    def of_diffusers(self, masks, strengths):
        """After the output projection; masks `[subjects, places]`."""
        from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

        processor = IPAdapterAttnProcessor2_0(
            len(self.hidden[0, 0]), CONTEXT, num_tokens=(TOKENS,), scale=[list(strengths)]
        )
        processor.to_k_ip[0], processor.to_v_ip[0] = self.projection.to_k_ip, self.projection.to_v_ip
        tokens = self.tokens.expand(len(self.hidden), -1, -1, -1)
        shown = masks.float().unflatten(-1, self.grid)[None]
        return processor(self.attention, self.hidden, (self.prompt, [tokens]), ip_adapter_masks=[shown])

    @torch.no_grad()
    def projected(self, out):
        return self.attention.to_out[1](self.attention.to_out[0](out))

    @torch.no_grad()
    def by_loops(self, masks, strengths):
        """Place by place and head by head: a softmax over the tokens of the subjects that cover it."""
        out, width = self.text.clone(), self.q.shape[-1] // self.heads
        masks = masks if masks.ndim == 3 else masks.expand(len(out), -1, -1)
        for picture in range(len(out)):
            for place in range(out.shape[1]):
                subjects = masks[picture, :, place].nonzero().flatten().tolist()
                columns = [TOKENS * subject + token for subject in subjects for token in range(TOKENS)]
                if not columns:
                    continue
                scale = torch.tensor([strengths[column // TOKENS] for column in columns])
                for head in range(self.heads):
                    part = slice(head * width, (head + 1) * width)
                    scores = self.k[0, columns, part] @ self.q[picture, place, part] / width**0.5
                    weights = scores.softmax(0) * scale
                    out[picture, place, part] += weights @ self.v[0, columns, part]
        return out


def dense(q, k, v, heads):
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def masks_of(boxes, grid=(16, 16)):
    return box_masks(box_tensor(boxes), grid)


@pytest.mark.parametrize("sizes", [
    {"width": 640, "heads": 10, "grid": (32, 32)}, {"width": 1280, "heads": 20, "grid": (16, 16)},
    {"width": 128, "heads": 2, "grid": (12, 20)},
], ids=["640 wide", "1280 wide", "not square"])  # fmt: skip
@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.6, 0.6), (0.3, 1.4), (0.0, 1.0)])
def test_parity_for_boxes_apart(sizes, strengths):
    layer = Layer(**sizes)
    masks = masks_of([LEFT, RIGHT], layer.grid)
    assert not (masks[0] & masks[1]).any() and not masks.any(0).all()
    found, expected = layer.projected(layer.ours(masks, strengths)), layer.of_diffusers(masks, strengths)
    assert (found - expected).abs().max() < 1e-5
    assert (found - layer.projected(layer.text)).abs().max() > 1e-2


@pytest.mark.parametrize("grid", [(8, 8), (7, 13)])
def test_overlapping_boxes_share_one_softmax(grid):
    layer = Layer(grid=grid)
    masks = masks_of([LEFT, MIDDLE], layer.grid)
    assert (masks[0] & masks[1]).any()
    found = layer.ours(masks, (1.0, 1.0))
    assert (found - layer.by_loops(masks, (1.0, 1.0))).abs().max() < 1e-5
    if grid == (8, 8):  # diffusers finds the sides of other grids by a guess
        assert (layer.projected(found) - layer.of_diffusers(masks, (1.0, 1.0))).abs().max() > 0.02


def test_full_overlap_is_attention_to_the_union():
    layer = Layer(subjects=3)
    found = layer.ours(masks_of([Box(0, 0, 1, 1)] * 3), (1.0,) * 3)
    expected = layer.text + dense(layer.q, layer.k.expand(2, -1, -1), layer.v.expand(2, -1, -1), layer.heads)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("strengths", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.0), (0.0, 0.0, 0.7)])
def test_strengths_act_after_the_softmax(strengths):
    """Also a subject of strength 0 takes its share of attention from others in the same place."""
    layer = Layer(subjects=3, grid=(8, 8), seed=3)
    masks = masks_of([LEFT, MIDDLE, Box(0.3, 0.3, 0.9, 0.9)], layer.grid)
    assert (layer.ours(masks, strengths) - layer.by_loops(masks, strengths)).abs().max() < 1e-5


def test_masks_of_each_picture():
    layer = Layer(grid=(8, 8))
    masks = torch.stack([masks_of([LEFT, MIDDLE], (8, 8)), masks_of([RIGHT, RIGHT], (8, 8))])
    assert (layer.ours(masks, (1.0, 0.5)) - layer.by_loops(masks, (1.0, 0.5))).abs().max() < 1e-5


def bits(x):
    return x.contiguous().view(torch.int32)


@pytest.mark.parametrize("boxes", [[LEFT, RIGHT], [LEFT, MIDDLE], [LEFT, LEFT]])
def test_places_in_no_box_keep_every_bit(boxes):
    layer = Layer()
    layer.text[:, ::3] = -0.0  # which adding 0 would change
    masks = masks_of(boxes)
    found, outside = layer.ours(masks, (1.0, 1.0)), ~masks.any(0)
    assert outside.any() and torch.equal(bits(found[:, outside]), bits(layer.text[:, outside]))
    assert (found[:, ~outside] - layer.text[:, ~outside]).abs().amax(-1).min() > 0


def test_nothing_to_see_is_the_text_itself():
    layer = Layer()
    for masks, strengths in [
        (masks_of([LEFT, RIGHT]), (0.0, 0.0)),
        (torch.zeros(2, 256, dtype=torch.bool), (1.0, 1.0)),
    ]:
        assert coverage(masks, TOKENS, torch.tensor(strengths)) is None
        assert layer.ours(masks, strengths) is layer.text


def test_places_of_a_subject_without_strength_keep_every_bit():
    layer = Layer()
    masks = masks_of([LEFT, MIDDLE])
    found = layer.ours(masks, (0.0, 1.0))
    assert torch.equal(bits(found[:, ~masks[1]]), bits(layer.text[:, ~masks[1]]))


def test_the_text_is_not_written_into():
    layer = Layer()
    before = layer.text.clone()
    layer.ours(masks_of([LEFT, RIGHT]), (1.0, 1.0))
    assert torch.equal(layer.text, before)


def test_half_precision():
    layer = Layer()
    masks, strengths = masks_of([LEFT, MIDDLE]), torch.tensor([1.0, 0.5])
    covered = coverage(masks, TOKENS, strengths, torch.float16)
    v = scaled(layer.v, strengths)
    found = add_subjects(layer.text.half(), layer.q.half(), layer.k, v, covered, layer.heads)
    assert found.dtype == torch.float16
    assert (found.float() - layer.ours(masks, (1.0, 0.5))).abs().max() < 2e-3


def test_it_can_be_trained_through():
    layer = Layer(grid=(4, 4), subjects=2)
    masks = torch.stack([masks_of([LEFT, MIDDLE], (4, 4)), torch.zeros(2, 16, dtype=torch.bool)])
    tokens = layer.tokens.flatten(0, 1)[None].expand(2, -1, -1).clone().requires_grad_()
    k, v = layer.projection(tokens)
    add_subjects(layer.text, layer.q, k, v, coverage(masks, TOKENS), layer.heads).square().sum().backward()
    assert torch.isfinite(tokens.grad).all()
    assert tokens.grad[0].abs().max() > 0 and not tokens.grad[1].any()  # the second picture has no subject
    assert layer.projection.to_k_ip.weight.grad.abs().max() > 0


# --- the adapter as a whole

BOXES = [LEFT, MIDDLE]


def inputs(adapter, subjects=2, seed=5):
    torch.manual_seed(seed)
    sizes = adapter.config.resampler
    return torch.randn(subjects, 9, sizes.image_width), torch.randn(subjects, sizes.phrase_width)


def test_keys_and_values_of_every_layer():
    adapter = random_adapter()
    tokens = adapter.tokens(*inputs(adapter), BOXES)
    assert tokens.shape == (2, 4, 28)
    subjects = adapter.subjects(tokens, BOXES, (1.0, 0.25))
    assert list(subjects.layers) == [layer.key for layer in adapter_layers(SMALL.unet)]
    for layer in adapter_layers(SMALL.unet):
        k, v = subjects.layers[layer.key]
        weights = adapter.ms_adapter[str(layer.number)]
        assert k.shape == v.shape == (1, 8, layer.width)
        for subject, strength in enumerate((1.0, 0.25)):
            part = slice(4 * subject, 4 * subject + 4)
            assert torch.allclose(k[0, part], tokens[subject] @ weights.to_k_ip.weight.T, atol=1e-6)
            assert torch.allclose(v[0, part], strength * (tokens[subject] @ weights.to_v_ip.weight.T), atol=1e-6)


def test_what_sampling_needs_is_small():
    """By the released sizes: 166,400 numbers for a token."""
    from blipdiff_impl.ms_diffusion.config import RELEASED

    assert sum(2 * layer.width for layer in adapter_layers(RELEASED.unet)) == 166_400


def test_subjects_in_a_layer():
    adapter = random_adapter()
    subjects = adapter.subjects(adapter.tokens(*inputs(adapter), BOXES), BOXES, (1.0, 0.5))
    key, (k, v) = next(iter(subjects.layers.items()))
    q, text = torch.randn(2, 6 * 10, 40), torch.randn(2, 6 * 10, 40)
    covered = subjects.coverage((6, 10), q)
    assert subjects.coverage((6, 10), q) is covered  # made once
    expected = add_subjects(text, q, k, v, coverage(masks_of(BOXES, (6, 10)), 4), 5)
    assert torch.equal(subjects.add(text, q, key, covered, 5), expected)
    moved = subjects.to("cpu", torch.float16)
    assert moved.layers[key][0].dtype == torch.float16 and moved.coverage((6, 10), q.half()).bias.dtype == torch.float16


def test_subjects_in_a_part_of_the_picture():
    adapter = random_adapter()
    subjects = adapter.subjects(adapter.tokens(*inputs(adapter), BOXES), BOXES, (1.0, 1.0))
    q = torch.randn(1, 16, 40)
    whole = masks_of(BOXES, (8, 8)).unflatten(-1, (8, 8))
    part = subjects.coverage((4, 4), q, ((8, 8), (4, 4, 2, 0)))
    assert torch.equal(part.seen[0, :, 0].view(4, 4), whole.any(0)[2:6, 0:4])
    assert subjects.coverage((4, 4), q, ((16, 16), (4, 4, 0, 0))) is None  # no box reaches there


def test_strengths_that_are_equal_are_one_scale():
    adapter = random_adapter()
    tokens = adapter.tokens(*inputs(adapter), BOXES)
    one, other = (adapter.subjects(tokens, BOXES, strengths) for strengths in ((1.0, 1.0), (0.6, 0.6)))
    q, text = torch.randn(1, 64, 40), torch.randn(1, 64, 40)
    key = next(iter(one.layers))
    covered = one.coverage((8, 8), q)
    full, part = (each.add(text, q, key, covered, 5) - text for each in (one, other))
    assert torch.allclose(part, 0.6 * full, atol=1e-6)


def test_five_subjects_work():
    adapter = random_adapter()
    boxes = [LEFT, RIGHT, MIDDLE, LEFT, Box(0, 0, 1, 1)]
    subjects = adapter.subjects(adapter.tokens(*inputs(adapter, 5), boxes), boxes, (1.0,) * 5)
    q = torch.randn(1, 64, 40)
    assert torch.isfinite(subjects.add(q, q, next(iter(subjects.layers)), subjects.coverage((8, 8), q), 5)).all()


def test_sixteen_bit_weights_are_widened_for_the_projections():
    adapter = random_adapter().half()
    tokens = torch.randn(2, 4, 28)
    subjects = adapter.subjects(tokens, BOXES, (1.0, 1.0), torch.float32)
    wide = adapter.float().subjects(tokens, BOXES, (1.0, 1.0), torch.float32)
    assert all(torch.equal(subjects.layers[key][0], wide.layers[key][0]) for key in wide.layers)


def spoilt(values, value):
    values = values.clone()
    values[1, 0] = value
    return values


@pytest.mark.parametrize("change, said", [
    (lambda f, p, b: (f[:0], p[:0], []), "There is no subject"),
    (lambda f, p, b: (f, p[:1], b), "2 subjects but 1 phrases"),
    (lambda f, p, b: (f, p, b * 2), "2 subjects but 4 boxes"),
    (lambda f, p, b: (f[..., :20], p, b), "features that are 20 wide, the adapter takes 24. Load the CLIP vision"),
    (lambda f, p, b: (f, p[:, :12], b), "vectors are 12 wide, the adapter takes 20. Connect the CLIP"),
    (lambda f, p, b: (f[0], p, b), r"\[subjects, tokens, width\].*\[9, 24\]"),
    (lambda f, p, b: (spoilt(f, float("nan")), p, b), "picture of subject 2 became NaN"),
    (lambda f, p, b: (f, spoilt(p, float("inf")), b), "phrase of subject 2 became NaN or infinite"),
])  # fmt: skip
def test_inputs_that_cannot_be_used(change, said):
    adapter = random_adapter()
    with pytest.raises(SubjectError, match=said):
        adapter.tokens(*change(*inputs(adapter), BOXES))


def test_another_vision_model_is_told_which_one_is_needed():
    adapter = random_adapter(config=with_resampler(image_width=1664))
    with pytest.raises(
        SubjectError, match="1280 wide, the adapter takes 1664. Load CLIP-ViT-bigG-14-laion2B-39B-b160k"
    ):
        adapter.tokens(torch.zeros(1, 9, 1280), torch.zeros(1, 20), [LEFT])


@pytest.mark.parametrize("strengths, said", [
    ((1.0, -0.5), "strength of subject 2 = -0.5"), ((float("nan"), 1), "strength of subject 1 = nan"),
    ((1.0, 11), "strength of subject 2 = 11 is not possible; choose a number from 0 to 10"),
    ((1.0,), "2 subjects but 1 strengths"),
])  # fmt: skip
def test_strengths_that_cannot_be_used(strengths, said):
    adapter = random_adapter()
    with pytest.raises(SubjectError, match=said):
        adapter.subjects(torch.zeros(2, 4, 28), BOXES, strengths)


def test_weights_without_numbers_are_noticed():
    adapter = random_adapter()
    adapter.ms_adapter["3"].to_v_ip.weight[0, 0] = float("nan")
    with pytest.raises(SubjectError, match="values hold NaN .* damaged"):
        adapter.subjects(torch.ones(2, 4, 28), BOXES, (1.0, 1.0))
    adapter = random_adapter()
    adapter.image_proj.proj_in.weight[0, 0] = float("nan")
    with pytest.raises(SubjectError, match="tokens hold NaN"):
        adapter.tokens(*inputs(adapter), BOXES)
    big = torch.full((2, 4, 28), 1e6)
    with pytest.raises(SubjectError, match="in float16.*use float32"):
        random_adapter().subjects(big, BOXES, (1.0, 1.0), torch.float16)


def test_a_layer_of_another_unet():
    adapter = random_adapter()
    subjects = adapter.subjects(torch.ones(2, 4, 28), BOXES, (1.0, 1.0))
    q = torch.zeros(1, 4, 44)
    with pytest.raises(SubjectError, match="nothing for the attention layer input 1 0; it is for another UNet"):
        subjects.add(q, q, ("input", 1, 0), None, 2)
    key = next(iter(subjects.layers))
    with pytest.raises(SubjectError, match="is 44 wide, the adapter's 40"):
        subjects.add(q, q, key, None, 2)
