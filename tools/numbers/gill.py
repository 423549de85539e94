"""What the built-in toy GILL can do: what `make numbers-gill` prints.

Everything runs through the real ComfyUI's nodes in this process. Pictures that go in show held-out subjects; what is
drawn is judged by the built-in model's judge. Dialogues are drawn from the grammar that it was trained on with other
random numbers: the wording of a turn is not new, its combination is; `held_out_wording` uses ways to put things that
were kept out. The last line is one JSON object; `*_se` are standard errors.
"""

import argparse
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.files import as_tensor
from blipdiff_impl.gill.pretraining.decision import CLASSES, macro_f1
from blipdiff_impl.toy_gill.corpus import HELD_OUT, TRAINED, Conversation, Scene, draw_caption, draw_conversation
from blipdiff_impl.toy_world.render import render_picture, render_reference
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions, subject_from_seed
from blipdiff_impl.toybox.evaluate import CANDIDATES
from blipdiff_impl.toybox.judge import Judge, palette_distance, subject_points
from tools.inprocess import load_comfy
from tools.numbers.two_subjects import Toybox
from tools.problems import run_command

REPORTED, TRIAL = 700, 600
TURNS_CASES = 24  # of the dialogues, those that are also heard in part
LOOKS = HELD_OUT_SEED + 970_000_000
GROUP = 36  # pictures that are drawn as one batch
OWN_REPLY = {"mode": "force picture", "min_words": 32}
REPLY, AS_PROMPT = r"^.*?\ba (\w+ .*?):?$", r"a [subject] \1"  # as in workflows/gill_keeps_the_look.json
FORCED = {"mode": "force picture"}


@dataclass(frozen=True, eq=False)
class Case:
    """A prompt and what should be on the picture; the words of a dialogue as one text, and the whole of it."""

    prompt: object
    scene: Scene
    text: str = ""
    talk: Conversation | None = None


class Studio:
    """The toy GILL and the built-in model that draws, through nodes."""

    def __init__(self, comfy, first):
        self.comfy, self.toybox, self.judge, self.first = comfy, Toybox(comfy), Judge.load(), first
        names = comfy.module("nodes.host.gill.model_folder")
        self.gill = self.toybox.call("GILLLoader", names.TOY, names.OWN, "fp32")[0]

    def rng(self, *numbers):
        return np.random.default_rng((self.first, *numbers))

    def asked(self, talk: Conversation, rng, count=None, last=None):
        """The prompt of a conversation up to the question of turn `count`, counted from 1, by GILL Turn or GILL Prompt;
        what was answered before is what should have been.

        Args:
            last: how many of these turns are heard; what was said before them is lost.
        """
        prompt, reply, text = None, "", ""
        pictures = [self.picture(view, rng) for view in talk.views]
        heard = talk.turns[: count or len(talk.turns)]
        for turn in heard[-last:] if last else heard:
            places = "".join(f"<image{number + 1}> " for number in range(len(turn.pictures)))
            images = {f"image{n + 1}": pictures[view] for n, view in enumerate(turn.pictures)}
            if talk.bare:
                return self.toybox.call("GILLPrompt", places + turn.question, images)[0], turn.question
            prompt = self.toybox.call("GILLTurn", places + turn.question, prompt, reply, images)[0]
            text += f"Q: {turn.question}\nA: {turn.answer}\n"
            reply = turn.answer
        return prompt, text

    @staticmethod
    def picture(view, rng):
        """A render of what a view shows, `[1, 96, 96, 3]`."""
        return as_tensor(render_picture(view.subject, view.place, rng, bank=True).picture)[None]

    def answer(self, prompt, model=None, **settings):
        """All outputs of GILL Reply."""
        settings = {"picture_bias": 1.0} | settings
        return self.toybox.call("GILLGenerate", model or self.gill, prompt, **settings)

    def draw(self, conditionings):
        """Pictures uint8 of CONDITIONINGs with one row each; long texts are of several chunks and drawn apart."""
        found = {}
        for chunks in sorted({each[0][0].shape[1] for each in conditionings}):
            alike = [number for number, each in enumerate(conditionings) if each[0][0].shape[1] == chunks]
            for start in range(0, len(alike), GROUP):
                part = alike[start : start + GROUP]
                rows = torch.cat([conditionings[number][0][0] for number in part])
                pictures = self.toybox.draw(self.toybox.model, [[rows, {}]], len(rows))
                found |= dict(zip(part, pictures, strict=True))
        return np.stack([found[number] for number in range(len(conditionings))])

    def shares(self, pictures, scenes):
        """Which pictures show the kind and the place that they should, `[N, 2]`."""
        seen = self.judge.look_at(pictures)
        kinds = [CATEGORIES.index(scene.kind) for scene in scenes]
        places = [BACKGROUND_NAMES.index(scene.place) for scene in scenes]
        return np.stack([seen.category == kinds, seen.background == places], 1)

    def judged(self, cases, **settings):
        """Of cases that GILL answers: shares `[N, 2]`, and what it said."""
        answers = [self.answer(case.prompt, **settings) for case in cases]
        pictures = self.draw([each[0] for each in answers])
        return self.shares(pictures, [case.scene for case in cases]), answers


