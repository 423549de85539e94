"""Boxes of OpenImages to a list of photos: which rule a box breaks, tables as they are published and broken ones."""

import argparse
import csv
import json
import random
import tracemalloc

import pytest
from PIL import Image

from blipdiff_impl.blip_diffusion.synthesis import lists_command
from blipdiff_impl.blip_diffusion.synthesis.filtering import open_images
from blipdiff_impl.blip_diffusion.synthesis.filtering.open_images import Box, BrokenRow, read_boxes, read_classes
from blipdiff_impl.blip_diffusion.synthesis.filtering.open_images_rules import (
    CLUTTER,
    HUMAN,
    FilterReport,
    FilterSettings,
    choose_photos,
)
from blipdiff_impl.blip_diffusion.synthesis.photo_list import read_photos
from blipdiff_impl.errors import SubjectError

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
CLICKS = "," + ",".join(f"XClick{i}{axis}" for axis in "XY" for i in range(1, 5))
CLASSES = {"/m/dog": "Dog", "/m/bear": "Polar bear", "/m/girl": "Girl", "/m/desk": "Desk", "/m/arm": "Human arm"}


def row(image, label="/m/dog", left=0.1, right=0.8, top=0.1, bottom=0.9, group=0, inside=0, clicks=""):
    return f"{image},xclick,{label},1,{left},{right},{top},{bottom},0,0,{group},1,{inside}{clicks}"


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "class-descriptions-boxable.csv"
    path.write_text("".join(f"{label},{name}\n" for label, name in CLASSES.items()))
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(30):
        Image.new("RGB", (4, 4)).save(folder / f"{number:016x}.jpg")
    return folder


@pytest.fixture
def filtered(tmp_path, classes, images):
    """Run `synthesise filter` on rows: (photos, report)."""

    def run(rows, *arguments, header=HEADER, encoding="utf-8", out=tmp_path / "list.jsonl"):
        boxes = tmp_path / "boxes.csv"
        boxes.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
        report = tmp_path / "report.json"
        given = ["--boxes", boxes, "--classes", classes, "--images", images, "--out", out, "--report", report]
        call([*given, *arguments])
        return list(read_photos(out)), json.loads(report.read_text())

    return run


def call(arguments):
    parser = argparse.ArgumentParser()
    lists_command.add_commands(parser.add_subparsers())
    options = parser.parse_args(["filter", *map(str, arguments)])
    options.run(options)


def image(number):
    return f"{number:016x}"


def counts(report):
    return {rule: count for rule, count in report["rejected"].items() if count}


def test_a_kept_box_is_a_photo(filtered, tmp_path):
    photos, report = filtered([row(image(1), "/m/bear", 0.1, 0.8, 0.125, 0.875)])
    (photo,) = photos
    assert (photo.key, photo.category) == (f"{image(1)}-polar-bear", "polar bear")
    assert photo.box == (0.1, 0.125, 0.8, 0.875) and photo.captions == ()
    assert (tmp_path / photo.image).is_file() and photo.image == f"images/{image(1)}.jpg"
    assert (report["rows"], report["kept"], report["images"], report["classes"]) == (1, 1, 1, {"polar bear": 1})
    assert report["settings"]["human"] == list(HUMAN) and counts(report) == {}


def test_pictures_are_named_from_the_lists_folder(filtered, tmp_path):
    out = tmp_path / "deep" / "er" / "list.jsonl"
    (photo,), _ = filtered([row(image(1))], out=out)
    assert photo.image == f"../../images/{image(1)}.jpg" and (out.parent / photo.image).is_file()


BREAKS = {
    "unreadable": {"left": "nan"},
    "group": {"group": 1},
    "inside": {"inside": 1},
    "aspect": {"left": 0.0, "right": 1.0, "top": 0.1, "bottom": 0.5},
    "too small": {"left": 0.1, "right": 0.6, "top": 0.1, "bottom": 0.6},
    "too large": {"left": 0.0, "right": 0.95, "top": 0.0, "bottom": 0.95},
    "human": {"label": "/m/girl"},
    "clutter": {"label": "/m/desk"},
}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_box_that_breaks_one_rule(filtered, rule):
    photos, report = filtered([row(image(0)), row(image(1), **BREAKS[rule])])
    assert [photo.key for photo in photos] == [f"{image(0)}-dog"]
    assert counts(report) == {rule: 1} and report["rows"] == 2


