"""Scores and averages against hand-computed cases and plain loops over transformers' own models; PSNR and SSIM against
hand-computed values and kornia."""

import math

import kornia
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_judges import SIDE, WIDTH, write_benchmark, write_judges, write_pictures

from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.evaluation.aesthetic import AestheticScorer
from blipdiff_impl.evaluation.averages import over_runs, plain_mean, pooled, subject_row
from blipdiff_impl.evaluation.benchmark import Prompt, open_benchmark
from blipdiff_impl.evaluation.edit_metrics import psnr_outside, ssim_outside
from blipdiff_impl.evaluation.layout import pictures_of
from blipdiff_impl.evaluation.published import SUBJECTS, TABLE_1
from blipdiff_impl.evaluation.scoring import Judges, Scorer, SubjectScores, mean_cosine_among, mean_cosines
from blipdiff_impl.pictures.towers import ClipTower, DinoTower
from blipdiff_impl.prompts.tokenizers import clip_ids
from blipdiff_impl.weights.safetensors_file import SafetensorsFile


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Folder of the tiny judges, and transformers' models."""
    folder = tmp_path_factory.mktemp("judges")
    return folder, *write_judges(folder)


@pytest.fixture(scope="module")
def towers(judged):
    return DinoTower(judged[0] / "dino"), ClipTower(judged[0] / "clip")


def square(path, resize, mean, std):
    """A picture as a network takes it, by torchvision's transforms."""
    from torchvision import transforms as t

    steps = [t.Resize(resize, t.InterpolationMode.BICUBIC), t.CenterCrop(SIDE), t.ToTensor(), t.Normalize(mean, std)]
    return t.Compose(steps)(Image.open(path).convert("RGB"))[None]


