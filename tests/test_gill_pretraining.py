"""GILL's training: its three losses against slow and obvious ones, what learns, resuming, the file that comes out."""

import io
import json
import re
import tarfile
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gill_fixtures import opt_folder, tiny_clip
from PIL import Image
from pretraining_fixtures import finish_run, kill_run, start_run, write_shards
from safetensors.torch import load_file

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.gill.checkpoint import open_gill
from blipdiff_impl.gill.pipeline import GILL
from blipdiff_impl.gill.pretraining import command, decision
from blipdiff_impl.gill.pretraining.frozen import FrozenGILL, text_ids
from blipdiff_impl.gill.pretraining.model import GILLTraining
from blipdiff_impl.gill.pretraining.settings import GILLSettings
from blipdiff_impl.gill.pretraining.task import GILLTask
from blipdiff_impl.training.optimisers import learning_rate
from blipdiff_impl.training.run_log import read_losses
from blipdiff_impl.training.samples import BrokenSample, Sample
from blipdiff_impl.training.settings_file import to_yaml
from blipdiff_impl.training.shards import Shards
from blipdiff_impl.training.trainer import train_stage


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("gill_pretraining")
    opt_folder(folder / "opt")
    tiny_clip().save_pretrained(folder / "clip")
    torch.manual_seed(4)
    text = CLIPTextConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    return {
        "language_model": str(folder / "opt"), "vision_model": str(folder / "clip"),
        "text_encoder": str(folder / "text_encoder"), "shards": (write_shards(folder),),
    }  # fmt: skip


@pytest.fixture(scope="module")
def make(material):
    def make(**changes):
        values = {"steps": 6, "batch_size": 4, "warm_up": 2, "log_every": 1, "save_every": 2, "seed": 5, "threads": 1,
                  "precision": "no", "visual_tokens": 3, "retrieval_width": 10, "mapper_width": 16, "mapper_heads": 2,
                  "mapper_layers": 1, "mapper_feed_forward": 24, "text_length": 14}  # fmt: skip
        return GILLSettings(**(material | values | changes))

    return make


@pytest.fixture(scope="module")
def task(make):
    return GILLTask(make())


@pytest.fixture(scope="module")
def batch(task, material):
    """Four pairs, the first two joined or not by what is asked."""
    source = Shards(material["shards"])
    raw = task.collate([task.prepare(source[i], np.random.default_rng(i)) for i in range(4)])
    return task.batch(raw)


def test_captions_as_tokens(task):
    ids = task.caption_ids("a cat")
    assert ids == [2, *task.frozen.language.tokenizer.ids("a cat"), *task.config.image_tokens]
    long = task.caption_ids("a cat in snow" * 5)
    assert len(long) == 14 and long[:6] == [2, *task.frozen.language.tokenizer.ids("a cat in snow" * 5)[:5]]
    assert long[6:] == list(task.config.image_tokens)
    assert task.config.first_image_token == task.frozen.language.tokenizer.size + 1