def test_a_box_counts_for_the_first_rule_that_it_breaks(filtered):
    """Rows that break a rule and those after it that can be broken with it."""
    rules, rows = list(BREAKS), []
    for number in range(len(rules)):
        broken = {}
        for rule in reversed(rules[number:]):
            broken |= BREAKS[rule]
        rows.append(row(image(9), **broken))
    _, report = filtered([*rows, row(image(1)), row(image(1)), row("missing")])
    assert counts(report) == dict.fromkeys(rules, 1) | {"no picture": 1, "duplicate": 1}
    assert report["rows"] == report["kept"] + sum(report["rejected"].values())


@pytest.mark.parametrize("flag", ["group", "inside"])
def test_unknown_counts_as_present(filtered, flag):
    _, report = filtered([row(image(0)), row(image(1), **{flag: -1})])
    assert counts(report) == {flag: 1}


@pytest.mark.parametrize(
    "left,right,top,bottom,rule",
    [
        (0.1, 0.9, 0.3, 0.7, None),  # 2 : 1 to the digit, in numbers that are not exact
        (0.3, 0.7, 0.1, 0.9, None),
        (0.1, 0.9001, 0.3, 0.7, "aspect"),
        (0.3, 0.7, 0.1, 0.9001, "aspect"),
        (0.1, 0.7, 0.2, 0.7, "too small"),  # 0.3 to the digit
        (0.2, 0.8, 0.0, 0.5, "too small"),  # 0.30000000000000004 by float
        (0.1, 0.7, 0.2, 0.7001, None),
        (0.2, 1.0, 0.0, 1.0, "too large"),  # 0.8 to the digit
        (0.15, 0.95, 0.0, 1.0, "too large"),  # 0.7999999999999999 by float
        (0.2, 1.0, 0.0, 0.9999, None),
        (0.0, 1.0, 0.0, 1.0, "too large"),
    ],
)
def test_limits(filtered, left, right, top, bottom, rule):
    _, report = filtered([row(image(0)), row(image(1), left=left, right=right, top=top, bottom=bottom)])
    assert counts(report) == ({rule: 1} if rule else {})


def test_limits_can_be_set(filtered):
    small, long = row(image(1), bottom=0.4), row(image(2), left=0, right=1, bottom=0.45)
    assert counts(filtered([row(image(0)), small, long])[1]) == {"aspect": 2}
    photos, report = filtered([row(image(0)), small, long], "--max-aspect", "3", "--min-area", "0.2")
    assert len(photos) == 3 and report["settings"]["max_aspect"] == 3
    photos, _ = filtered([row(image(0)), row(image(1), "/m/girl")], "--human", "Dog")
    assert [photo.category for photo in photos] == ["girl"]


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["--max-aspect", "0.5"], "max_aspect = 0.5"),
        (["--max-aspect", "nan"], "max_aspect = nan"),
        (["--min-area", "0.9"], "min_area = 0.9"),
        (["--max-area", "nan"], "max_area = nan"),
        (["--clutter", "Tabel"], "No class is called 'tabel'"),
    ],
)
def test_impossible_limits(filtered, arguments, said):
    with pytest.raises(SubjectError, match=said):
        filtered([row(image(0))], *arguments)


def test_the_papers_lists():
    assert len(HUMAN) == 20 and len(CLUTTER) == 7 and len({*HUMAN, *CLUTTER}) == 27


def test_one_class_of_an_image_gives_its_first_good_box(filtered):
    """Also where the rows of an image do not stand together, and where the first box breaks a rule."""
    rows = [row(image(1), group=1), row(image(1), left=0.15), row(image(2)), row(image(1), left=0.2),
            row(image(1), "/m/bear"), row(image(2))]  # fmt: skip
    photos, report = filtered(rows)
    assert [photo.key for photo in photos] == [f"{image(1)}-dog", f"{image(2)}-dog", f"{image(1)}-polar-bear"]
    assert photos[0].box[0] == 0.15
    assert counts(report) == {"group": 1, "duplicate": 2} and report["images"] == 2


def test_a_file_that_is_given_twice_adds_nothing(filtered, tmp_path):
    photos, _ = filtered([row(image(1)), row(image(2))])
    again, report = filtered([row(image(1)), row(image(2))], "--boxes", tmp_path / "boxes.csv")
    assert again == photos and counts(report) == {"duplicate": 2}


def test_categories_that_are_alike_have_keys_of_their_own(tmp_path, images):
    report = FilterReport(FilterSettings())
    boxes = [Box(image(1), name, 0.1, 0.1, 0.9, 0.8, 0, 0) for name in ("polar bear", "bear", "bär", "bar", "熊", "!")]
    photos = list(choose_photos(boxes, images, tmp_path / "list.jsonl", report))
    assert len({photo.key for photo in photos}) == len(photos) == 6


