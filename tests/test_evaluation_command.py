"""`python -m blipdiff_impl evaluate`, end to end on the toy world with tiny random judges: drawn or found pictures,
interrupted and resumed, and the report in a browser."""

import csv
import json

import pytest
import torch
from PIL import Image
from tiny_judges import write_benchmark, write_judges, write_pictures

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.evaluation import generation, scoring
from blipdiff_impl.evaluation.benchmark import open_benchmark
from blipdiff_impl.evaluation.layout import find_runs, pictures_of


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    write_judges(folder)
    return ["--dino", str(folder / "dino"), "--clip", str(folder / "clip")]


@pytest.fixture
def data(tmp_path):
    write_benchmark(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(judges, data, capsys):
    def run(out, *arguments):
        """Exit status and what was said on stderr."""
        status = main(["evaluate", "--data", str(data), "--out", str(out), *judges, *map(str, arguments)])
        return status, capsys.readouterr().err

    return run


DRAW = ("--steps", 2, "--images", 1, "--seeds", 1000, 2000, "--batch", 1)


def results(out):
    return json.loads((out / "results.json").read_text())


def drawn(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "pictures").rglob("*.png"))}


def test_draws_scores_and_reports(run, tmp_path):
    out = tmp_path / "out"
    assert run(out, *DRAW)[0] == 0
    assert len(drawn(out)) == 2 * 2 * 2  # runs, subjects, prompts
    found = results(out)
    assert (found["pictures"], found["expected"], found["unreadable"]) == (8, 8, [])
    assert set(found["overall"]) == {"dino", "clip_i", "clip_t"} and set(found["runs"]) == {"1000", "2000"}
    kept = [json.loads(p.read_text())["pictures"] for p in (out / "scores").rglob("*.json")]
    dino = [entry["scores"]["dino"] for file in kept for entry in file.values()]
    assert found["overall"]["dino"]["mean"] == pytest.approx(sum(dino) / 8)
    rows = list(csv.reader((out / "results.csv").open()))
    assert [row[0] for row in rows] == ["subject", "toy_0", "toy_1", "mean over all pairs"]
    assert rows[-1][5] == "0.594" and rows[1][5] == ""


def test_another_prompt_subject_or_seed_is_another_picture(run, tmp_path):
    assert run(tmp_path / "out", *DRAW)[0] == 0
    assert len(set(drawn(tmp_path / "out").values())) == 8


class Stop(BaseException):
    """An end that the command says nothing of, as of a kill."""


def stop_after(monkeypatch, owner, name, calls):
    """Make the call after `calls` calls of a function raise."""
    real, left = getattr(owner, name), [calls]

    def function(*arguments, **options):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize(("owner", "name"), [(generation, "write_whole"), (scoring, "write_json")])