def plain_dino(model, path):
    pixels = square(path, round(SIDE * 256 / 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        return model(pixels).last_hidden_state[0, 0].double().numpy()


def plain_clip(model, path):
    pixels = square(path, SIDE, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    with torch.no_grad():
        out = model.get_image_features(pixel_values=pixels)
    return getattr(out, "pooler_output", out)[0].double().numpy()


def plain_text(model, text):
    ids = torch.tensor([[49406, *clip_ids(text), 49407]])
    with torch.no_grad():
        out = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids))
    return getattr(out, "pooler_output", out)[0].double().numpy()


def cosine(a, b):
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def test_every_score_equals_plain_loops(judged, towers, tmp_path):
    _, dino, clip = judged
    names = write_benchmark(tmp_path / "data", photos=3)
    write_pictures(tmp_path / "pictures", names)
    scorer = Scorer(Judges(*towers), tmp_path / "scores", batch=3)
    for subject in open_benchmark(tmp_path / "data"):
        paths = pictures_of(tmp_path / "pictures", subject)
        found = scorer.score("run", subject, paths).pictures
        assert len(found) == 4
        for path in paths:
            prompt = ["a {} in the snow", "a red {}"][int(path.name[:2])]
            text = plain_text(clip, prompt.replace("{}", subject.category))
            expected = {
                "dino": np.mean([cosine(plain_dino(dino, path), plain_dino(dino, p)) for p in subject.photos]),
                "clip_i": np.mean([cosine(plain_clip(clip, path), plain_clip(clip, p)) for p in subject.photos]),
                "clip_t": cosine(plain_clip(clip, path), text),
            }
            # float32 networks in batches of another size: errors of 1e-6, no more than 1e-5
            assert found[path.name] == pytest.approx(expected, abs=1e-5)
        # the random networks tell pictures apart, or the comparison above would prove nothing
        assert np.std([row["dino"] for row in found.values()]) > 1e-3
        assert np.std([row["clip_t"] for row in found.values()]) > 1e-3


@pytest.mark.parametrize("size", [(60, 40), (40, 97), (32, 32), (500, 31)])
def test_pictures_of_any_shape_are_prepared_as_torchvision_does(judged, towers, tmp_path, size):
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png").convert("RGB")
    for tower, plain, model in zip(towers, (plain_dino, plain_clip), judged[1:], strict=True):
        assert cosine(tower.pictures([picture])[0].double().numpy(), plain(model, tmp_path / "a.png")) > 1 - 1e-5


def test_mean_cosines_by_hand():
    half = math.sqrt(0.5)
    pictures = torch.tensor([[1.0, 0.0], [half, half]])
    photos = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert mean_cosines(pictures, photos).tolist() == pytest.approx([0, half / 3])
    # pairs of different photos: 0, -1, 0
    assert mean_cosine_among(photos) == pytest.approx(-1 / 3)
    assert mean_cosine_among(photos[:1]) is None


def scores(name, dino, clip_t, photos):
    pairs = zip(dino, clip_t, strict=True)
    rows = {f"00_{k}.png": {"dino": d, "clip_i": d / 2, "clip_t": t} for k, (d, t) in enumerate(pairs)}
    return SubjectScores(name, rows, photos)


def test_averages_by_hand():
    a = subject_row(scores("a", [0.2, 0.4], [0.1, 0.3], photos=5))  # 10 pairs of mean 0.3; 2 pictures of mean 0.2
    b = subject_row(scores("b", [0.9], [0.8], photos=2))  # 2 pairs of mean 0.9; 1 picture
    assert a.weights == {"dino": 10, "clip_i": 10, "clip_t": 2}
    both = pooled([a, b])
    assert both.values["dino"] == pytest.approx((10 * 0.3 + 2 * 0.9) / 12)
    assert both.values["clip_i"] == pytest.approx((10 * 0.15 + 2 * 0.45) / 12)
    assert both.values["clip_t"] == pytest.approx((0.1 + 0.3 + 0.8) / 3)
    assert plain_mean([a, b])["dino"] == pytest.approx(0.6)
    spread = over_runs([both, b])["clip_t"]
    assert spread.mean == pytest.approx(0.6) and spread.deviation == pytest.approx(math.sqrt(2 * 0.2**2))
    assert over_runs([both])["clip_t"].deviation is None
    assert pooled([]).values == {} and subject_row(SubjectScores("c", {}, 3)).values == {}


def test_published_rows_agree_with_their_means():
    """docs/method.md 10.2: plain means 0.596/0.780/0.301 and 0.672/0.806/0.302, steps 76.0."""
    assert len(SUBJECTS) == 30
    for kind, expected in (("zero_shot", (0.596, 0.780, 0.301)), ("fine_tuned", (0.672, 0.806, 0.302))):
        means = np.mean([getattr(row, kind) for row in SUBJECTS.values()], axis=0)
        assert means.tolist() == pytest.approx(expected, abs=6e-4)
    assert np.mean([row.steps for row in SUBJECTS.values()]) == pytest.approx(76.0, abs=0.05)
    assert TABLE_1["BLIP-Diffusion zero-shot"].dino == 0.594


@pytest.mark.parametrize("layers", [1, 3])
def test_the_aesthetic_score_is_a_stack_of_linear_layers(judged, towers, tmp_path, layers):
    widths = [WIDTH, 7, 5][:layers] + [1]
    generator = torch.Generator().manual_seed(layers)
    tensors, steps = {}, []
    for index in range(layers):
        weight, bias = (
            torch.randn(s, generator=generator) for s in ((widths[index + 1], widths[index]), widths[index + 1])
        )
        tensors |= {f"layers.{2 * index + 8}.weight": weight, f"layers.{2 * index + 8}.bias": bias}
        steps.append((weight.double().numpy(), bias.double().numpy()))
    save_file(tensors, tmp_path / "head.safetensors")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    value = plain_clip(judged[2], tmp_path / "a.png")
    value = value / np.linalg.norm(value)
    for weight, bias in steps:
        value = weight @ value + bias
    scorer = AestheticScorer(towers[1], tmp_path / "head.safetensors")
    assert float(scorer.pictures([Image.open(tmp_path / "a.png")])[0]) == pytest.approx(float(value[0]), abs=1e-4)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": torch.zeros(1, WIDTH)},
        {"weight": torch.zeros(1, WIDTH + 1), "bias": torch.zeros(1)},
        {"weight": torch.zeros(2, WIDTH), "bias": torch.zeros(2)},
        {"weight": torch.full((1, WIDTH), math.nan), "bias": torch.zeros(1)},
        {"weight": torch.zeros(1, WIDTH), "bias": torch.zeros(1), "other": torch.zeros(1)},
    ],
)
def test_heads_of_another_shape_are_refused(towers, tmp_path, tensors):
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="aesthetic head"):
        AestheticScorer(towers[1], tmp_path / "head.safetensors")


def test_weights_that_are_not_there_or_of_another_kind(judged, tmp_path):
    folder = judged[0]
    with pytest.raises(CheckpointError, match=r"config\.json"):
        DinoTower(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="type 'clip', but DINO"):
        DinoTower(folder / "clip")
    with pytest.raises(CheckpointError, match="type 'vit', but CLIP"):
        ClipTower(folder / "dino")
    (tmp_path / "config.json").write_bytes((folder / "dino" / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="no weights"):
        DinoTower(tmp_path)
    file = SafetensorsFile(folder / "dino" / "model.safetensors")
    tensors = file.load([name for name in file.infos if "layernorm" not in name])
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="lack"):
        DinoTower(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError):
        DinoTower(tmp_path)


