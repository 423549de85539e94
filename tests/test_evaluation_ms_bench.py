"""MS-Bench: the combinations of its subjects, what is asked for, and scores of pictures with several subjects."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_judges import write_judges

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.evaluation import command, ms_evaluation
from blipdiff_impl.evaluation.ms_bench import open_ms_bench
from blipdiff_impl.files import read_picture
from blipdiff_impl.pictures.towers import ClipTower, DinoTower
from blipdiff_impl.toy_world.render import render_subject
from blipdiff_impl.toy_world.world import HELD_OUT_SEED, subject_from_seed

SIZES = {"living": 10, "object": 10, "scene": 4, "upper": 5, "middle": 6, "lower": 3, "whole": 2}


def photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    write_judges(folder)
    return folder


def write_listing(folder, subjects, **more):
    """Subjects as (name, class word, group), each with two photos."""
    for number, (name, _, _) in enumerate(subjects):
        for k in range(2):
            photo(folder / name / f"{k}.png", 10 * number + k)
    listed = {name: {"category": word, "group": group} for name, word, group in subjects}
    path = folder / "ms.yaml"
    path.write_text(yaml.safe_dump({"subjects": listed, **more}))
    return path


def test_the_forty_subjects_make_the_published_numbers_of_combinations(tmp_path):
    subjects = [(f"{group}{number}", "thing", group) for group, count in SIZES.items() for number in range(count)]
    found = open_ms_bench(tmp_path, write_listing(tmp_path, subjects))
    assert Counter(each.kind for each in found) == {
        "living+living": 45, "living+object": 100, "object+object": 45, "living+upper": 50, "living+middle": 60,
        "living+whole": 20, "middle+lower": 18, "living+scene": 40, "object+scene": 40, "living+living+living": 120,
        "object+object+object": 120, "living+object+scene": 400, "upper+middle+lower": 90,
    }  # fmt: skip
    assert len(found) == 1148 and sum(len(each.prompts) for each in found) == 4488
    assert len({each.name for each in found}) == 1148
    for each in found:
        assert len(each.boxes) == len(each.parts) and all(
            0 <= b[0] < b[2] <= 1 and 0 <= b[1] < b[3] <= 1 for b in each.boxes
        )


TWO = [("my_cat", "cat", "living"), ("my_mug", "mug", "object")]


def test_pictures_are_scored_against_every_subject(tmp_path, judges, capsys, monkeypatch):
    """By hand: means over subjects of mean cosines, and their product."""
    listing = write_listing(tmp_path / "data", TWO)
    for number in range(2):
        photo(tmp_path / "pictures" / "run" / "my_cat+my_mug" / f"{number:02d}_0.png", 70 + number)
    arguments = ["evaluate", "--data", tmp_path / "data", "--ms-bench", listing, "--out", tmp_path / "out",
                 "--dino", judges / "dino", "--clip", judges / "clip"]  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    asked = json.loads((tmp_path / "out" / "asked.json").read_text())
    assert asked["my_cat+my_mug"]["prompts"][2] == "a cat and a mug in the jungle" and len(asked) == 1
    assert asked["my_cat+my_mug"]["subjects"][1]["box"] == [0.5, 0.25, 1.0, 0.75]
    arguments += ["--pictures", tmp_path / "pictures"]
    assert main([*map(str, arguments)]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    dino, clip = DinoTower(judges / "dino"), ClipTower(judges / "clip")

    def features(tower, folder):
        return tower.pictures([read_picture(path) for path in sorted(folder.glob("*.png"))])

    drawn = tmp_path / "pictures" / "run" / "my_cat+my_mug"
    alike = [(features(dino, drawn) @ features(dino, tmp_path / "data" / name).T).mean(1) for name, *_ in TWO]
    clip_i = [(features(clip, drawn) @ features(clip, tmp_path / "data" / name).T).mean(1) for name, *_ in TWO]
    texts = torch.stack([clip.text(f"a cat and a mug {place}") for place in ("in a room", "in the snow")])
    expected = {
        "dino": float((alike[0] + alike[1]).mean() / 2), "m_dino": float((alike[0] * alike[1]).mean()),
        "clip_i": float((clip_i[0] + clip_i[1]).mean() / 2),
        "clip_t": float((features(clip, drawn) * texts).sum(-1).mean()),
    }  # fmt: skip
    assert found["overall"] == pytest.approx(expected, abs=1e-5) and found["pictures"] == 2
    assert found["types"]["living+object"]["pictures"] == 2
    assert found["published"]["MS-Diffusion"]["m_dino"] == 0.108
    page = (tmp_path / "out" / "report.html").read_text()
    assert "published: MS-Diffusion" in page and "living+object" in page
    # what is scored is found again
    monkeypatch.setattr(ms_evaluation.CombinationScorer, "_scores", lambda *args: pytest.fail("scored again"))
    assert main([*map(str, arguments)]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found


@pytest.mark.parametrize("more, said", [
    ({"types": [{"groups": ["living", "toy"]}]}, "a type should name its groups, of living, object"),
    ({"types": [{"groups": ["living"], "boxes": [[0, 0, 1]], "prompts": ["a {}"]}]}, "a box of four shares"),
    ({"types": [{"groups": ["living"], "boxes": [[0, 0, 1, 1]], "prompts": ["a {} {}"]}]}, "prompts with {} 1 times"),
    ({"types": [{"groups": ["scene"], "boxes": [[0, 0, 1, 1]], "prompts": ["a {}"]}]}, "no type combines them"),
    ({"types": {}}, "types should be a list"),
])  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, more, said):
    with pytest.raises(SubjectError, match=said):
        open_ms_bench(tmp_path, write_listing(tmp_path, TWO, **more))


def test_subjects_that_cannot_be_used(tmp_path):
    with pytest.raises(SubjectError, match="my_cat should say `category: <class word>` and a `group` of living"):
        open_ms_bench(tmp_path, write_listing(tmp_path, [("my_cat", "cat", "toy")]))
    with pytest.raises(SubjectError, match=r"name 'a\+b' cannot be a folder's"):
        open_ms_bench(tmp_path, write_listing(tmp_path, [("a+b", "cat", "living")]))
    listing = write_listing(tmp_path, TWO)
    for path in (tmp_path / "my_mug").glob("*"):
        path.unlink()
    with pytest.raises(SubjectError, match="no photos in .*my_mug"):
        open_ms_bench(tmp_path, listing)
    listing.write_text("subjects: []")
    with pytest.raises(SubjectError, match="should have the part `subjects`"):
        open_ms_bench(tmp_path, listing)


def toy_data(folder):
    """Photos of two held-out things of the toy world, one cut out by transparency, and the listing."""
    for number, kind in enumerate(("cat", "mug")):
        (folder / kind).mkdir(parents=True)
        render_subject(subject_from_seed(HELD_OUT_SEED + number, kind), 64).save(folder / kind / "0.png")
    path = folder / "ms.yaml"
    groups = {"cat": {"category": "cat", "group": "living"}, "mug": {"category": "mug", "group": "object"}}
    path.write_text(yaml.safe_dump({"subjects": groups}))
    return path


def test_the_built_in_adapter_draws_it_and_resumes(tmp_path, judges, capsys):
    listing, out = toy_data(tmp_path / "data"), tmp_path / "out"
    arguments = ["evaluate", "--data", tmp_path / "data", "--ms-bench", listing, "--out", out, "--dino",
                 judges / "dino", "--clip", judges / "clip", "--ms-adapter", "toybox", "--size", 64, 96, "--steps", 2,
                 "--images", 2,
                 "--seeds", 5, "--guidance", 2.5, "--negative", ""]  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    drawn = sorted((out / "pictures" / "5" / "cat+mug").glob("*.png"))
    assert [path.name for path in drawn] == [f"{prompt:02d}_{k}.png" for prompt in range(6) for k in range(2)]
    with Image.open(drawn[0]) as picture:
        assert picture.size == (96, 64)
    before = [path.read_bytes() for path in drawn]
    assert len(set(before)) == len(before)
    results = json.loads((out / "results.json").read_text())
    assert results["pictures"] == 12 and 0 <= results["overall"]["m_dino"] <= 1
    drawn[3].unlink()
    assert main([*map(str, arguments)]) == 0  # what is missing is drawn again, the same
    assert [path.read_bytes() for path in drawn] == before
    assert main([*map(str, arguments), "--ms-scale", "1"]) == 2
    assert "scale was 0.6 and is 1.0" in capsys.readouterr().err
    assert main([*map(str, arguments), "--size", "60", "96", "--out", str(tmp_path / "other")]) == 2
    assert "60 pixels are not possible; sides must be multiples of 8" in capsys.readouterr().err


def test_what_is_not_given_is_as_ms_diffusion_draws(tmp_path, judges, monkeypatch):
    """The command's other defaults are BLIP-Diffusion's."""
    listing = toy_data(tmp_path / "data")
    arguments = ["evaluate", "--data", tmp_path / "data", "--ms-bench", listing, "--dino", judges / "dino", "--clip",
                 judges / "clip", "--ms-adapter", "toybox", "--size", 64, 64]  # fmt: skip

    def drawn_with(name, *more):
        seen = []
        monkeypatch.setattr(command, "_draw_ms_bench", lambda options, drawing, *others: seen.append(drawing))
        main([*map(str, [*arguments, "--out", tmp_path / name, *more])])  # ends where no picture is found
        return seen[0]

    shared = drawn_with("a").shared
    assert (shared.images, shared.steps, shared.seeds, shared.guidance, shared.scheduler) == (5, 30, (0,), 7.5, "ddim")
    assert shared.negative == "monochrome, lowres, bad anatomy, worst quality, low quality"
    assert shared.size == (64, 64) and drawn_with("b").scale == 0.6
    given = drawn_with("c", "--seeds", 3, 4, "--steps", 100, "--negative", "", "--scheduler", "pndm").shared
    assert (given.seeds, given.steps, given.negative, given.scheduler, given.images) == ((3, 4), 100, "", "pndm", 5)


@pytest.mark.parametrize("more, said", [
    (["--pictures", "p"], "Give either --pictures, to score what is there, or --ms-adapter, to draw"),
    ([], "Give the size of the pictures with --size HEIGHT WIDTH"),
    (["--size", "64", "64", "--ms-scale", "7"], "scale = 7.0"),
    (["--size", "64", "64", "--ms-model", "m"], "Name the picture encoder that belongs to m"),
    (["--size", "64", "64", "--finetune"], "MS-Diffusion is not tuned"),
])  # fmt: skip
def test_drawings_that_cannot_be(tmp_path, judges, capsys, more, said):
    listing = toy_data(tmp_path / "data")
    arguments = ["evaluate", "--data", tmp_path / "data", "--ms-bench", listing, "--out", tmp_path / "out", "--dino",
                 judges / "dino", "--clip", judges / "clip", "--ms-adapter", "toybox", *more]  # fmt: skip
    assert main([*map(str, arguments)]) == 2
    assert said in capsys.readouterr().err