def slow_losses(task, batch, joined):
    """One pair after the other, by the sentences of the description."""
    parts, first = task.model.parts, task.config.first_image_token
    language = task.frozen.language.network
    table = language.get_input_embeddings().weight

    def embedded(ids):
        return torch.stack([parts.rows[i - first] if i >= first else table[i] for i in ids])

    def logits(states):
        return torch.cat([states @ table[:first].T, states.new_full((len(states), first - len(table[:first])), -1e9),
                          states @ parts.rows.T], -1)  # fmt: skip

    def pass_over(sequences):
        """Of each `[(row or id), label or None]` sequence its states, and the mean cross-entropy over all."""
        found, terms = [], []
        for rows, labels in sequences:
            states = language.model(inputs_embeds=rows[None]).last_hidden_state[0]
            found.append(states)
            for place, label in enumerate(labels[1:]):
                if label is not None:
                    terms.append(F.cross_entropy(logits(states[place : place + 1]), torch.tensor([label])))
        return found, sum(terms) / len(terms)

    count = len(batch.lengths)
    captions = [batch.ids[i, : batch.lengths[i]].tolist() for i in range(count)]

    def sequences(join, pictures):
        made, places = [], []
        for i, ids in enumerate(captions):
            second = join and i % 2
            ids = ids[1:] if second else ids
            ids = ids[:-8] if pictures else ids
            rows, labels = embedded(ids), [label if label <= first else None for label in ids]
            if pictures:
                prefix = parts.visual_embeddings(batch.pooled[i]).reshape(3, -1)
                rows, labels = torch.cat([prefix, rows]), [None] * 3 + labels
            if second:
                made[-1] = (torch.cat([made[-1][0], rows]), made[-1][1] + labels)
            else:
                made.append((rows, labels))
            places.append((len(made) - 1, len(made[-1][1])))
        return made, places

    def eight(states, places):
        return torch.stack([states[row][end - 8 : end] for row, end in places])

    _, caption = pass_over(sequences(joined[0], True)[0])
    made, places = sequences(joined[1], False)
    states, words = pass_over(made)
    texts = F.normalize(parts.ret_text_hidden_fcs[0].model(eight(states, places)[:, 0]), dim=-1)
    pictures = F.normalize(parts.visual_fc(batch.pooled), dim=-1)
    scores, due = parts.logit_scale.exp() * texts @ pictures.T, torch.arange(count)
    retrieval = (F.cross_entropy(scores, due) + F.cross_entropy(scores.T, due)) / 2 + 0.5 * words
    made, places = sequences(joined[2], False)
    states, words = pass_over(made)
    mapped = parts.gen_text_hidden_fcs[0](eight(states, places), parts.rows)
    generation = ((mapped - batch.targets) ** 2).sum(-1).sqrt().mean() + 0.5 * words
    return {"caption": caption, "retrieval": retrieval, "generation": generation}


@pytest.mark.parametrize(
    "joined", [(False, False, False), (True, True, True), (True, False, True), (False, True, False)]
)
def test_losses(task, batch, joined):
    given = replace(batch, joined=torch.tensor([joined] * 4))
    with torch.no_grad():
        ours, slow = task.model(given), slow_losses(task, given, joined)
    assert ours.keys() == slow.keys()
    for name in ours:
        assert ours[name].item() == pytest.approx(slow[name].item(), rel=1e-4), name


def test_targets_are_the_text_encoders_last_states(task, material):
    from transformers import CLIPTextModel

    from blipdiff_impl.gill.pretraining.frozen import text_ids

    ids = text_ids("a cat in snow")
    assert ids.shape == (77,) and ids[0] == 49406 and (ids == 49407).sum() == 77 - 5
    assert text_ids("word " * 100)[-1] == 49407
    model = CLIPTextModel.from_pretrained(material["text_encoder"], local_files_only=True, trust_remote_code=False)
    with torch.no_grad():
        expected = model(input_ids=ids[None]).last_hidden_state
    assert torch.allclose(task.frozen.targets(ids[None]), expected, atol=1e-6)


def test_targets_are_computed_in_full_precision(make):
    ids = torch.stack([text_ids("a cat in the snow"), text_ids("")])
    with torch.autocast("cpu", torch.bfloat16):
        found = GILLTask(make()).frozen.targets(ids)
    assert found.dtype == torch.float32 and torch.equal(found, GILLTask(make()).frozen.targets(ids))


def test_targets_are_made_once(make, monkeypatch):
    """Each caption passes the text encoder once, and is what it would be without what is kept, to the bit."""
    frozen = GILLTask(make()).frozen
    rows = torch.stack([text_ids(caption) for caption in ("a cat", "in snow", "a cat", "a dog")])
    asked, encode = [], frozen._text_encoder.forward
    monkeypatch.setattr(
        frozen._text_encoder, "forward", lambda input_ids: asked.extend(input_ids) or encode(input_ids=input_ids)
    )
    first = frozen.targets(rows)
    assert len(asked) == 3 and torch.equal(first[0], first[2]) and first.shape == (4, 77, 16)
    again = frozen.targets(rows[[3, 1, 0]])
    assert len(asked) == 3 and torch.equal(again, first[[3, 1, 0]])
    fresh = GILLTask(make()).frozen
    assert all(torch.equal(fresh.targets(row[None])[0], target) for row, target in zip(rows, first, strict=True))


