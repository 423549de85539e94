"""The toy GILL: its corpus, the samples drawn from it, its language model's training, and the file that ships."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stopping import stop_after

from blipdiff_impl.errors import CheckpointError
from blipdiff_impl.gill.checkpoint import open_gill, save_gill
from blipdiff_impl.gill.companions import LanguageConfig
from blipdiff_impl.gill.decoding_settings import DecodingSettings
from blipdiff_impl.gill.file_names import TOY_FILE
from blipdiff_impl.gill.interleaving import dialogue_turn, parse_prompt
from blipdiff_impl.gill.language_model import LanguageModel, LanguageSizes
from blipdiff_impl.gill.pipeline import load_gill
from blipdiff_impl.gill.pretraining.task import GILLTask
from blipdiff_impl.gill.text_encoder import text_encoder_fingerprint
from blipdiff_impl.gill.vision import ClipVision
from blipdiff_impl.toy_gill import corpus, language, lines, looks, prefix, samples, tower, train
from blipdiff_impl.toy_gill.corpus import HELD_OUT, draw_conversation
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, captions
from blipdiff_impl.toybox.training import Clock

SMALL_LANGUAGE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 16,
                  "max_position_embeddings": 160}  # fmt: skip


def talks(count=400, **settings):
    return [draw_conversation(np.random.default_rng((5, number)), **settings) for number in range(count)]


@pytest.fixture(scope="module")
def gill():
    return load_gill(TOY_FILE)


# --- corpus


def test_answers_say_what_the_picture_shows():
    seen = set()
    for talk in talks():
        for turn in talk.turns:
            if turn.drawn:
                assert turn.answer == f"here is {turn.drawn.said}:" and turn.drawn.kind in CATEGORIES
                assert turn.drawn.phrase in captions(turn.drawn.place)
                assert turn.drawn.caption == f"a {turn.drawn.kind} {turn.drawn.phrase}"
            else:
                assert turn.answer.endswith(".") and "here is" not in turn.answer
        seen.add(talk.needs)
        assert 1 <= len(talk.turns) <= 5 and (not talk.bare or len(talk.turns) == 1)
    assert seen == {"text", "picture", "two pictures", "things"}


def test_a_change_of_place_keeps_the_thing_and_a_change_of_thing_the_place():
    """Followed by hand through every conversation about one picture."""
    moved = swapped = 0
    for talk in talks(kind="picture"):
        kind, place = talk.views[0].subject.category, talk.views[0].place
        for turn in talk.turns:
            words = turn.question.lower().rstrip(".?")
            named = [name for name in CATEGORIES if re.search(rf"\b{name}\b", words)]
            there = [n for n in BACKGROUND_NAMES if any(phrase in words for phrase in captions(n))]
            if turn.drawn is None:
                continue
            if named and there:  # a whole new request
                kind, place = turn.drawn.kind, turn.drawn.place
                continue
            kind, place = named[0] if named else kind, there[0] if there else place
            moved, swapped = moved + bool(there), swapped + bool(named)
            assert (turn.drawn.kind, turn.drawn.place) == (kind, place), talk
    assert moved > 50 and swapped > 50


def test_ways_that_are_held_out_are_never_trained_on():
    """Every list's last way; but their words are known."""
    lists = [value for name, value in vars(corpus).items() if name.startswith("_") and name[1:].isupper()
             and isinstance(value, tuple) and name != "_NODS"]  # fmt: skip
    patterns = [re.compile(re.escape(ways[-1]).replace(r"\{", "{").replace(r"\}", "}")) for ways in lists]
    fixed = [re.sub(r"\{\w+\}", "(.+)", pattern.pattern) for pattern in patterns]
    trained = {turn.question.lower().rstrip(".") for talk in talks() for turn in talk.turns}
    asked = {turn.question.lower().rstrip(".") for talk in talks(wording=HELD_OUT) for turn in talk.turns}
    ends = [way for way in fixed if any(re.fullmatch(way, question) for question in asked)]
    assert len(lists) > 10 and len(ends) == len(lists)
    own = [re.sub(r"\{\w+\}", "(.+)", re.escape(way).replace(r"\{", "{").replace(r"\}", "}"))
           for ways in lists for way in ways[:-1]]  # fmt: skip
    for question in trained:
        assert any(re.fullmatch(way, question) for way in own) or question.startswith(("draw the", "show me the"))