def _cases(studio, count, kinds, wording=TRAINED, salt=1):
    """Conversations that end in a picture whose last question does not say both kind and place."""
    cases, number = [], 0
    while len(cases) < count:
        number += 1
        rng = studio.rng(salt, number)
        talk = draw_conversation(rng, wording, held_out=True, kind=kinds[number % len(kinds)]).until_drawn()
        if talk is None:
            continue
        scene, question = talk.turns[-1].drawn, talk.turns[-1].question.lower()
        if scene.look or (scene.kind in question and scene.phrase in question):
            continue
        if "text" in kinds and len(talk.turns) < 2:
            continue
        prompt, text = studio.asked(talk, rng)
        cases.append(Case(prompt, scene, _unanswered(text), talk))
    return cases


def _unanswered(text):
    """A dialogue without its last answer."""
    return text[: text.rindex("A:") + 2] if "A:" in text else text


def measure(comfy, count=72, first=REPORTED):
    """All numbers, about `count` pictures each."""
    studio = Studio(comfy, first)
    numbers = {}
    for part in (_captions, _dialogues, _pictures, _wording, _answers, _retrieval, _turns, _decisions):
        numbers |= part(studio, count)
        print(part.__name__.strip("_"), json.dumps(numbers), flush=True)
    return numbers | _looks(studio, count)