def test_on_a_gpu_new_targets_are_made_together(make, monkeypatch):
    rows = torch.stack([text_ids(caption) for caption in ("a cat", "in snow", "a cat")])
    alone = GILLTask(make()).frozen.targets(rows)
    monkeypatch.setattr(FrozenGILL, "_together", True)
    frozen, asked = GILLTask(make()).frozen, []
    encode = frozen._text_encoder.forward
    monkeypatch.setattr(
        frozen._text_encoder, "forward", lambda input_ids: asked.append(len(input_ids)) or encode(input_ids=input_ids)
    )
    torch.testing.assert_close(frozen.targets(rows), alone, rtol=0, atol=1e-5)
    assert torch.equal(frozen.targets(rows[:1]), frozen.targets(rows[2:])) and asked == [2]


def test_no_more_targets_are_kept_than_there_is_room_for(make, monkeypatch):
    monkeypatch.setattr("blipdiff_impl.gill.pretraining.frozen.KEPT_BYTES", 2 * 77 * 16 * 4)
    frozen = GILLTask(make()).frozen
    rows = torch.stack([text_ids(caption) for caption in ("a cat", "in snow", "a dog")])
    asked, encode = [], frozen._text_encoder.forward
    monkeypatch.setattr(
        frozen._text_encoder, "forward", lambda input_ids: asked.extend(input_ids) or encode(input_ids=input_ids)
    )
    assert torch.equal(frozen.targets(rows), frozen.targets(rows))
    assert len(asked) == 4 and torch.equal(asked[3], rows[2])


def test_rows_keep_the_length_of_words(make):
    words = GILLTask(make()).frozen.language.network.get_input_embeddings().weight
    for factor in (1.0, 1.3):
        task = GILLTask(make(row_norm=factor))
        with torch.no_grad():
            task.model.parts.rows.mul_(7)
        task.model.after_step()
        due = factor * words[: task.frozen.language.tokenizer.size].norm(dim=1).mean()
        assert torch.allclose(task.model.parts.rows.norm(dim=1), due.expand(8), rtol=1e-5)


def test_the_published_rate():
    settings = GILLSettings(language_model="a", vision_model="b", text_encoder="c")
    rates = {1: 5e-7, 2000: 1e-3, 2001: 1e-3, 10_000: 1e-3, 10_001: 1e-4, 20_000: 1e-4}
    assert {step: learning_rate(step, settings) for step in rates} == pytest.approx(rates)
    assert (settings.batch_size, settings.steps, settings.betas, settings.clip) == (200, 20_000, (0.9, 0.95), 1.0)


