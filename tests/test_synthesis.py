"""Photos to samples: blending, boxes, grounds, masks and CLIPSeg, every reason for leaving a photo out, odd files."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from synthesis_fixtures import (
    RED,
    SIZE,
    disc_mask,
    png_header,
    red_disc,
    soft_picture,
    write_grounds,
    write_list,
    write_photo,
)
from test_matting_clipseg import write_tiny_clipseg

from blipdiff_impl.blip_diffusion.synthesis.photo_list import Photo
from blipdiff_impl.blip_diffusion.synthesis.sharding import rejects, sample_making, segmenting
from blipdiff_impl.blip_diffusion.synthesis.sharding.backgrounds import Backgrounds, cut_ground
from blipdiff_impl.blip_diffusion.synthesis.sharding.composing import blend, subject_box
from blipdiff_impl.blip_diffusion.synthesis.sharding.sample_making import MEMBERS, SampleMaker, draws_of
from blipdiff_impl.blip_diffusion.synthesis.sharding.segmenting import Segmenter, _near, cut_out
from blipdiff_impl.blip_diffusion.synthesis.sharding.settings import SynthesisSettings
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.pictures.matting import clipseg
from blipdiff_impl.pictures.matting.matte import matte
from blipdiff_impl.pictures.matting.trimap import trimap_from_mask

SETTINGS = SynthesisSettings()
GIVEN_BOX = (0.25, 0.2, 0.75, 0.85)


@pytest.fixture
def make(tmp_path):
    """make(photo, settings) -> Outcome, with the grounds of `tmp_path`."""
    write_grounds(tmp_path / "grounds")

    def run(photo, settings=SETTINGS, network=None):
        return SampleMaker(tmp_path, tmp_path / "grounds", network, settings).make(photo)

    return run


def picture_of(outcome, name):
    return Image.open(io.BytesIO(outcome.members[name]))


def test_the_blend_by_hand():
    foreground = torch.tensor([[[1.0, 0.0, 0.5], [0.2, 0.4, 0.6]]])
    alpha = torch.tensor([[0.25, 1.0]])
    ground = Image.fromarray(np.array([[[100, 200, 51], [9, 9, 9]]], dtype=np.uint8))
    # 0.25 * 255 + 0.75 * 100 = 138.75; 0.75 * 200 = 150; 0.25 * 127.5 + 0.75 * 51 = 70.125
    assert np.asarray(blend(foreground, alpha, ground)).tolist() == [[[139, 150, 70], [51, 102, 153]]]


def test_a_given_box_is_widened_to_whole_pixels():
    assert subject_box((0.11, 0.2, 0.55, 0.99), torch.zeros(10, 20)) == (2, 2, 11, 10)


def test_without_a_box_it_is_where_alpha_is_above_a_half():
    alpha = torch.zeros(10, 20)
    alpha[3, 4], alpha[7, 12], alpha[9, 19] = 0.6, 1.0, 0.5
    assert subject_box((), alpha) == (4, 3, 13, 8)
    with pytest.raises(rejects.Rejected, match="no subject found.*0.40"):
        subject_box((), torch.full((10, 20), 0.4))


def test_the_composite_is_the_subject_on_another_ground_cut_to_its_box(make, tmp_path):
    photo = write_photo(tmp_path, "a", box=GIVEN_BOX)
    outcome = make(photo)
    composite, about = picture_of(outcome, "composite.jpg"), json.loads(outcome.members["json"])
    box = [40, 24, 120, 102]
    assert about == {"captions": ["a red disc"], "category": "disc", "box": box, "background": about["background"]}
    assert composite.size == (round(256 * 80 / 78), 256)
    pixels = np.asarray(composite).astype(int)
    # The disc, after JPEG, away from the matted border.
    assert np.abs(pixels[80:180, 70:190] - RED).max() < 12
    # The corners are ground.
    ground, name = Backgrounds(tmp_path / "grounds").crop((80, 78), draws_of(SETTINGS.seed, "a"))
    assert name == about["background"]
    expected = np.asarray(ground.resize(composite.size, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels[:15, :15] - expected[:15, :15]).mean() < 6


def test_the_original_and_its_mask_have_one_size_and_the_box_is_in_place(make, tmp_path):
    outcome = make(write_photo(tmp_path, "a"))
    picture, mask = picture_of(outcome, "jpg"), np.asarray(picture_of(outcome, "mask.png"))
    assert tuple(outcome.members) == ("jpg", "json", "composite.jpg", "mask.png") and set(outcome.members) == set(
        MEMBERS
    )
    assert picture.size == SIZE and mask.shape == SIZE[::-1]
    inside = np.asarray(disc_mask()) > 127
    assert (mask > 127)[inside].mean() > 0.98 and (mask > 127)[~inside].mean() < 0.01


@pytest.mark.parametrize("size, expected", [((1200, 900), (683, 512)), ((700, 1400), (512, 1024)), (SIZE, SIZE)])
def test_large_photos_are_scaled_down_and_small_ones_stay(make, tmp_path, size, expected):
    photo = write_photo(tmp_path, "a", red_disc().resize(size), disc_mask().resize(SIZE))
    if size[0] < size[1]:
        photo = write_photo(tmp_path, "a", red_disc().resize(size), disc_mask().resize((300, 600)))
    assert picture_of(make(photo), "jpg").size == expected


def test_chance_depends_on_seed_and_key_alone(make, tmp_path):
    def composite(key, seed):
        photo = write_photo(tmp_path, key)
        return make(photo, SynthesisSettings(seed=seed)).members["composite.jpg"]

    first = composite("a", 1)
    assert composite("a", 1) == first
    assert composite("b", 1) != first != composite("a", 2)


@pytest.mark.parametrize("size", [(30, 20), (200, 100), (70, 60), (201, 9)])
def test_a_ground_is_cut_at_native_resolution_where_it_is_large_enough(size):
    picture = soft_picture((200, 100), 3)
    ground = cut_ground(picture, size, np.random.default_rng(0))
    assert ground.size == size
    if size[0] <= 200:
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(picture), (*size[::-1], 3))[:, :, 0]
        assert (windows == np.asarray(ground)).all(axis=(2, 3, 4)).any()


def test_a_small_ground_is_enlarged_no_more_than_needed():
    """A ramp of 10 columns enlarged to 40 rises by a quarter of its step; cut in height, not in width."""
    ramp = np.broadcast_to(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], (30, 10, 3))
    ground = np.asarray(cut_ground(Image.fromarray(np.ascontiguousarray(ramp)), (40, 50), np.random.default_rng(0)))
    assert ground.shape == (50, 40, 3)
    assert np.abs(np.diff(ground[20, 8:32, 0].astype(int)) - 5).max() <= 1


def test_damaged_grounds_are_passed_over_and_named(tmp_path, make):
    photo = write_photo(tmp_path, "a")
    for path in list((tmp_path / "grounds").iterdir())[1:]:
        path.write_bytes(b"no picture")
    outcomes = [make(photo, SynthesisSettings(seed=seed)) for seed in range(4)]
    assert not any(outcome.rule for outcome in outcomes)
    assert any("cannot be read as a picture" in w for outcome in outcomes for w in outcome.warnings)


def test_a_folder_of_damaged_grounds_ends_the_run(tmp_path, make):
    photo = write_photo(tmp_path, "a")
    for path in (tmp_path / "grounds").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(SubjectError, match="10 backgrounds in a row"):
        make(photo)


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_without_grounds_is_named(tmp_path, empty):
    if empty:
        (tmp_path / "grounds").mkdir()
    with pytest.raises(SubjectError, match="grounds holds no picture"):
        Backgrounds(tmp_path / "grounds")


def test_a_given_mask_makes_the_trimap_of_rough_masks(tmp_path):
    photo = write_photo(tmp_path, "a")
    found = Segmenter(tmp_path, None, SETTINGS).trimap(photo, red_disc())
    assert torch.equal(found, trimap_from_mask(torch.from_numpy(np.asarray(disc_mask()) / 255.0)))


@pytest.mark.parametrize("boxes", [
    [(40, 30, 120, 100)], [(0, 30, 120, 119)], [(0, 0, 160, 60)], [(5, 5, 9, 9), (60, 60, 100, 90), (150, 1, 159, 20)],
    [(0, 20, 160, 40), (0, 50, 160, 52)], [(1, 1, 159, 119)], [(80, 60, 81, 61)],
])  # fmt: skip
@pytest.mark.parametrize("edge", [0.0, 0.01, 0.03, 0.1])
def test_a_trimap_near_the_mask_is_that_of_the_whole_photo(boxes, edge):
    values = torch.zeros(120, 160)
    for left, top, right, bottom in boxes:
        values[top:bottom, left:right] = 1
    values[70:75, 70:90] = 0  # a hole
    assert torch.equal(_near(values, values > 0.5, edge), trimap_from_mask(values, edge))


@pytest.mark.parametrize("seed", range(3))
def test_cutting_out_only_the_part_with_the_subject_changes_little(seed):
    """Alpha and blend against matting of the whole photo at full size: 0.02 of the range on average in the band."""
    picture, values = red_disc(seed), torch.from_numpy(np.array(disc_mask()) / np.float32(255))
    trimap = trimap_from_mask(values)
    part, whole = cut_out(picture, trimap, 256), matte(torch.from_numpy(np.asarray(picture) / np.float32(255)), trimap)
    band = (trimap > 0) & (trimap < 1)
    assert (part.alpha - whole.alpha)[band].abs().mean() < 0.02
    assert torch.equal(part.alpha[~band], trimap[~band])
    assert (part.alpha[..., None] * (part.foreground - whole.foreground))[band].abs().mean() < 0.02


@pytest.fixture(scope="module")
def tiny_clipseg(tmp_path_factory):
    return write_tiny_clipseg(tmp_path_factory.mktemp("clipseg"))


def test_clipseg_makes_the_trimap_of_the_research_thresholds(tmp_path, tiny_clipseg):
    """By hand: stretched to 0..1, above 0.576 subject, up to 0.118 background."""
    picture = red_disc()
    found = Segmenter(tmp_path, tiny_clipseg, SETTINGS).trimap(Photo("a", "a.jpg", "dog"), picture)
    network = clipseg.load_clipseg(tiny_clipseg)
    confidence = clipseg.confidence(network, torch.from_numpy(np.asarray(picture) / np.float32(255)), "dog").numpy()
    stretched = (confidence - confidence.min()) / (confidence.max() - confidence.min())
    expected = np.select([stretched > 0.576, stretched <= 0.118], [1.0, 0.0], 0.5)
    assert set(np.unique(expected)) == {0.0, 0.5, 1.0}
    assert (found.numpy() == expected).all()


def test_the_whole_way_with_clipseg(tmp_path, make, tiny_clipseg):
    photo = write_photo(tmp_path, "a", mask=b"not looked at")
    settings = SynthesisSettings(least_cover=0.0, most_cover=1.0)
    outcome = make(Photo("a", photo.image, "dog", captions=("a dog",)), settings, tiny_clipseg)
    assert set(outcome.members) == set(MEMBERS)
    assert json.loads(outcome.members["json"])["category"] == "dog"


def test_nothing_of_the_kind_is_no_subject(tmp_path, make, tiny_clipseg):
    write_photo(tmp_path, "a")
    network = clipseg.load_clipseg(tiny_clipseg)
    weight, bias = list(network.decoder.transposed_convolution.parameters())[-2:]
    weight.zero_(), bias.fill_(-20.0)
    network.save_pretrained(tmp_path / "blind")
    outcome = make(Photo("a", "a.jpg", "dog", captions=("a dog",)), network=tmp_path / "blind")
    assert outcome.rule == rejects.NO_SUBJECT and not outcome.members
    assert outcome.reason.startswith("No foreground was found: CLIPSeg sees no 'dog'") and "Try" not in outcome.reason


def cut_off(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize("what, rule, sentence", [
    ({"captions": ()}, rejects.NO_CAPTION, "no caption"),
    ({"photo": cut_off(red_disc())}, rejects.UNREADABLE, "a.jpg cannot be read"),
    ({"photo": b"just words"}, rejects.UNREADABLE, "a.jpg cannot be read"),
    ({"photo": b""}, rejects.UNREADABLE, "a.jpg cannot be read"),
    ({"photo": png_header(30_000, 30_000)}, rejects.UNREADABLE, "900000000 pixels"),
    ({"photo": png_header(12_000, 12_000)}, rejects.UNREADABLE, "144000000 pixels"),
    ({"photo": png_header(200, 200)}, rejects.UNREADABLE, "a.jpg cannot be read"),
    ({"image": "nowhere.jpg"}, rejects.UNREADABLE, "nowhere.jpg"),
    ({"photo": Image.new("RGB", (1, 1))}, rejects.TOO_SMALL, "The photo is 1x1"),
    ({"photo": Image.new("RGB", (900, 40))}, rejects.TOO_SMALL, "longer than 16 to 1"),
    ({"box": (0.5, 0.5, 0.51, 0.9)}, rejects.TOO_SMALL, "box is 2x48"),
    ({"mask": "nowhere.png"}, rejects.BAD_MASK, "nowhere.png"),
    ({"mask_picture": b"just words"}, rejects.BAD_MASK, "a.mask.png cannot be read"),
    ({"mask_picture": Image.new("L", (120, 120), 255)}, rejects.BAD_MASK, "120x120 and the photo 160x120"),
    ({"mask_picture": Image.new("L", SIZE, 100)}, rejects.NO_SUBJECT, "the highest is 100"),
    ({"mask_picture": Image.new("L", SIZE, 255)}, rejects.NO_TRIMAP, "covers the whole photo"),
    ({"mask_picture": disc_mask((0, 0, 20, 15)), "box": (0.0, 0.0, 1.0, 1.0)}, rejects.THIN, "less than 0.1"),
    ({"box": (0.3, 0.3, 0.65, 0.75)}, rejects.FULL, "more than 0.98"),
])  # fmt: skip
def test_a_photo_that_is_left_out_is_told_of_by_its_rule(make, tmp_path, what, rule, sentence):
    what = dict(what)
    entry = write_photo(tmp_path, "a", what.pop("photo", None), what.pop("mask_picture", None), box=GIVEN_BOX)
    outcome = make(replace(entry, **what))
    assert (outcome.rule, outcome.members) == (rule, {})
    assert sentence in outcome.reason and outcome.reason.count(". ") == 0


def test_no_sure_subject_is_told_of(make, tmp_path, tiny_clipseg):
    write_photo(tmp_path, "a")
    settings = SynthesisSettings(foreground_threshold=0.999, background_threshold=0.0)
    segmenter = Segmenter(tmp_path, tiny_clipseg, settings)
    segmenter._from_network = lambda picture, category: torch.full((120, 160), 0.5)
    with pytest.raises(rejects.Rejected, match="no sure subject or background: No pixel is surely subject"):
        segmenter.trimap(Photo("a", "a.jpg", "dog"), red_disc())


@pytest.mark.parametrize("error", [ValueError("It did not converge. Sorry."), RuntimeError("Factor is singular")])
def test_a_failure_of_matting_is_told_of(make, tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    photo = write_photo(tmp_path, "a")
    monkeypatch.setattr(segmenting, "matte", fail)
    outcome = make(photo)
    assert outcome.rule == rejects.MATTING and outcome.reason == str(error).split(". ")[0] + "."


def test_a_mistake_in_the_program_is_no_reject(make, tmp_path, monkeypatch):
    photo = write_photo(tmp_path, "a")
    monkeypatch.setattr(sample_making, "subject_box", lambda *arguments: None + 1)
    with pytest.raises(TypeError):
        make(photo)


def test_every_rule_is_met_by_these_tests():
    met = [test_a_photo_that_is_left_out_is_told_of_by_its_rule.pytestmark[0].args[1]]
    assert {case[1] for case in met[0]} | {rejects.MATTING} == set(rejects.RULES)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA", "I;16"])
def test_pictures_of_other_kinds(make, tmp_path, mode):
    photo = red_disc() if mode != "I;16" else red_disc().convert("L")
    photo = (
        photo.convert(mode) if mode != "I;16" else photo.convert("I").point(lambda value: value * 256).convert("I;16")
    )
    entry = write_photo(tmp_path, "a")
    photo.save(tmp_path / "a.jpg", "TIFF" if mode == "CMYK" else "PNG")
    outcome = make(entry)
    assert not outcome.rule and picture_of(outcome, "jpg").mode == "RGB"


def test_a_turned_photo_is_set_upright(make, tmp_path):
    """Orientation 6: the camera was turned, rows are columns."""
    entry = write_photo(tmp_path, "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    red_disc().rotate(90, expand=True).save(tmp_path / "a.jpg", "JPEG", exif=exif, quality=95)
    upright = np.asarray(picture_of(make(entry), "jpg")).astype(int)
    assert upright.shape == (120, 160, 3)
    assert np.abs(upright - np.asarray(red_disc()).astype(int)).mean() < 6


def test_a_mask_may_be_larger_or_coloured(make, tmp_path):
    mask = disc_mask().resize((480, 360), Image.Resampling.NEAREST).convert("RGB")
    assert not make(write_photo(tmp_path, "a", mask=mask)).rule


@pytest.mark.parametrize("key", ["../a", "/etc/a", "a/b", "a.b", "..", "", "a\0", "a\n", "é", "a" * 201])
def test_a_key_cannot_leave_the_folder(key):
    with pytest.raises(SubjectError, match="key"):
        Photo(key, "a.jpg", "dog")


@pytest.mark.parametrize("values, sentence", [
    ({"seed": -1}, "seed = -1"), ({"picture_side": 0}, "picture_side = 0"), ({"quality": 101}, "quality = 101"),
    ({"edge": float("nan")}, "edge = nan"), ({"shard_samples": 0}, "shard_samples = 0"),
    ({"least_cover": 0.5, "most_cover": 0.5}, "least_cover = 0.5 should be below most_cover = 0.5"),
    ({"background_threshold": 0.6}, "background_threshold = 0.6 should be below"),
])  # fmt: skip
def test_settings_that_are_not_possible(values, sentence):
    with pytest.raises(SubjectError, match=sentence):
        SynthesisSettings(**values)


def test_a_dreambench_photo(dreambench, tmp_path):
    """The duck's beak is orange on its new background too, and the composite has the box's proportions."""
    from tools.make_matte_sheet import BOXES, read_photo, rough_mask

    path, box = dreambench / "duck_toy" / "00.jpg", BOXES["duck_toy"]
    Image.fromarray(rough_mask(read_photo(path), box).mul(255).byte().numpy()).save(tmp_path / "m.png")
    sources = write_list(tmp_path, [Photo("duck", str(path), "duck toy", box, "m.png", ("a rubber duck",))])
    maker = SampleMaker(tmp_path, sources.backgrounds, None, SETTINGS)
    outcome = maker.make(Photo("duck", str(path), "duck toy", box, "m.png", ("a rubber duck",)))
    composite = np.asarray(picture_of(outcome, "composite.jpg")).astype(int)
    with Image.open(path) as photo:
        width, height = photo.size
    due = (box[2] - box[0]) * width / ((box[3] - box[1]) * height)
    assert composite.shape[1] / composite.shape[0] == pytest.approx(due, rel=0.02)
    red, green, blue = (composite[..., channel] for channel in range(3))
    assert ((red > 180) & (green > 120) & (blue < 90)).mean() > 0.3  # yellow