def test_prompts_as_text_and_for_the_subject():
    scene, property_, both = Prompt("a {} in the jungle"), Prompt("a red {}"), Prompt("a wet {} on grass")
    assert scene.text("cat") == "a cat in the jungle" and scene.for_subject("cat") == "in the jungle"
    assert property_.text("cat") == "a red cat" and property_.for_subject("cat") == "red"
    assert both.for_subject("cat") == "a wet [subject] cat on grass"
    assert Prompt("{}").for_subject("cat") == "[subject] cat"
    for wrong in ("a cat", "a {} and {}", "a {0}", ""):
        with pytest.raises(SubjectError, match="should hold {} once"):
            Prompt(wrong)


def noisy(seed=0, size=(40, 50), amount=0.1):
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(*size, 3, generator=generator)
    return before, (before + amount * torch.randn(*size, 3, generator=generator)).clamp(0, 1)


def test_psnr_by_hand():
    before, mask = torch.full((4, 4, 3), 0.5), torch.zeros(4, 4)
    after = before.clone()
    assert psnr_outside(before, after) == math.inf
    after[0, 0] = 0.75  # an error of 1/16 on one of 16 pixels
    assert psnr_outside(before, after) == pytest.approx(-10 * math.log10(1 / 16 / 16), abs=1e-9)
    mask[1, :] = 1  # 12 pixels are left
    assert psnr_outside(before, after, mask) == pytest.approx(-10 * math.log10(1 / 16 / 12), abs=1e-9)
    mask[0, 0] = 0.01  # soft edges of a mask belong to the edit
    assert psnr_outside(before, after, mask) == math.inf


def test_whole_pictures_equal_kornia():
    before, after = noisy()
    a, b = (x.permute(2, 0, 1)[None].double() for x in (before, after))
    assert psnr_outside(before, after) == pytest.approx(float(kornia.metrics.psnr(a, b, 1.0)), abs=1e-6)
    theirs = float(kornia.metrics.ssim(a, b, 11, padding="valid").mean())
    assert 0.5 < theirs < 0.99
    assert ssim_outside(before, after) == pytest.approx(theirs, abs=1e-6)
    assert ssim_outside(before, before) == pytest.approx(1, abs=1e-12)


def test_ssim_of_flat_pictures_by_hand():
    """Without variance only the luminance term is left: (2xy + c1) / (x^2 + y^2 + c1)."""
    value = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim_outside(torch.full((20, 20, 3), 0.2), torch.full((20, 20, 3), 0.6)) == pytest.approx(value, abs=1e-6)


def test_nothing_under_the_mask_enters():
    before, after = noisy(3)
    mask = torch.zeros(40, 50)
    mask[10:20, 5:25] = 1
    other = after.clone()
    other[10:20, 5:25] = 1 - other[10:20, 5:25]
    assert ssim_outside(before, after, mask) == ssim_outside(before, other, mask) != ssim_outside(before, after)
    assert psnr_outside(before, after, mask) == psnr_outside(before, other, mask) != psnr_outside(before, after)
    # the half right of column 25 can be cut out and compared alone only where no window reaches further left
    side = torch.ones(40, 50)
    side[:, 25:] = 0
    assert ssim_outside(before, after, side) == pytest.approx(ssim_outside(before[:, 25:], after[:, 25:]), abs=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "mask", "message"),
    [
        (torch.zeros(0, 4, 3), torch.zeros(0, 4, 3), None, "one size"),
        (torch.zeros(20, 20, 3), torch.zeros(20, 21, 3), None, "one size"),
        (torch.zeros(20, 20), torch.zeros(20, 20), None, "one size"),
        (torch.zeros(20, 20, 3), torch.full((20, 20, 3), math.nan), None, "after the edit"),
        (torch.full((20, 20, 3), 255.0), torch.zeros(20, 20, 3), None, "before the edit"),
        (torch.zeros(20, 20, 3, dtype=torch.uint8), torch.zeros(20, 20, 3, dtype=torch.uint8), None, "before the edit"),
        (torch.zeros(20, 20, 3), torch.zeros(20, 20, 3), torch.zeros(20, 19), "mask should be 20x20"),
        (torch.zeros(20, 20, 3), torch.zeros(20, 20, 3), torch.full((20, 20), math.nan), "mask should be"),
        (torch.zeros(20, 20, 3), torch.zeros(20, 20, 3), torch.ones(20, 20), "covers the whole"),
    ],
)
def test_what_cannot_be_compared_is_refused(before, after, mask, message):
    for metric in (psnr_outside, ssim_outside):
        with pytest.raises(SubjectError, match=message):
            metric(before, after, mask)


def test_ssim_needs_room():
    with pytest.raises(SubjectError, match="at least 11"):
        ssim_outside(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))
    mask = torch.zeros(20, 20)
    mask[10] = 1
    with pytest.raises(SubjectError, match="leaves no square"):
        ssim_outside(torch.zeros(20, 20, 3), torch.zeros(20, 20, 3), mask)