def losses_of(folder):
    return [{name: row[name] for name in row if name != "samples_per_second"} for row in read_losses(folder)]


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """A run without a break, through the command."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "settings.yaml").write_text("stage: gill\n" + to_yaml(make(out=str(folder / "run"))))
    assert main(["pretrain", str(folder / "settings.yaml")]) == 0
    return folder / "run"


def test_killed_and_gone_on_is_the_same_as_unbroken(make, tmp_path):
    """SIGKILL behind a checkpoint, to the command as users start it; to the bit."""
    whole = make(out=str(tmp_path / "whole"), steps=40)
    path = command.train(whole)
    parts = replace(whole, out=str(tmp_path / "parts"))
    kill_run(start_run(parts, tmp_path), tmp_path / "parts" / "checkpoints" / "step_*[2-9]")
    assert len(losses_of(tmp_path / "parts")) < 40 and not (tmp_path / "parts" / path.name).exists()
    assert "from step 0 of" not in finish_run(start_run(parts, tmp_path))
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole") and len(losses_of(tmp_path / "whole")) == 40
    first, second = load_file(path), load_file(tmp_path / "parts" / path.name)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_are_one_with_the_same_batch(make, tmp_path):
    """Also which pairs are joined, and words of captions of other lengths; 1e-4: sums of float32 in another order."""
    one = make(out=str(tmp_path / "one"), steps=6, batch_size=8)
    command.train(one)
    output = finish_run(start_run(replace(one, out=str(tmp_path / "two")), tmp_path, processes=2))
    assert "2 process(es)" in output
    for found, expected in zip(losses_of(tmp_path / "two"), losses_of(tmp_path / "one"), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_step_without_a_word_to_predict(make, tmp_path):
    """Every last answer left out: only captions have words, and the other losses are still numbers."""
    samples = [talk("Q: a cat.\nA:", " here:", pictures=0) for _ in range(4)]

    class Source:
        groups: ClassVar = [4]

        def __getitem__(self, index):
            return samples[index]

    train_stage(make(out=str(tmp_path), steps=2, text_length=48, forced=1.0, joined=0.0), lambda _: Source(), GILLTask)
    assert all(np.isfinite(list(row.values())).all() for row in losses_of(tmp_path))


def test_what_it_writes_is_a_gill_model(task, whole):
    opened = open_gill(whole / "gill.safetensors")
    assert opened.config == task.config and opened.config.text_encoder == task.frozen.fingerprint
    language = GILLTask(replace(task.settings)).frozen.language
    GILL(language, opened.load())
    assert [round(row["generation"]) for row in losses_of(whole)] and len(losses_of(whole)) == 6


def test_what_learns_and_what_does_not(task, batch):
    language = task.frozen.language.network
    task.model.zero_grad()
    sum(task.model(batch).values()).backward()
    assert {name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.any()} == set()
    assert all(p.grad is None for p in language.parameters()) and not any(
        "network" in n for n in task.model.state_dict()
    )
    task.model.zero_grad()


def test_it_learns(make, tmp_path):
    command.train(make(out=str(tmp_path / "run"), steps=25, warm_up=3, learning_rate=3e-3, joined=0.0))
    rows = losses_of(tmp_path / "run")
    mean = lambda part, name: sum(row[name] for row in part) / len(part)  # noqa: E731
    for name in ("caption", "generation"):
        assert mean(rows[-5:], name) < 0.9 * mean(rows[:5], name), name


@pytest.mark.parametrize("changes, said", [
    ({"language_model": ""}, "language_model is not set. Name the folder"),
    ({"batch_size": 4, "accumulation": 4}, "retrieval needs at least two"),
    ({"joined": 1.5}, "joined = 1.5"), ({"flip": 0.5}, "leave out crop_low and flip"),
    ({"text_length": 9}, "text_length = 9"),
])  # fmt: skip
def test_settings_that_cannot_be(make, changes, said):
    with pytest.raises(SubjectError, match=re.escape(said)):
        make(**changes)


def test_folders_that_cannot_be(make, material, tmp_path):
    with pytest.raises(SubjectError, match="text encoder in .* cannot be read"):
        GILLTask(make(text_encoder=str(tmp_path)))
    with pytest.raises(SubjectError, match="is no folder of a language model"):
        GILLTask(make(language_model=str(tmp_path)))
    with pytest.raises(SubjectError, match="take up to 66 positions, more than the 64"):
        GILLTask(make(text_length=30))


def test_the_command_still_takes_other_stages(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("stage: 3\n")
    assert main(["pretrain", str(tmp_path / "a.yaml")]) == 2
    assert "should begin with `stage: 1` or `stage: 2`" in capsys.readouterr().err
    (tmp_path / "b.yaml").write_text("stage: gill\ncolour: 3\n")
    assert main(["pretrain", str(tmp_path / "b.yaml")]) == 2
    assert "has no setting 'colour'" in capsys.readouterr().err


# --- the classifier


def votes(path, rows):
    path.write_text("".join(json.dumps({"prompt": prompt, "votes": each}) + "\n" for prompt, each in rows))
    return path


def test_votes_that_agree(tmp_path):
    path = votes(tmp_path / "votes.jsonl", [
        ("a", {"gen": 4, "ret": 1}), ("b", {"gen": 1, "ret": 3, "same": 1}), ("c", {"gen": 3, "ret": 2}),
        ("d", {"same": 5}), ("e", {"gen": 0, "ret": 5}), ("f", {}), ("g", {"gen": 2, "ret": 2, "same": 1}),
    ])  # fmt: skip
    assert [(each.prompt, each.label) for each in decision.read_votes(path)] == [("a", 0), ("b", 1), ("e", 1)]


@pytest.mark.parametrize("line, said", [
    ("{", "Line 1 of"), ("[]", 'should be {"prompt"'), ('{"prompt": "a", "votes": {"draw": 3}}', "should be"),
    ('{"prompt": "", "votes": {}}', "should be"), ('{"prompt": "a", "votes": {"gen": 5}}', "has no prompt on which"),
])  # fmt: skip
def test_votes_that_cannot_be(tmp_path, line, said):
    (tmp_path / "votes.jsonl").write_text(line + "\n")
    with pytest.raises(SubjectError, match=re.escape(said)):
        decision.read_votes(tmp_path / "votes.jsonl")


def test_a_classifier_learns_what_states_hold():
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    states = torch.randn(40, 24) + 4 * labels[:, None]
    classifier = decision.train_classifier(states, labels, steps=200, rate=1e-2)
    assert decision.macro_f1(classifier(states).argmax(-1), labels) > 0.95
    assert decision.macro_f1(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])) == pytest.approx((2 / 3 + 0.8) / 2)
    assert decision.macro_f1(torch.tensor([0, 0]), torch.tensor([0, 0])) == pytest.approx(0.5)


def test_the_command_writes_the_model_with_its_classifier(tmp_path, material, whole, capsys):
    rows = [(f"a cat {i}", {"gen": 5}) if i % 2 else ("in snow" + "x" * i, {"ret": 5}) for i in range(10)]
    path, out = votes(tmp_path / "votes.jsonl", rows), tmp_path / "both.safetensors"
    words = ["gill-decision", str(whole / "gill.safetensors"), material["language_model"], str(path), str(out)]
    assert main([*words, "--train", "6", "--steps", "50"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["trained_on"] == 6 and said["judged_on"] == 4 and 0 <= said["decision_f1"] <= 1
    opened, before = open_gill(out), load_file(whole / "gill.safetensors")
    assert opened.config.decision and opened.infos["decision_model.1.weight"].shape == (2, 24)
    after = load_file(out)
    assert all(torch.equal(after[name], before[name].float()) for name in before)
    assert main([*words, "--train", "6"]) == 2 and "exists already" in capsys.readouterr().err


# --- conversations before the picture


@pytest.fixture(scope="module")
def talker(make):
    return GILLTask(make(text_length=48, pictures=2, joined=0.0, forced=0.0, vision_cells=2))


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)


def talk(*texts, pictures=1, caption="a cat", **more):
    shown = tuple(picture(number) for number in range(pictures))
    return Sample("talk", picture(9), (caption,), conversation=texts, pictures=shown, **more)


def test_a_conversation_as_tokens(talker):
    """Pictures are where they stand, three positions each; answers are to be predicted, and [IMG0] behind one."""
    ids = talker.frozen.language.tokenizer.ids
    eight = list(talker.config.image_tokens)
    asked, answered, again = ids("Q: what is it?\nA:"), ids(" a cat.\n"), ids("Q: and ")
    texts = ("<image1>Q: what is it?\nA:", " a cat.\n", "Q: and <image2>?\nA:", " it:")
    found, due = talker.conversation_ids(talk(*texts, pictures=2))
    end, last = ids("?\nA:"), ids(" it:")
    assert found == [-1, -2, -3, 2, *asked, *answered, *again, -4, -5, -6, *end, *last, *eight]
    flags = [(3, False), (1 + len(asked), False), (len(answered), True), (len(again) + 3 + len(end), False),
             (len(last) + 8, True)]  # fmt: skip
    assert due == [flag for count, flag in flags for _ in range(count)]


def test_a_forced_picture_leaves_out_the_last_answer(talker):
    texts = ("Q: draw it.\nA:", " here:")
    whole, due = talker.conversation_ids(talk(*texts, pictures=0))
    forced, none = talker.conversation_ids(talk(*texts, pictures=0), forced=True)
    bare, also_none = talker.conversation_ids(talk(texts[0], pictures=0), forced=True)
    assert forced == bare and not any(none) and not any(also_none)
    count = len(talker.frozen.language.tokenizer.ids(" here:"))
    assert whole == [*forced[:-8], *whole[-8 - count : -8], *forced[-8:]] and sum(due) == count + 8


def test_losses_of_conversations(talker):
    """Against one sample after the other, by the sentences of the description."""
    samples = [
        talk("<image1>Q: what is it?\nA:", " a cat.\n", "Q: now <image2>.\nA:", " a dog:", pictures=2, target="a dog"),
        Sample("caption", picture(3), ("a cat in snow",)),
        talk("Q: draw it.\nA:", " here:", pictures=0, caption="a dog in snow"),
    ]
    raw = talker.collate([talker.prepare(each, np.random.default_rng(i)) for i, each in enumerate(samples)])
    batch = talker.batch(raw)
    with torch.no_grad():
        ours = talker.model(batch)
        parts, first = talker.model.parts, talker.config.first_image_token
        language = talker.frozen.language.network
        table = language.get_input_embeddings().weight
        states, terms = [], []
        for number in range(3):
            ids = batch.talks[number, : batch.talk_lengths[number]].tolist()
            seen = parts.visual_embeddings(batch.shown[number]).reshape(2 * 3, -1)
            rows = [parts.rows[i - first] if i >= first else table[i] if i >= 0 else seen[-1 - i] for i in ids]
            found = language.model(inputs_embeds=torch.stack(rows)[None]).last_hidden_state[0]
            states.append(found[-8:])
            logits = torch.cat([found @ table[:first].T, found @ parts.rows.T], -1)
            missing = first - len(table[:first])
            for place, label in enumerate(ids[1:]):
                if bool(batch.due[number, place + 1]) and 0 <= label <= first:
                    label = label - missing if label >= first else label
                    terms.append(F.cross_entropy(logits[place : place + 1], torch.tensor([label])))
        words = sum(terms) / len(terms)
        mapped = parts.gen_text_hidden_fcs[0](torch.stack(states), parts.rows)
        distance = ((mapped - batch.targets) ** 2).sum(-1).sqrt().mean()
        assert ours["generation"].item() == pytest.approx(float(distance + 0.5 * words), rel=1e-4)
        assert talker.model.mapping(batch).item() == pytest.approx(float(distance), rel=1e-4)
    assert torch.allclose(batch.targets[0], talker.frozen.targets(text_ids("a dog")[None])[0], atol=1e-5)
    assert (
        torch.equal(batch.shown[0, 1], talker.frozen.vision.seen(raw["shown"][0, 1:2])[0])
        and batch.shown[2].eq(0).all()
    )


@pytest.mark.parametrize("sample, said", [
    (talk("Q: " + "word " * 60, pictures=0), "more than text_length = 48"),
    (talk("<image2>Q: a\nA:", " b"), "has <image2>, but 1 pictures"),
    (talk("<image0>Q: a\nA:", " b"), "has <image0>"), (talk("<image1>"), "has no words, only pictures"),
    (talk("<image3>Q: a\nA:", " b", pictures=3), "2 are taken"),
])  # fmt: skip
def test_conversations_that_cannot_be_used_are_left_out(talker, sample, said):
    with pytest.raises(BrokenSample, match=said):
        talker.prepare(sample, np.random.default_rng(0))


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Shards((str(path),))


def png(seed):
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


def test_shards_hold_conversations(talker, tmp_path):
    about = {"caption": "a dog", "target": "a cat", "conversation": ["<image1> <image2>Q: a\nA:", " b:"]}
    source = write_tar(tmp_path / "a.tar", {"1.png": png(1), "1.image1.png": png(2), "1.image2.png": png(3),
                                            "1.json": json.dumps(about).encode()})  # fmt: skip
    sample = source[0]
    assert sample.conversation == tuple(about["conversation"]) and sample.target == "a cat"
    assert [np.array_equal(found, picture(n)) for found, n in zip(sample.pictures, (2, 3), strict=True)] == [True, True]
    assert talker.prepare(sample, np.random.default_rng(0)).count == 2
    for wrong in ("text", [1], {"a": 1}):
        broken = json.dumps(about | {"conversation": wrong}).encode()
        with pytest.raises(BrokenSample, match="conversation should be a list of texts"):
            write_tar(tmp_path / "b.tar", {"1.png": png(1), "1.json": broken})[0]


def test_training_on_conversations_resumes_to_the_bit(make, tmp_path, monkeypatch):
    """Killed after a checkpoint and started again, in the trainer that the toy GILL is made by."""
    samples = [talk("<image1>Q: what?\nA:", " a cat.\n", "Q: draw.\nA:", " here:", target="a dog") for _ in range(6)]

    class Source:
        groups: ClassVar = [6]

        def __getitem__(self, index):
            return samples[index]

    def run(folder, steps_before_kill=None):
        settings = make(out=str(tmp_path / folder), text_length=48, pictures=1, joined=0.0, forced=0.5, stored="fp32")
        after, done = GILLTraining.after_step, []

        def count(self):
            after(self)
            done.append(1)
            if steps_before_kill and len(done) == steps_before_kill + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(GILLTraining, "after_step", count)
            return load_file(train_stage(settings, lambda _: Source(), GILLTask))

    unbroken = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", 3)
    resumed = run("killed")
    assert all(value.dtype == torch.float32 and torch.equal(value, resumed[name]) for name, value in unbroken.items())