@pytest.mark.parametrize("calls", [0, 3])
def test_an_interrupted_evaluation_goes_on_and_gives_the_same(run, tmp_path, monkeypatch, owner, name, calls):
    assert run(tmp_path / "unbroken", *DRAW)[0] == 0
    with monkeypatch.context() as patch:
        stop_after(patch, owner, name, calls)
        with pytest.raises(Stop):
            run(tmp_path / "broken", *DRAW)
    assert not (tmp_path / "broken" / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken" / "pictures").rglob("*.png")}
    assert len(before) == (calls if owner is generation else 8)
    assert run(tmp_path / "broken", *DRAW)[0] == 0
    assert (
        before.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "broken" / "pictures").rglob("*.png")}.items()
    )
    assert drawn(tmp_path / "broken") == drawn(tmp_path / "unbroken")
    for file in ("results.json", "results.csv"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes()


def test_nothing_is_judged_or_drawn_twice(run, tmp_path, monkeypatch):
    assert run(tmp_path / "out", *DRAW)[0] == 0
    stop_after(monkeypatch, generation, "write_whole", 0)
    stop_after(monkeypatch, scoring.Scorer, "_scores", 0)
    assert run(tmp_path / "out", *DRAW)[0] == 0
    with pytest.raises(Stop):  # another size of batch rounds otherwise
        run(tmp_path / "out", *DRAW[:-1], 2)


def test_other_settings_do_not_mix(run, data, tmp_path):
    assert run(tmp_path / "out", *DRAW)[0] == 0
    status, said = run(tmp_path / "out", *DRAW, "--guidance", 3)
    assert status == 2 and "guidance was 7.5 and is 3.0" in said
    Image.new("RGB", (40, 40)).save(data / "toy_0" / "00.png")
    status, said = run(tmp_path / "out", *DRAW)
    assert status == 2 and "photos was" in said


def test_a_subject_is_tuned_once(run, tmp_path, monkeypatch):
    from blipdiff_impl.blip_diffusion.finetuning import plain

    arguments = (*DRAW[:-4], 1000, "--finetune", "--finetune-steps", 1, "--finetune-rate", 1e-3, "--subjects", "toy_0")
    assert run(tmp_path / "plain", *DRAW[:-4], 1000, "--subjects", "toy_0")[0] == 0
    assert run(tmp_path / "out", *arguments)[0] == 0
    tuned = drawn(tmp_path / "out")
    assert set(tuned) == set(drawn(tmp_path / "plain")) and tuned != drawn(tmp_path / "plain")
    one = next((tmp_path / "out" / "pictures").rglob("*.png"))
    one.unlink()
    stop_after(monkeypatch, plain, "tune", 0)
    assert run(tmp_path / "out", *arguments)[0] == 0
    assert drawn(tmp_path / "out") == tuned
    assert "fine-tuned" in results(tmp_path / "out")["title"]


def test_scores_pictures_of_others(run, tmp_path):
    """One run, or several, with names as ComfyUI writes them; the broken one is named and left out."""
    write_pictures(tmp_path / "found" / "b", ["toy_0", "toy_1"], images=2)
    write_pictures(tmp_path / "found" / "a", ["toy_0", "toy_1"], images=2)
    (tmp_path / "found" / "a" / "toy_0" / "00_0.png").rename(tmp_path / "found" / "a" / "toy_0" / "00_00001_.png")
    (tmp_path / "found" / "b" / "toy_1" / "01_1.png").write_bytes(b"\x89PNG broken")
    assert run(tmp_path / "out", "--pictures", tmp_path / "found")[0] == 0
    found = results(tmp_path / "out")
    assert (found["pictures"], found["expected"]) == (15, None) and list(found["runs"]) == ["a", "b"]
    assert found["unreadable"] == ["b/toy_1/01_1.png"]
    assert found["overall"]["dino"]["deviation"] > 0
    assert "b/toy_1/01_1.png" in (tmp_path / "out" / "report.html").read_text()
    assert run(tmp_path / "single", "--pictures", tmp_path / "found" / "a")[0] == 0
    assert results(tmp_path / "single")["overall"]["dino"]["mean"] == pytest.approx(found["runs"]["a"]["dino"])
    # a picture that changes is judged again, one that goes is forgotten
    (tmp_path / "found" / "b" / "toy_1" / "01_1.png").unlink()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "found" / "b" / "toy_0" / "00_0.png")
    assert run(tmp_path / "out", "--pictures", tmp_path / "found")[0] == 0
    again = results(tmp_path / "out")
    assert again["unreadable"] == [] and again["runs"]["a"] == found["runs"]["a"]
    assert again["runs"]["b"]["dino"] != found["runs"]["b"]["dino"]


def test_the_report_opens_in_a_browser(run, data, tmp_path, browser):
    write_pictures(tmp_path / "found" / "1000", ["toy_0", "toy_1"])
    out = tmp_path / "out & #1"
    assert run(out, "--pictures", tmp_path / "found", "--title", "<script>alert(1)</script> & more")[0] == 0
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((out / "report.html").as_uri())
    assert page.title() == "<script>alert(1)</script> & more" == page.locator("h1").inner_text()
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 2 * (2 + 2 * 2) and min(widths) > 0  # subjects x (photos + prompts x images)
    assert said == [] and all(url.startswith("file://") for url in asked)
    assert "0.594" in page.locator("table").first.inner_text()
    page.close()