VARIANTS = {
    "plain": (HEADER, ""),
    "clicks": (HEADER + CLICKS, ",0.5" * 8),
    "spaces": (HEADER.replace(",", ", "), ""),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_headers(filtered, variant, encoding):
    header, clicks = VARIANTS[variant]
    photos, _ = filtered([row(image(1), clicks=clicks)], header=header, encoding=encoding)
    assert [photo.box for photo in photos] == [(0.1, 0.1, 0.8, 0.9)]


def test_columns_are_found_by_name(filtered):
    names = HEADER.split(",")
    order = random.Random(1).sample(range(len(names)), len(names))
    cells = row(image(1), left=0.15).split(",")
    shuffled = [",".join(line[i] for i in order) for line in (names, cells)]
    photos, _ = filtered(shuffled[1:], header=shuffled[0])
    assert photos[0].box == (0.15, 0.1, 0.8, 0.9)


@pytest.mark.parametrize(
    "text,said",
    [
        ("", "lacks ImageID, LabelName, XMin"),
        ("a,b,c\n1,2,3\n", "lacks ImageID"),
        (HEADER.replace("IsInside", "Inside") + "\n", "lacks IsInside. It should be"),
        (row("0" * 16) + "\n", "lacks ImageID"),
        ("x" * 200_000, "cannot be read as CSV"),
        (HEADER + "\n", "No box of 0 was kept"),
    ],
    ids=["empty", "others", "one", "headless", "no table", "no rows"],
)
def test_files_of_boxes_that_are_none(tmp_path, classes, images, text, said):
    (tmp_path / "boxes.csv").write_text(text)
    given = ["--boxes", tmp_path / "boxes.csv", "--classes", classes, "--images", images, "--out", tmp_path / "x.jsonl"]
    with pytest.raises(SubjectError, match=said):
        call(given)
    assert not (tmp_path / "x.jsonl").exists()


def test_files_that_are_not_there(tmp_path, classes, images):
    given = {"--boxes": tmp_path / "boxes.csv", "--classes": classes, "--images": images, "--out": tmp_path / "x.jsonl"}
    (tmp_path / "boxes.csv").write_text(HEADER + "\n" + row(image(1)))
    for name, said in (("--boxes", "boxes.none"), ("--classes", "classes.none"), ("--images", "no folder")):
        wrong = given | {name: tmp_path / f"{name[2:]}.none"}
        with pytest.raises(SubjectError, match=said):
            call([part for pair in wrong.items() for part in pair])
    (tmp_path / "boxes.csv").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(SubjectError, match="cannot be read as CSV.*Unpack it"):
        call([part for pair in given.items() for part in pair])


@pytest.mark.parametrize("name", ["boxes.csv", "class-descriptions-boxable.csv", "report.json"])
def test_what_is_read_is_not_written_over(filtered, tmp_path, name):
    with pytest.raises(SubjectError, match="files of their own"):
        filtered([row(image(1))], out=tmp_path / name)


BROKEN = {
    "short": (f"{image(1)},xclick,/m/dog,1,0.1", "has 5 of 13 fields"),
    "words": (row(image(1), left="left"), "could not convert"),
    "empty number": (row(image(1), left=""), "could not convert"),
    "nan": (row(image(1), right="nan"), "no box within"),
    "infinite": (row(image(1), right="inf"), "no box within"),
    "turned": (row(image(1), left=0.8, right=0.1), "0.8, 0.1, 0.1, 0.9 is no box"),
    "flat": (row(image(1), top=0.9), "no box within"),
    "outside": (row(image(1), right=1.01), "no box within"),
    "below zero": (row(image(1), left=-0.01), "no box within"),
    "class": (row(image(1), "/m/none"), "'/m/none' is unknown"),
    "flag": (row(image(1), group=2), "IsGroupOf = 2"),
    "id": (row("../../etc/passwd"), "no id of an image"),
    "no id": (row(""), "no id of an image"),
    "long id": (row("a" * 65), "no id of an image"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_rows_are_counted_and_named(filtered, kind):
    line, said = BROKEN[kind]
    photos, report = filtered([row(image(0)), line])
    assert len(photos) == 1 and counts(report) == {"unreadable": 1}
    (named,) = report["unreadable_rows"]
    assert named.startswith("boxes.csv, line 3: ") and said in named


def test_only_the_first_broken_rows_are_named(filtered):
    _, report = filtered([row(image(0))] + [BROKEN["nan"][0]] * 9)
    assert counts(report) == {"unreadable": 9}
    assert [line.split(": ")[0] for line in report["unreadable_rows"]] == [f"boxes.csv, line {n}" for n in range(3, 8)]


def test_the_report_is_written_when_nothing_is_kept(filtered, tmp_path):
    with pytest.raises(SubjectError, match=r"No box of 1 was kept \(group 1\)"):
        filtered([row(image(0), group=1)])
    assert json.loads((tmp_path / "report.json").read_text())["rejected"]["group"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "/m/dog,Dog\n/m/bear,Polar bear\n",
        "LabelName,DisplayName\n/m/dog,Dog\n/m/bear,Polar bear\n",
        "id,name\r\n/m/dog,Dog\r\n/m/bear,Polar  bear\r\n",
        "DisplayName,LabelName\nDog,/m/dog\nPolar bear,/m/bear\n",
        '\ufeff/m/dog,"Dog"\n\n/m/bear,Polar bear\n',
    ],
    ids=["V4 to V6", "with header", "other header", "turned", "BOM"],
)
def test_tables_of_classes(tmp_path, text):
    path = tmp_path / "classes.csv"
    path.write_text(text, encoding="utf-8")
    assert read_classes(path) == {"/m/dog": "dog", "/m/bear": "polar bear"}


@pytest.mark.parametrize(
    "text,said",
    [("", "holds no class"), ("LabelName,DisplayName\n", "holds no class"), ("/m/dog\n", "line 1"),
     ("/m/dog,Dog\n/m/bear,\n", "line 2")],
)  # fmt: skip
def test_tables_of_classes_that_are_none(tmp_path, text, said):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(SubjectError, match=said):
        read_classes(path)


def plainly(lines, classes, present):
    """The research code's rules once more, with whole columns in memory and plain comparisons."""
    kept, seen = [], set()
    for cells in csv.DictReader(lines):
        width = float(cells["XMax"]) - float(cells["XMin"])
        height = float(cells["YMax"]) - float(cells["YMin"])
        name = classes[cells["LabelName"]].lower()
        good = (
            cells["IsGroupOf"] == "0" and cells["IsInside"] == "0"
            and width / height <= 2 and height / width <= 2 and 0.3 < width * height < 0.8
            and name not in ("girl", "human arm", "desk")
        )  # fmt: skip
        if good and cells["ImageID"] in present and (cells["ImageID"], name) not in seen:
            seen.add((cells["ImageID"], name))
            kept.append((cells["ImageID"], name))
    return kept


def test_random_rows_against_plain_comparisons(filtered):
    draw, rows = random.Random(3), []
    for _ in range(3000):
        left, right = sorted(round(draw.random(), 6) for _ in range(2))
        top, bottom = sorted(round(draw.random(), 6) for _ in range(2))
        flags = {name: draw.choice((0, 0, 0, 1, -1)) for name in ("group", "inside")}
        rows.append(row(image(draw.randrange(40)), draw.choice(list(CLASSES)), left, right, top, bottom, **flags))
    photos, _ = filtered(rows)
    found = [(photo.image[-20:-4], photo.category) for photo in photos]
    assert found == plainly([HEADER, *rows], CLASSES, {image(number) for number in range(30)})
    assert len(found) > 20


def test_large_files_are_streamed(tmp_path, classes, images):
    """100,000 rows (6 MB) take a small part of that: what is remembered grows with what is kept."""
    boxes = tmp_path / "boxes.csv"
    with boxes.open("w") as file:
        file.write(HEADER + "\n")
        file.writelines(f"{row(image(number))}\n" for number in range(100_000))
    names = read_classes(classes)
    report = FilterReport(FilterSettings())
    tracemalloc.start()
    try:
        kept = sum(1 for _ in choose_photos(read_boxes(boxes, names), images, tmp_path / "list.jsonl", report))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (kept, report.rows, report.rejected["no picture"]) == (30, 100_000, 99_970)
    assert boxes.stat().st_size > 5e6 and peak < 1e6


def test_lines_of_quoted_rows_are_those_of_the_file(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(f'{HEADER}\n{row(image(1))}\n"a\nb",x\n')
    broken = [found for found in read_boxes(path, {"/m/dog": "dog"}) if isinstance(found, BrokenRow)]
    assert broken == [BrokenRow("boxes.csv, line 4", "has 2 of 13 fields")]


def test_needed_columns_are_those_of_a_box():
    assert len(open_images.COLUMNS) == len(Box._fields)
