"""GILL by VIST and VisDial on made-up data: what is read, what is scored, resuming, and LPIPS against plain loops."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_judges import write_judges

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.evaluation import gill_evaluation
from blipdiff_impl.evaluation.gill_evaluation import recalls
from blipdiff_impl.evaluation.lpips import Lpips
from blipdiff_impl.evaluation.stories import open_trials
from blipdiff_impl.gill.file_names import TOY_FILE


def draw(path, seed, side=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


WORDS = ("a cat in the snow.", "a dog.", "a hat at night.", "a boat.", "a mug on the beach.")


def vist(folder, stories=3):
    """Stories whose sentences lie in the file in another order than they are told in."""
    entries = []
    for story in range(stories):
        for place in (3, 0, 4, 1, 2):
            name = f"{100 * story + place}"
            draw(folder / "vist" / f"{name}.png", 10 * story + place)
            entries.append([{"story_id": str(story), "worker_arranged_photo_order": place, "photo_flickr_id": name,
                             "original_text": WORDS[(place + story) % 5]}])  # fmt: skip
    path = folder / "vist.json"
    path.write_text(json.dumps({"annotations": entries}))
    return path, folder / "vist"


def visdial(folder, count=2):
    questions, answers = [f"is it {i}" for i in range(12)], ["yes", "no", "a cat"]
    dialogs = []
    for number in range(count):
        draw(folder / "visdial" / f"VisualDialog_val2018_{number + 7:012d}.jpg", number)
        rounds = [{"question": (number + r) % 12, "answer": r % 3} for r in range(10)]
        dialogs.append({"image_id": number + 7, "caption": "a cat", "dialog": rounds})
    path = folder / "visdial.json"
    path.write_text(json.dumps({"data": {"questions": questions, "answers": answers, "dialogs": dialogs}}))
    return path, folder / "visdial"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stories")
    write_judges(folder)
    weights = lpips_weights()
    save_file(weights[0], folder / "alexnet.safetensors")
    save_file(weights[1], folder / "linear.safetensors")
    return folder


def lpips_weights(seed=0):
    torch.manual_seed(seed)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    net, linear = {}, {}
    for number, (place, (out, into, kernel)) in enumerate(shapes.items()):
        net[f"features.{place}.weight"] = torch.randn(out, into, kernel, kernel) / (into * kernel**2) ** 0.5
        net[f"features.{place}.bias"] = torch.randn(out) / 10
        linear[f"lin{number}.model.1.weight"] = torch.rand(1, out, 1, 1)
    return net, linear


def test_stories_are_read_in_the_order_they_are_told_in(tmp_path):
    trials = open_trials("vist", *vist(tmp_path))
    first = trials[1]  # of the second story the sentences begin one later
    texts = [WORDS[(place + 1) % 5] for place in range(5)]
    assert first.caption == texts[4] and first.target.name == "104.png"
    assert first.contexts["1 caption"] == (texts[4],) and first.contexts["5 captions"] == (" ".join(texts),)
    mixed = first.contexts["5 captions, 4 images"]
    assert mixed[::2] == tuple(texts) and [path.name for path in mixed[1::2]] == [f"10{i}.png" for i in range(4)]
    assert len(open_trials("vist", *vist(tmp_path), most=2)) == 2


def test_dialogues_are_read_by_rounds(tmp_path):
    trial = open_trials("visdial", *visdial(tmp_path))[1]
    assert list(trial.contexts) == ["1 round", "5 rounds", "10 rounds"]
    assert trial.contexts["1 round"] == ("Q: is it 1?\nA: yes",)
    assert trial.contexts["10 rounds"][0].splitlines()[-2:] == ["Q: is it 10?", "A: yes"]
    assert trial.contexts["5 rounds"][0].count("\n") == 9


@pytest.mark.parametrize("content, said", [
    ("{", "are no JSON"), ("[1]", "not those of vist"), ('{"annotations": [[{"story_id": "1"}]]}', "not those of vist"),
    ('{"annotations": []}', "No trial of"),
    ('{"annotations": [[{"story_id": "1", "worker_arranged_photo_order": 0, "photo_flickr_id": "../x", '
     '"original_text": "a"}]]}', "not those of vist"),
])  # fmt: skip
def test_files_of_another_form_are_refused(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(SubjectError, match=said):
        open_trials("vist", path, tmp_path)


def test_trials_without_all_their_pictures_are_left_out(tmp_path):
    annotations, pictures = vist(tmp_path)
    (pictures / "101.png").unlink()
    assert [trial.name for trial in open_trials("vist", annotations, pictures)] == ["story_0", "story_2"]


def test_lpips_against_loops(data):
    lpips = Lpips(data / "alexnet.safetensors", data / "linear.safetensors")
    one, other = (
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (256, 256, 3), dtype=np.uint8)) for n in (1, 2)
    )
    assert lpips.distance(one, one) == 0 and lpips.distance(one, other) == pytest.approx(lpips.distance(other, one))
    net, linear = lpips_weights()
    modules = []
    strides = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
    for place, (stride, padding) in strides.items():
        weight = net[f"features.{place}.weight"]
        conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride, padding)
        conv.load_state_dict({"weight": weight, "bias": net[f"features.{place}.bias"]})
        modules.append((torch.nn.MaxPool2d(3, 2) if place in (3, 6) else torch.nn.Identity(), conv))

    def features(picture):
        x = torch.tensor(np.array(picture)).float().permute(2, 0, 1)[None] / 127.5 - 1
        x = (x - torch.tensor([-0.03, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.45])[
            :, None, None
        ]
        found = []
        for pool, conv in modules:
            x = torch.relu(conv(pool(x)))
            found.append(x)
        return found

    total = 0.0
    with torch.no_grad():
        for number, (a, b) in enumerate(zip(features(one), features(other), strict=True)):
            a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
            share = linear[f"lin{number}.model.1.weight"][0, :, 0, 0]
            places = [(share * (a - b)[0, :, y, x] ** 2).sum() for y in range(a.shape[2]) for x in range(a.shape[3])]
            total += float(torch.stack(places).mean())
    assert lpips.distance(one, other) == pytest.approx(total, rel=1e-4)


def test_lpips_of_other_files_is_refused(data, tmp_path):
    with pytest.raises(CheckpointError, match="has no tensor features"):
        Lpips(data / "linear.safetensors", data / "alexnet.safetensors")


def test_recalls_by_hand():
    pictures = torch.eye(12)
    order = torch.tensor([*range(1, 12), 0])
    assert recalls(pictures, pictures) == {1: 1.0, 5: 1.0, 10: 1.0}
    assert recalls(pictures[order], pictures) == {1: 0.0, 5: 0.0, 10: 0.0} or recalls(pictures[order], pictures)[1] == 0
    texts = torch.eye(12)
    texts[0] = torch.tensor([0.5, 0.9, 0.8] + [0.0] * 9)
    assert recalls(texts, pictures) == pytest.approx({1: 11 / 12, 5: 1.0, 10: 1.0})


def arguments(data, out, protocol, files, *more):
    return ["evaluate-gill", protocol, *map(str, files), "--out", str(out), "--gill", "toy", "--clip",
            str(data / "clip"), "--alexnet", str(data / "alexnet.safetensors"), "--lpips",
            str(data / "linear.safetensors"), "--checkpoint", "toybox", "--steps", "2", "--guidance", "2",
            *more]  # fmt: skip


def test_the_command_scores_and_resumes(data, tmp_path, monkeypatch):
    """Stopped after the first trial, it goes on there and gives the same numbers."""
    files = vist(tmp_path, 2)
    assert main(arguments(data, tmp_path / "whole", "vist", files)) == 0
    trial, seen = gill_evaluation.StoryEvaluation._trial, []

    def stop(self, given):
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(given.name)
        return trial(self, given)

    with monkeypatch.context() as patch:
        patch.setattr(gill_evaluation.StoryEvaluation, "_trial", stop)
        assert main(arguments(data, tmp_path / "broken", "vist", files)) == 130
    answered = []
    answer = gill_evaluation.StoryEvaluation._answer
    monkeypatch.setattr(
        gill_evaluation.StoryEvaluation, "_answer",
        lambda self, given, *rest: answered.append(given.name) or answer(self, given, *rest),
    )  # fmt: skip
    assert main(arguments(data, tmp_path / "broken", "vist", files)) == 0
    assert seen == ["story_0"] and set(answered) == {"story_1"}
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "broken"))
    assert first == second and first["trials"] == 2
    scores = first["contexts"]["5 captions, 4 images"]
    assert scores["drawn"] == 2 and -1 <= scores["clip"] <= 1 and scores["lpips"] > 0 and first["caption_loss"] > 0
    kept = load_file(tmp_path / "whole" / "conditioning" / "1 caption" / "story_0.safetensors")
    assert kept["conditioning"].shape == (77, 128)
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "0.641 [M]" in page and "0.203 [S]" in page and "from memory" in page
    changed = arguments(data, tmp_path / "whole", "vist", files)
    changed[changed.index("--steps") + 1] = "3"
    assert main(changed) == 2


def changed_copy(path, target, name):
    """The file with another value in one tensor."""
    with safe_open(path, framework="pt") as file:
        tensors, about = {each: file.get_tensor(each) for each in file.keys()}, file.metadata()
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, target, about)
    return target


@pytest.mark.parametrize("option, tensor, said", [
    ("--gill", "gen_text_hidden_fcs.0.model.bias", ": gill was "),
    ("--gill", "language_model.model.decoder.final_layer_norm.weight", ": language_model was "),
    ("--lpips", "lin4.model.1.weight", ": lpips was "),
])  # fmt: skip
def test_a_run_does_not_go_on_with_other_weights(data, tmp_path, capsys, option, tensor, said):
    """Which a name or the space of retrieval does not tell."""
    given = [*arguments(data, tmp_path / "out", "visdial", visdial(tmp_path, 1)), "--trials", "1"]
    cut = given.index("--checkpoint")
    given[cut : cut + 2] = []
    assert main(given) == 0
    place = given.index(option) + 1
    before = TOY_FILE if given[place] == "toy" else given[place]
    given[place] = str(changed_copy(before, tmp_path / "changed.safetensors", tensor))
    capsys.readouterr()
    assert main(given) == 2
    assert said in capsys.readouterr().err


def test_somebody_else_may_draw(data, tmp_path, capsys):
    files = visdial(tmp_path)
    given = arguments(data, tmp_path / "out", "visdial", files)
    cut = given.index("--checkpoint")
    given[cut : cut + 2] = []
    assert main(given) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["contexts"]["1 round"]["clip"] is None and results["contexts"]["1 round"]["drawn"] == 0
    Image.open(files[1] / "VisualDialog_val2018_000000000007.jpg").save(tmp_path / "true.png")
    folder = tmp_path / "out" / "pictures" / "1 round"
    folder.mkdir(parents=True)
    (tmp_path / "true.png").rename(folder / "dialogue_7.png")
    assert main(given) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = results["contexts"]["1 round"]
    assert scores["drawn"] == 1 and scores["clip"] == pytest.approx(1, abs=1e-3) and scores["lpips"] < 1e-3