def _captions(studio, count):
    scenes = []
    for number in range(min(144, 2 * count)):
        kind, place = CATEGORIES[number % 12], BACKGROUND_NAMES[(number + number // 12) % 12]
        scenes.append(Scene(kind, place, captions(place)[number % 2]))
    cases = [Case(studio.toybox.call("GILLPrompt", scene.caption)[0], scene) for scene in scenes]
    found, _ = studio.judged(cases, **FORCED)
    plain = studio.draw([studio.toybox.words(scene.caption) for scene in scenes])  # what the UNet and the judge allow
    return _both("caption", found) | _both("caption_text_encoder", studio.shares(plain, scenes))


def _dialogues(studio, count):
    cases = _cases(studio, count, ("text", "things"))
    after, answers = studio.judged(cases, **OWN_REPLY)
    forced, _ = studio.judged(cases, **FORCED)
    plain = studio.draw([studio.toybox.words(case.text) for case in cases])
    replies = [answer[2] == f"here is {case.scene.said}:" for case, answer in zip(cases, answers, strict=True)]
    return (
        _both("dialogue", after)
        | _both("dialogue_forced", forced)
        | _both("dialogue_text_encoder", studio.shares(plain, [case.scene for case in cases]))
        | _share("dialogue_reply_exact", replies)
        | _by_turns(studio, cases[:TURNS_CASES], after, plain)
    )


def _by_turns(studio, cases, after, plain):
    """Kind and place by how many of a dialogue's turns are heard: by GILL with its own reply, and by the text encoder.

    Args:
        after, plain: of the same cases with all turns, what GILL has reached and the text encoder's pictures.
    """
    scenes, found = [case.scene for case in cases], {}
    for last in (1, 2):
        heard = []
        for number, case in enumerate(cases):
            prompt, text = studio.asked(case.talk, studio.rng(11, number), last=last)
            heard.append(Case(prompt, case.scene, _unanswered(text)))
        pictures = studio.draw([studio.toybox.words(case.text) for case in heard])
        found |= _share(f"dialogue_turns_{last}_both", studio.judged(heard, **OWN_REPLY)[0].all(1))
        found |= _share(f"dialogue_turns_{last}_text_encoder_both", studio.shares(pictures, scenes).all(1))
    found |= _share("dialogue_turns_all_both", after[: len(cases)].all(1))
    whole = studio.shares(plain[: len(cases)], scenes)
    return found | _share("dialogue_turns_all_text_encoder_both", whole.all(1))


def _pictures(studio, count):
    """Kind only from the picture; place only from it; two pictures."""
    moved, swapped = [], []
    for number in range(count):
        rng = studio.rng(2, number)
        talk = draw_conversation(rng, held_out=True, kind="picture")
        view = talk.views[0]
        kind = CATEGORIES[(number * 5 + 1) % 12]
        place = BACKGROUND_NAMES[(BACKGROUND_NAMES.index(view.place) + 1 + number % 11) % 12]
        for text, scene, cases in (
            (f"the same {captions(place)[0]}.", Scene(view.subject.category, place, captions(place)[0]), moved),
            (f"now a {kind}.", Scene(kind, view.place, captions(view.place)[0]), swapped),
        ):
            images = {"image1": studio.picture(view, rng)}
            cases.append(Case(studio.toybox.call("GILLPrompt", f"<image1> {text}", images)[0], scene))
    first, _ = studio.judged(moved, **FORCED)
    second, _ = studio.judged(swapped, **FORCED)
    both, _ = studio.judged(_cases(studio, count, ("two pictures",), salt=3), **OWN_REPLY)
    return (
        _share("picture_kind", first[:, 0])
        | _share("picture_and_words", first.all(1))
        | _share("picture_place", second[:, 1])
        | _share("two_pictures", both.all(1))
    )


def _wording(studio, count):
    cases = _cases(studio, count, ("text", "things", "picture", "two pictures"), HELD_OUT, salt=4)
    return _share("held_out_wording", studio.judged(cases, **OWN_REPLY)[0].all(1))


def _answers(studio, count):
    """Questions about a picture that are answered in words: is the reply right word by word?"""
    found = {}
    for salt, topic in enumerate(("kind", "place", "colour", "pattern", "all"), 20):
        right, number = [], 0
        while len(right) < count:
            number += 1
            rng = studio.rng(salt, number)
            talk = draw_conversation(rng, held_out=True, kind="picture")
            if talk.turns[0].topic == topic:
                reply = studio.answer(studio.asked(talk, rng, 1)[0], mode="text only")[2]
                right.append(reply == talk.turns[0].answer)
        found |= _share(f"answer_{topic}", right)
    return found


def _retrieval(studio, count):
    """The right one of 100 pictures of different kinds or places."""
    pairs = [(kind, place) for kind in CATEGORIES for place in BACKGROUND_NAMES]
    rng = studio.rng(5)
    chosen = [pairs[number] for number in rng.permutation(len(pairs))[:100]]
    pictures = []
    for number, (kind, place) in enumerate(chosen):
        subject = subject_from_seed(LOOKS + number, kind)
        pictures.append(as_tensor(render_picture(subject, place, rng, bank=True).picture))
    with torch.inference_mode():
        rows = studio.gill.gill.picture_embeddings(torch.stack(pictures))

    def first(prompt, due, **settings):
        vector = studio.answer(prompt, **settings)[5].vectors[0]
        return chosen[int((rows @ vector).argmax())] == due

    plain = [
        first(studio.toybox.call("GILLPrompt", f"a {kind} {captions(place)[n % 2]}")[0], (kind, place), **FORCED)
        for n, (kind, place) in enumerate(chosen)
    ]
    cases = [
        c for c in _cases(studio, 2 * count, ("text", "things"), salt=6) if (c.scene.kind, c.scene.place) in chosen
    ]
    talked = [first(case.prompt, (case.scene.kind, case.scene.place), **OWN_REPLY) for case in cases]
    return _share("retrieval_r1", plain) | _share("retrieval_r1_dialogue", talked)


def _turns(studio, count):
    """Does a picture come where one belongs, and nowhere else, where the model decides without a bias?"""
    due, came, only_words = [], [], []
    for number in range(count):
        rng = studio.rng(7, number)
        talk = draw_conversation(rng, held_out=True)
        for turn in range(1, len(talk.turns) + 1):
            found = studio.answer(studio.asked(talk, rng, turn)[0], mode="let it decide")
            due.append(talk.turns[turn - 1].drawn is not None)
            came.append(found[6] > 0)
            only_words.append(not talk.views)
    due, came, only_words = (np.array(each) for each in (due, came, only_words))
    return (
        _share("img_precision", due[came]) | _share("img_recall", came[due])
        | _share("img_precision_words", due[came & only_words]) | _share("img_recall_words", came[due & only_words])
    )  # fmt: skip


def _decisions(studio, count):
    """A look that was asked for cannot be drawn from words, so it should be retrieved."""
    due, found = [], []
    for number in range(2 * count):
        scene = draw_caption(studio.rng(8, number), look_share=0.5)
        prompt = studio.toybox.call("GILLTurn", f"draw {scene.said}.")[0]
        due.append(CLASSES.index("ret" if scene.look else "gen"))
        found.append(CLASSES.index(studio.answer(prompt, **OWN_REPLY)[3]))
    due, found = torch.tensor(due), torch.tensor(found)
    draws = [torch.from_numpy(studio.rng(9, n).integers(len(due), size=len(due))) for n in range(200)]
    spread = np.std([macro_f1(found[rows], due[rows]) for rows in draws])
    return {"decision_f1": _rounded(macro_f1(found, due)), "decision_f1_se": _rounded(spread)}


def _looks(studio, count):
    """Is the subject of the picture that went in found among 8 of its kind by its colours? By GILL's reply as the
    prompt of the subject path (the workflow gill_keeps_the_look), by GILL as published, and by the second mapper, where
    there is one."""
    cases, seen, due = [], [], []
    for number in range(count):
        rng = studio.rng(10, number)
        kind = CATEGORIES[number % 12]
        place, other = (BACKGROUND_NAMES[each] for each in rng.permutation(12)[:2])
        seeds = [LOOKS + 1000 + number * CANDIDATES + k for k in range(CANDIDATES)]
        rendered = render_picture(subject_from_seed(seeds[0], kind), place, rng, bank=True).picture
        seen.append(as_tensor(rendered)[None])
        phrase = captions(other)[0]
        prompt = studio.toybox.call("GILLTurn", f"<image1> the same {phrase}.", None, "", {"image1": seen[-1]})[0]
        cases.append(Case(prompt, Scene(kind, other, phrase)))
        pictures = [render_reference(subject_from_seed(seed, kind), rng, bank=True) for seed in seeds]
        due.append([subject_points(each.picture, each.mask > 127) for each in pictures])
    answers = [studio.answer(case.prompt, **OWN_REPLY) for case in cases]
    ways = {"published_look": [each[0] for each in answers]}
    ways["look"] = [
        _with_subject(studio, picture, case.scene.kind, each[2])
        for picture, case, each in zip(seen, cases, answers, strict=True)
    ]
    names = studio.comfy.module("nodes.host.gill.model_folder")
    if names.TOY_LOOK in names.built_in():
        other = studio.toybox.call("GILLLoader", names.TOY_LOOK, names.OWN, "fp32")[0]
        ways["look_mapper"] = [studio.answer(case.prompt, other, **OWN_REPLY)[0] for case in cases]
    found = {}
    for name, conditionings in ways.items():
        pictures = studio.draw(conditionings)
        masks = studio.judge.look_at(pictures).mask
        own = [subject_points(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]
        nearest = [
            int(np.argmin([palette_distance(points, each) for each in theirs]))
            for points, theirs in zip(own, due, strict=True)
        ]
        both = studio.shares(pictures, [case.scene for case in cases]).all(1)
        found |= _share(f"{name}_palette_top1", np.array(nearest) == 0) | _share(f"{name}_kind_and_place", both)
    return found


def _with_subject(studio, picture, kind, reply):
    """GILL's reply as the prompt of Subject Prompt, rewritten as in the workflow."""
    subject = studio.toybox.call("SubjectEncoder", studio.toybox.encoder, picture, kind)[0]
    prompt = re.sub(REPLY, AS_PROMPT, reply)
    return studio.toybox.call("SubjectPromptInfix", studio.toybox.clip, subject, prompt)[0]


def _both(name, found):
    """Shares of the kind, the place and both, `[N, 2]`."""
    return (
        _share(f"{name}_kind", found[:, 0])
        | _share(f"{name}_place", found[:, 1])
        | _share(f"{name}_both", found.all(1))
    )


def _share(name, found):
    found = np.asarray(found, float)
    if not len(found):
        return {name: None, f"{name}_se": None}
    return {name: _rounded(found.mean()), f"{name}_se": _rounded(found.std() / len(found) ** 0.5)}


def _rounded(value):
    return round(float(value), 4)


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=72, help="pictures or dialogues of each kind")
    parser.add_argument("--trial", action="store_true", help="those that settings were chosen on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        comfy = load_comfy(Path(base))
        first = TRIAL if options.trial else REPORTED
        print(json.dumps(measure(comfy, options.count, first)))


if __name__ == "__main__":
    run_command(main)