def test_dreambench_as_it_is_published(dreambench):
    subjects = {s.name: s for s in open_benchmark(dreambench, only=["cat", "teapot", "bear_plushie"])}
    assert [len(s.prompts) for s in subjects.values()] == [25, 25, 25]
    assert subjects["bear_plushie"].category == "plushie" and len(subjects["cat"].photos) == 5
    texts = {name: {p.text(s.category) for p in s.prompts} for name, s in subjects.items()}
    assert "a cat wearing a santa hat" in texts["cat"] and "a teapot on top of a mirror" in texts["teapot"]
    assert "a cube shaped plushie" in texts["bear_plushie"]
    as_filed = open_benchmark(dreambench, only=["bear_plushie"], released_words=False)
    assert as_filed[0].category == "stuffed animal"
    with pytest.raises(SubjectError, match="no photos in .* for berry_bowl, candle"):
        open_benchmark(dreambench)


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("", "parts `prompts` and `subjects`"),
        ("[1, 2]", "parts `prompts` and `subjects`"),
        ("prompts: {a: [", "neither YAML nor JSON"),
        ("prompts: {a: text}\nsubjects: {toy_0: {category: cat}}", "should be a list"),
        ("prompts: {a: []}\nsubjects: {toy_0: {category: cat}}", "should be a list"),
        ("prompts: {a: [a cat]}\nsubjects: {toy_0: {category: cat}}", "should hold {} once"),
        ("prompts: {a: ['a {}']}\nsubjects: {toy_0: cat}", "category: <class word>"),
        ("prompts: {a: ['a {}']}\nsubjects: {toy_0: {category: cat, prompts: b}}", "asks for the prompts 'b'"),
        ("prompts: {a: ['a {}']}\nsubjects: {toy_0: {category: ' '}}", "category is empty"),
        ("prompts: {a: ['a {}']}\nsubjects: {nobody: {category: cat}}", "no photos in"),
        ("prompts: {a: ['a {}']}\nsubjects: {../data/toy_0: {category: cat}}", "cannot be a folder's"),
    ],
)
def test_malformed_listings(data, listing, message):
    (data / "other.yaml").write_text(listing)
    with pytest.raises(SubjectError, match=message):
        open_benchmark(data, data / "other.yaml")


def test_listings_that_cannot_be_read(data, tmp_path):
    (data / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (data / "other.txt").write_text("Classes\n\ncat,cat\n")
    for name, message in (("bytes.yaml", "cannot be read"), ("none.json", "cannot be read"), ("other.txt", "parts")):
        with pytest.raises(SubjectError, match=message):
            open_benchmark(data, data / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SubjectError, match="has none of"):
        open_benchmark(tmp_path / "empty")
    with pytest.raises(SubjectError, match="There is no folder"):
        open_benchmark(tmp_path / "nowhere")


def test_names_without_a_prompt_are_refused(data, tmp_path):
    subjects = open_benchmark(data)
    write_pictures(tmp_path / "found", ["toy_0"], prompts=3)
    with pytest.raises(SubjectError, match="prompts 0 to 1"):
        pictures_of(tmp_path / "found", subjects[0])
    write_pictures(tmp_path / "other", ["toy_0"])
    Image.new("RGB", (40, 40)).save(tmp_path / "other" / "toy_0" / "cat.png")
    with pytest.raises(SubjectError, match="named after its prompt's number"):
        pictures_of(tmp_path / "other", subjects[0])
    with pytest.raises(SubjectError, match="holds no pictures of toy_0, toy_1"):
        find_runs(tmp_path / "nowhere", subjects)


def test_mistakes_end_in_a_sentence(run, data, tmp_path):
    write_pictures(tmp_path / "found", ["toy_0", "toy_1"])
    found = ("--pictures", tmp_path / "found")
    (tmp_path / "file").write_text("")
    for out, arguments, message in (
        ("out", (*found, "--dino", tmp_path), "config.json cannot be read"),
        ("out", (*found, "--subjects", "toy_7"), "lists no 'toy_7'"),
        ("out", (*found, "--batch", 0), "batch = 0"),
        ("out", (*found, "--aesthetic-head", tmp_path / "file"), "needs both"),
        ("out", ("--images", 0), "images = 0"),
        ("out", ("--seeds", 1, 1), "different numbers"),
        ("out", ("--guidance", "nan"), "guidance = nan"),
        ("file/out", found, "cannot be written"),
        ("size", (*DRAW, "--size", 50, 64), "multiples of 8"),
    ):
        status, said = run(tmp_path / out, *arguments)
        assert status == 2 and message in said, (arguments, said)
    (data / "toy_1" / "01.png").write_bytes(b"no picture")
    status, said = run(tmp_path / "out", *found)
    assert status == 2 and "01.png cannot be read as a picture" in said
    assert not list(tmp_path.rglob("*.part"))


def test_pictures_that_hold_nan_are_not_written(run, tmp_path, monkeypatch):
    real = generation.SubjectPipeline.generate
    monkeypatch.setattr(
        generation.SubjectPipeline, "generate", lambda *a, **o: torch.full_like(real(*a, **o), float("nan"))
    )
    status, said = run(tmp_path / "out", *DRAW)
    assert status == 2 and "holds NaN" in said and not drawn(tmp_path / "out")