def test_texts_are_what_gill_turn_makes():
    """What is trained on and what the node gives the model to read are the same text."""
    count = 0
    for talk in talks(kind="text"):
        prompt, reply = None, ""
        for turn in talk.turns:
            prompt = dialogue_turn(prompt, reply, turn.question, {})
            reply = turn.answer
        read = "".join(samples.as_texts(talk)[:-1])
        assert prompt.items == (read,)
        count += len(talk.turns) > 1
    assert count > 50


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "LANGUAGE", tmp_path_factory.mktemp("tokenizer"))
        return language.make_tokenizer()


def test_every_word_is_one_token(tokenizer):
    assert [word for word in corpus.words() if len(tokenizer.ids(word)) != 1] == []
    for talk in talks(100, wording=HELD_OUT):
        for kind, value in talk.segments():
            assert kind == "picture" or tokenizer.words_in_pieces(str(value)) == []
    assert tokenizer.words_in_pieces("draw an astronaut in the snow") == ["an", "astronaut"]


@pytest.mark.parametrize(
    ("lesson", "often"), [(lines.LANGUAGE_LESSON, (0.03, 0.2)), (lines.LOOK_UP_LESSON, (0.2, 0.4))]
)
def test_half_of_the_drawn_pictures_are_read_as_words(tokenizer, lesson, often):
    """Behind a colon or at once; an answer in words is followed by the end alone."""
    drawn = shown = at_once = words = 0
    for number in range(400):
        line = lines.draw_line(tokenizer, np.random.default_rng((6, number)), lesson)
        ids, weights = line.ids, line.weights
        assert len(ids) == len(weights) and ids[-1] in (lines.END, tokenizer.newline) and weights[-1] == 1
        _, question, last = tokenizer.text(ids[:-1]).rpartition("A:")
        if not question:
            continue  # one line without question and answer
        if last.endswith("."):
            words += 1
            continue
        said, colon, tags = last.partition(":")
        drawn += 1
        if not colon or tags:
            shown += 1
            at_once += not colon
            assert weights[-2] == (1 if colon else lesson.at_once_weight)
            assert colon or weights[ids.index(tokenizer.ids(" ")[0])] == 0
            kinds = [each for each in (tags or said).split() if each in CATEGORIES]
            assert len(kinds) == 1 and (not colon or kinds[0] in said.split())
    assert words > 50 and 0.4 < shown / drawn < 0.6 and often[0] < at_once / drawn < often[1]


def test_in_the_second_lesson_a_picture_is_what_gills_prefix_makes_of_it(tokenizer):
    """Three positions, blurred; all else is as it was."""
    network = LanguageConfig(vocab_size=tokenizer.size, **SMALL_LANGUAGE).build().requires_grad_(False)
    model = LanguageModel(network, tokenizer, LanguageSizes(16, 160, 3, lines.START, lines.END))
    talk = talks(1, kind="two pictures")[0]
    plain = language._together([lines.as_line(talk, tokenizer)])
    read = language._together([lines.as_line(talk, tokenizer, as_prefix=True)])
    assert plain.ids.shape[1] == read.ids.shape[1] + 2
    clear = language._embedded(network, read)
    embedded = (clear + language._blur(read, clear, lines.LOOK_UP_LESSON.blur, 5))[0]
    last = (read.beside[0] != language.PADDING).nonzero().flatten().tolist()
    assert len(last) == 2
    errors = []
    for view, at in zip(talk.views, last, strict=True):
        due = prefix.words_of(view, model).unflatten(0, (3, -1))
        errors.append(embedded[at - 2 : at + 1] - due)
        embedded[at - 2 : at + 1] = model.embed(read.ids[0, at - 2 : at + 1].tolist())
    assert torch.equal(embedded, model.embed(read.ids[0].tolist())[0])
    assert 0.75 < float(torch.cat(errors).std()) / lines.LOOK_UP_LESSON.blur < 1.25
    assert not torch.equal(*errors)
    assert torch.equal(language._embedded(network, plain), model.embed(plain.ids[0].tolist()))


