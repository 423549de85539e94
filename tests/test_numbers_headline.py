"""The report of `make numbers-headline`: crossings, speed-ups and their bounds, resumed records, the page, the plot."""

import json

import pytest
from PIL import Image

from tools.numbers.headline import page
from tools.numbers.headline.methods import METHODS, TARGET_STEPS
from tools.numbers.headline.plot import draw
from tools.numbers.headline.summary import PEERS, Curves, crossing, numbers, reached
from tools.numbers.records import Records


def looks(steps, top1, seconds=0.1, palette=10.0):
    """A curve whose seconds grow evenly."""
    return [
        {"step": step, "seconds": step * seconds, "top1": found, "palette_distance": palette - found, "background": 1.0}
        for step, found in zip(steps, top1, strict=True)
    ]


@pytest.fixture
def records():
    """Two subjects: ours gets to 0.75 and 0.85 in 80 steps, DreamBooth to 0.8 on the way from 400 to 800 steps, textual
    inversion never."""
    return {
        ("ours", 0): looks((0, 40, 80), (0.25, 0.5, 0.75)),
        ("ours", 1): looks((0, 40, 80), (0.35, 0.6, 0.85)),
        ("dreambooth", 0): looks((0, 400, 800), (0.0, 0.6, 1.0), 0.2),
        ("dreambooth", 1): looks((0, 400, 800), (0.0, 0.6, 1.0), 0.2),
        ("textual_inversion", 0): looks((0, 400, 800), (0.0, 0.2, 0.3)),
        ("textual_inversion", 1): looks((0, 400, 800), (0.0, 0.2, 0.3)),
    }


def test_a_crossing_lies_on_the_straight_line_between_two_looks():
    assert crossing([0, 10, 20], [0.0, 0.5, 1.0], 0.75) == 15
    assert crossing([0, 10, 20], [0.8, 0.5, 1.0], 0.75) == 0
    assert crossing([0, 10, 20], [0.0, 0.5, 0.7], 0.75) is None


def test_steps_seconds_and_speedups(records):
    found = reached(Curves(records))
    assert found["steps_to_target_ours"] == TARGET_STEPS and found["seconds_to_target_ours"] == pytest.approx(8)
    assert found["steps_to_target_dreambooth"] == pytest.approx(600)
    assert found["speedup_over_dreambooth"] == pytest.approx(7.5)
    assert found["speedup_in_seconds_over_dreambooth"] == pytest.approx(15)
    assert found["palette_speedup_over_dreambooth"] == pytest.approx(7.5)
    assert found["steps_to_target_textual_inversion"] is None


def test_what_is_not_reached_has_a_bound_and_no_number(records):
    found = numbers(Curves(records))
    assert found["speedup_over_textual_inversion"] is None and found["speedup_over_textual_inversion_se"] is None
    assert found["speedup_over_textual_inversion_at_least"] == 10
    assert found["steps_to_target_textual_inversion_at_least"] == 800
    assert found["speedup_over_textual_inversion_reached"] == 0
    assert found["speedup_over_dreambooth_reached"] == 1 and found["speedup_over_dreambooth_se"] > 0
    assert "speedup_over_trainlora" not in found  # was not measured
    json.dumps(found, allow_nan=False)


def test_where_ours_needs_no_step_there_is_no_ratio_in_either_unit(records):
    """Its seconds are those of preparing: a share of them says nothing, and its error would be beyond all bounds."""
    records["ours", 0] = looks((0, 40, 80), (0.9, 0.5, 0.75))
    for curve in records.values():
        for look in curve:
            look["seconds"] += 0.01
    curves = Curves(records)
    for rows in ([0], [0, 0]):
        found = reached(curves, rows)
        assert found["steps_to_target_ours"] == 0 and found["seconds_to_target_ours"] == pytest.approx(0.01)
        assert found["speedup_over_dreambooth"] is found["speedup_in_seconds_over_dreambooth"] is None
    both = numbers(curves)
    for prefix in ("", "palette_"):
        for peer in ("dreambooth", "textual_inversion"):
            steps, seconds = (both[f"{prefix}speedup{unit}_over_{peer}_reached"] for unit in ("", "_in_seconds"))
            assert steps == seconds
    only = numbers(Curves({key: curve for key, curve in records.items() if key[1] == 0}))
    assert only["speedup_over_textual_inversion_at_least"] is None
    assert only["speedup_in_seconds_over_textual_inversion_at_least"] is None


def test_the_page_keeps_its_text_and_shows_bounds(records):
    found = numbers(Curves(records))
    text = page.page_with(page.page_with("# Title\n\nBy hand.\n", "A machine.", found), "Another.", found)
    assert text.startswith("# Title\n\nBy hand.\n") and text.count(page.HEADING) == 1
    assert "| DreamBooth | 600" in text and "not reached, over 800" in text and "A machine" not in text


def test_the_plot_is_a_picture(records, tmp_path):
    draw(Curves(records), tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] > 500


def test_what_was_measured_is_not_measured_again(tmp_path):
    path, made = tmp_path / "records.jsonl", []

    def make(value):
        made.append(value)
        return {"value": value, "pair": (1, 2)}

    assert Records(path).get(["a", 1], lambda: make(1)) == {"value": 1, "pair": [1, 2]}
    Records(path).get(["b", (1, 2)], lambda: make(2))
    path.write_text(path.read_text() + '{"key": ["c"], "val')  # the command ended here
    again = Records(path)
    assert (
        again.get(["a", 1], lambda: make(3))["value"] == 1 and again.get(["b", [1, 2]], lambda: make(3))["value"] == 2
    )
    assert again.get(["c"], lambda: make(4))["value"] == 4 and made == [1, 2, 4]
    assert len(path.read_text().splitlines()) == 3


def test_each_way_tries_as_many_rates_and_uses_one_of_them():
    assert len({len(method.rates) for method in METHODS.values()}) == 1
    assert all(method.rate in method.rates for method in METHODS.values())
    assert all(method.steps[0] == 0 for method in METHODS.values()) and TARGET_STEPS in METHODS["ours"].steps
    assert set(PEERS) < set(METHODS)