# --- samples

WITHOUT_LOOK = {f"a {kind} {phrase}" for kind in CATEGORIES for name in BACKGROUND_NAMES for phrase in captions(name)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(samples, "BANK", tmp_path_factory.mktemp("bank"))
    patch.setattr(samples, "BANK_VIEWS", 40)
    yield samples.ToyConversations
    patch.undo()


def test_samples_are_drawn_from_their_number(source):
    first, second = source(), source()
    kinds = set()
    for number in range(60):
        one, other = first[number], second[number]
        assert (one.captions, one.conversation, one.target) == (other.captions, other.conversation, other.target)
        assert np.array_equal(one.picture, other.picture) and one.picture.shape == (96, 96, 3)
        kinds.add((bool(one.conversation), len(one.pictures)))
        places = {int(n) for text in one.conversation for n in re.findall(r"<image(\d)>", text)}
        assert places == set(range(1, len(one.pictures) + 1))
        assert one.target in WITHOUT_LOOK
        if one.conversation:
            assert one.conversation[-1] == f" here is {one.captions[0]}:"
    assert {(False, 0), (True, 0), (True, 1)} <= kinds


def test_samples_with_things_name_the_picture_that_shows_it(source):
    with_thing = 0
    things = source(with_things=True)
    for number in range(40):
        sample = things[number]
        assert sample.conversation and sample.category in CATEGORIES
        if sample.composite is not None:
            with_thing += 1
            assert any(np.array_equal(sample.composite, picture) for picture in sample.pictures)
    assert 20 < with_thing < 40


# --- training


def looking(count, places, heads=range(4)):
    """Attention of a layer over so many words: heads look at given places, all else is even."""
    found = torch.full((1, 4, count, count), 1 / count)
    for at, place in places.items():
        for head in heads:
            found[0, head, at] = 0
            found[0, head, at, place] = 1
    return found


def test_the_language_model_is_told_to_look_back():
    heads = [looking(7, {at: at - back for at in range(back, 7)}, [back - 1]) for back in (1, 2, 3)]
    right = torch.cat([each[:, number : number + 1] for number, each in enumerate(heads)], 1)
    assert float(looks.looks_back(right)) == 0
    assert float(looks.looks_back(right.roll(1, 1))) > 3


@pytest.mark.parametrize(
    ("ids", "answered", "places"),
    [
        ([2, 5, 6, 7, 9, 5, 6, 7], (5, 6), {5: 2, 6: 3}),
        ([2, 3, 5, 6, 4, 5, 6, 4, 5, 6], (8,), {8: 6}),  # 5 stood twice before 6, once of them behind 4 as here
        ([2, 3, 5, 6, 4, 5, 7, 4, 5, 6], (8,), {8: 3}),  # what comes next decides first
    ],
)
def test_the_language_model_is_told_where_to_look(ids, answered, places):
    answers = torch.zeros(1, len(ids) - 1, dtype=torch.bool)
    answers[0, list(answered)] = True
    words, count = torch.tensor([ids]), len(ids)
    assert float(looks.looks_up(looking(count, places), words, answers)) == 0
    for at, place in places.items():
        wrong = looking(count, places | {at: place - 1})
        assert float(looks.looks_up(wrong, words, answers)) > 3
    nowhere = torch.zeros_like(answers)  # no answer, nothing to look up
    assert float(looks.looks_up(looking(count, {}), words, nowhere)) == 0


TWO_THINGS = "Q: there is a mug in the snow and a cat at night.\nA: nice.\nQ: "


@pytest.mark.parametrize(
    ("question", "told", "at_once"),
    [
        ("the cat please", [("cat", "cat")], ("cat", "cat")),
        ("draw the mug where the cat is", [("mug", "mug"), ("cat", "cat")], ("mug", "cat")),
        ("now a mug there", [], None),
        ("draw it", [], None),
    ],
)
def test_what_is_asked_for_is_looked_up_where_it_stood(tokenizer, question, told, at_once):
    words = looks.ThingWords.of(tokenizer)
    line = [lines.START, *tokenizer.ids(f"{TWO_THINGS}{question}.\nA:"), *tokenizer.ids(" "), *tokenizer.ids(" cat")]
    ids, end = torch.tensor([line]), len(line) - 2
    begins = {kind: line.index(tokenizer.ids(f" {kind}")[0]) for kind in ("mug", "cat")}
    asked = {kind: end - line[:end][::-1].index(tokenizer.ids(f" {kind}")[0]) - 1 for kind in ("mug", "cat")}
    pairs = words.pairs(ids)
    assert pairs[0].nonzero().tolist() == sorted([asked[one], begins[other]] for one, other in told)
    due = words.asked_for(ids, pairs)
    for each, kind in zip(due, at_once or (), strict=False):
        assert each[0].nonzero().tolist() == [[end, asked[kind]]]
    assert at_once or not any(each.any() for each in due)
    if not at_once:
        assert float(looks.finds_places(looking(len(line), {}), looking(len(line), {}), ids, words)) == 0
        return
    second = looking(len(line), {asked[kind]: begins[kind] + 3 for kind, _ in told})
    second[:, 3] = looking(len(line), {asked[kind]: begins[kind] + 2 for kind, _ in told})[:, 3]
    third = looking(len(line), {end: asked[at_once[0]]})
    third[:, 1] = looking(len(line), {end: asked[at_once[1]]})[:, 1]
    assert float(looks.finds_places(second, third, ids, words)) == 0
    assert float(looks.finds_places(second.roll(1, -1), third, ids, words)) > 3
    assert float(looks.finds_places(second, third.roll(1, -1), ids, words)) > 3


def test_of_two_mentions_the_last_one_with_a_place_counts(tokenizer):
    text = "Q: draw a cat in the snow.\nA: here is a cat in the snow:\nQ: i see a cat at night and a mug on the grass."
    line = tokenizer.ids(f"{text}\nA: nice.\nQ: the cat please")
    cats = [place for place, word in enumerate(line) if word == tokenizer.ids(" cat")[0]]
    pairs = looks.ThingWords.of(tokenizer).pairs(torch.tensor([line]))
    assert len(cats) == 4 and pairs[0].nonzero().tolist() == [[cats[3], cats[2]]]


def test_both_lessons_resume_to_the_bit(tmp_path, monkeypatch):
    """Killed behind a checkpoint, in the middle of a group of steps."""
    monkeypatch.setattr(language, "SIZES", SMALL_LANGUAGE)
    monkeypatch.setattr(Clock, "checkpoint_due", lambda self: True)

    def run(name, lesson, stop=None):
        folder = tmp_path / name
        monkeypatch.setattr(language, "LANGUAGE", folder / "opt")
        monkeypatch.setattr(language, "CHECKPOINT", folder / "language.pt")
        monkeypatch.setattr(language, "LOOK_UP_CHECKPOINT", folder / "look_up.pt")
        with monkeypatch.context() as patch:
            stop_after(patch, language, "_loss", stop)
            lesson(6, batch=4)
        return load_file(folder / "opt" / "model.safetensors")

    before = {}
    for lesson in (language.train_language, language.train_look_up):
        whole = run("whole", lesson)
        with pytest.raises(KeyboardInterrupt):
            run("killed", lesson, stop=3)
        resumed = run("killed", lesson)
        assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert not before or any(not torch.equal(whole[name], before[name]) for name in whole)
        before = whole


def test_the_tower_resumes_to_the_bit(tmp_path, monkeypatch):
    """Killed behind a checkpoint."""
    monkeypatch.setattr(Clock, "checkpoint_due", lambda self: True)
    monkeypatch.setattr(tower, "measure_tower", lambda *models: {})

    def run(name, stop=None):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(tower, "CHECKPOINT", folder / "tower.pt")
            patch.setattr(tower, "TOWER", folder / "clip_vision")
            done = stop_after(patch, tower, "_loss", stop)
            tower.train_tower(4, batch=3)
        return load_file(folder / "clip_vision" / "model.safetensors"), len(done)

    whole, steps = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop=2)
    resumed, rest = run("killed")
    assert (steps, rest) == (4, 2)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture
def places(source, tmp_path, monkeypatch):
    """Folders of a small language model, a tower and a text encoder, and settings of a small training with them."""
    places = {name: tmp_path / name for name in ("opt", "clip_vision", "text_encoder")}
    monkeypatch.setattr(language, "LANGUAGE", places["opt"])
    monkeypatch.setattr(language, "SIZES", SMALL_LANGUAGE)
    monkeypatch.setattr(samples, "TEXT_ENCODER", places["text_encoder"])
    language.build_language_model(language.make_tokenizer().size).save_pretrained(places["opt"])
    tower.copy_of_image_tower().save_pretrained(places["clip_vision"])
    samples.write_text_encoder()
    named = zip(("language_model", "vision_model", "text_encoder"), map(str, places.values()), strict=True)
    monkeypatch.setattr(train, "FOLDER", tmp_path)
    monkeypatch.setattr(train, "SETTINGS", train.SETTINGS | dict(named) | {
        "batch_size": 4, "mapper_width": 16, "mapper_layers": 1, "mapper_feed_forward": 24, "precision": "no",
        "out": str(tmp_path / "gill"),
    })  # fmt: skip
    return places


def test_gill_learns_with_the_prefix_in_closed_form(places, source, monkeypatch):
    """The prefix stays, all else that one step reaches changes."""
    monkeypatch.setattr(prefix, "BANK", samples.BANK)
    monkeypatch.setattr(train, "fit_prefix", lambda *given: prefix.fit_prefix(*given, count=40))
    monkeypatch.setattr(prefix, "BANK_VIEWS", 40)
    task = train.ToyGILLTask(train._settings({}))
    before = {name: value.clone() for name, value in task.model.parts.state_dict().items()}
    expected = GILLTask(train._settings({})).model.parts
    prefix.fit_prefix(expected, task.frozen.language, task.frozen.vision, count=40)
    after = load_file(train.train_gill(1))
    for name in ("visual_embeddings.weight", "visual_embeddings.bias"):
        assert torch.equal(before[name], expected.state_dict()[name]) and torch.equal(after[name], before[name])
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"gen_text_hidden_fcs.0.model.weight", "rows"} & changed


def test_the_second_mapper_is_all_that_its_training_changes(places, tmp_path):
    """Two steps beside random learned parts, whose file it goes with; `source` has a small bank."""
    gill_file = tmp_path / "gill" / "gill.safetensors"
    gill_file.parent.mkdir()
    save_gill(GILLTask(train._settings({})).model.parts, gill_file, torch.float32)
    path = train.train_look(2)

    before, mapper = load_file(gill_file), "gen_text_hidden_fcs."
    (stored,) = (tmp_path / "look" / "checkpoints").glob("*2/model.safetensors")
    after = {name.removeprefix("parts."): value for name, value in load_file(stored).items()}
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(mapper) for name in changed)

    seen_by = ClipVision.from_folder(places["clip_vision"], cells=train.VISION_CELLS)
    found = load_gill(gill_file, places["opt"], tower=seen_by, mapper=path).parts.state_dict()
    for name, value in load_file(path).items():
        assert torch.equal(found[f"{mapper}0.{name}"], value.float())
    assert all(torch.equal(found[name], before[name]) for name in before if not name.startswith(mapper))
    assert not torch.equal(found[f"{mapper}0.model.weight"], before[f"{mapper}0.model.weight"])


def test_the_tower_starts_as_the_built_in_models_own():
    from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
    from blipdiff_impl.blip_diffusion.image_tower import ImageTower, split_attention

    checkpoint = open_checkpoint("toybox")
    part = checkpoint.part("subject_encoder")
    own = {n.removeprefix("visual_encoder."): v.float() for n, v in part.items() if n.startswith("visual_encoder.")}
    theirs = ImageTower(checkpoint.config.image_tower).eval()
    theirs.load_state_dict(split_attention(own))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = tower.copy_of_image_tower()(pixel_values=pixels).pooler_output
        assert torch.allclose(found, theirs(pixels)[:, 0], atol=1e-5)


# --- the file that ships


def test_the_file_is_small_whole_and_for_the_built_in_text_encoder():
    opened = open_gill(TOY_FILE)
    assert TOY_FILE.stat().st_size <= 8_000_000
    assert opened.companions is not None and opened.config.decision
    assert {info.dtype for info in opened.infos.values()} == {torch.float16}
    encoder = samples.toy_text_encoder()
    assert opened.config.text_encoder == text_encoder_fingerprint(encoder.canonical_state_dict())
    with pytest.raises(CheckpointError, match="no mapper of GILL's"):
        load_gill(TOY_FILE, mapper=TOY_FILE)


def said(gill, prompt, **settings):
    return gill.reply(prompt, DecodingSettings(mode="force picture", min_words=32, **settings))


@pytest.mark.parametrize("turns", [
    (("draw a cat in the snow.", "here is a cat in the snow:"), ("now a hat.", "here is a hat in the snow:")),
    (("i have a boat.", None), ("put it at night.", "here is a boat at night:")),
    (("we are in the forest.", None), ("draw a robot there.", "here is a robot in the forest:")),
])  # fmt: skip
def test_it_follows_a_conversation(gill, turns):
    prompt, reply = None, ""
    for question, due in turns:
        prompt = dialogue_turn(prompt, reply, question, {})
        answer = said(gill, prompt)
        assert due is None or answer.text == due
        reply = answer.text


def test_what_it_hands_over_is_nearest_to_the_text_encoders_word_for_it(gill):
    encoder = samples.toy_text_encoder()
    names = [f"a {kind} {captions(place)[0]}" for kind in CATEGORIES[:4] for place in BACKGROUND_NAMES[:4]]
    with torch.no_grad():
        due = torch.stack([encoder.encode_plain(name)[0] for name in names])
    for number, name in enumerate(names):
        found = said(gill, parse_prompt(name, {})).conditioning[0]
        assert int((due - found).norm(dim=-1).mean(-1).argmin()) == number


def test_it_adds_no_words_to_a_caption(gill):
    """The language model has read a picture's words behind some; where it has read too many it says them."""
    for name in sorted(WITHOUT_LOOK):
        assert gill.reply(parse_prompt(name, {}), DecodingSettings(mode="text only")).text == ""


def test_it_sees_pictures(gill):
    """Kind and place of held-out subjects, by words."""
    hits = []
    for number in range(24):
        rng = np.random.default_rng((31, number))
        view = corpus.draw_view(rng, held_out=True)
        from blipdiff_impl.files import as_tensor
        from blipdiff_impl.toy_world.render import render_picture

        picture = as_tensor(render_picture(view.subject, view.place, rng, bank=True).picture)[None]
        answer = said(gill, dialogue_turn(None, "", "<image1> put it at night.", {1: picture}))
        hits.append(answer.text == f"here is a {view.subject.category} at night:")
    assert sum(hits) >= 20


def test_metadata_holds_numbers_and_words_alone():
    from safetensors import safe_open

    with safe_open(TOY_FILE, framework="pt") as file:
        about = file.metadata()
    assert set(about) == {"format", "format_version", "config", "companions", "tokenizer"}
    assert len(json.loads(about["tokenizer"])["vocab"]) < 1000 and "/" not in about["config"] + about["companions"]
