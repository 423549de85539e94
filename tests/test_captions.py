"""Captions: which are kept, in which order, from which file or model, and a run that is killed and goes on.

Networks are tiny and random. CLIP's cosines are compared with the library's own processor and forward pass (1e-5, the
rounding of float32), sampled captions with a loop that samples word by word from the library's network.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_judges import write_judges
from tokenizers import Tokenizer, models, pre_tokenizers

from blipdiff_impl.blip_diffusion.synthesis import lists_command
from blipdiff_impl.blip_diffusion.synthesis.captioning import run as captioning_run
from blipdiff_impl.blip_diffusion.synthesis.captioning.files import CaptionFile
from blipdiff_impl.blip_diffusion.synthesis.captioning.judge import CaptionJudge, choose, names_subject, tidy
from blipdiff_impl.blip_diffusion.synthesis.captioning.model import (
    Captioner,
    NucleusDraw,
    SamplingSettings,
    random_numbers,
)
from blipdiff_impl.blip_diffusion.synthesis.photo_list import Photo, read_photos, write_photos
from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.pictures.towers import ClipTower
from blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from tools.places import ROOT

EXACT = 1e-5
SIDE = 32
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "dog", "cat", *(f"word{i}" for i in range(40))]
PAD, START_GIT, END, START = 0, 2, 3, 5
KINDS = ("blip", "git", "blip-2")


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "bos": "[DEC]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **{f"{name}_token": word for name, word in special.items()})


def tiny_blip():
    import transformers as hf

    text = {**SMALL, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64,
            "bos_token_id": START, "sep_token_id": END, "eos_token_id": END, "pad_token_id": PAD}  # fmt: skip
    config = hf.BlipConfig(text_config=text, vision_config={**SMALL, "image_size": SIDE, "patch_size": 8},
                           projection_dim=8, image_text_hidden_size=8)  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    return hf.BlipForConditionalGeneration(config), hf.BlipProcessor(hf.BlipImageProcessor(size=size), tokenizer())


def tiny_git():
    import transformers as hf

    config = hf.GitConfig(vision_config={**SMALL, "image_size": SIDE, "patch_size": 8}, **SMALL, vocab_size=len(WORDS),
                          bos_token_id=START_GIT, eos_token_id=END, pad_token_id=PAD,
                          max_position_embeddings=128)  # fmt: skip
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return hf.GitForCausalLM(config), hf.GitProcessor(pictures, tokenizer())


def tiny_blip2():
    import transformers as hf

    size = {"height": SIDE, "width": SIDE}
    processor = hf.Blip2Processor(hf.BlipImageProcessor(size=size), tokenizer(), num_query_tokens=4)
    text = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": len(WORDS) + 1, "word_embed_proj_dim": 16, "max_position_embeddings": 64,
            "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}  # fmt: skip
    config = hf.Blip2Config(
        vision_config={**SMALL, "image_size": SIDE, "patch_size": 8}, text_config=text, num_query_tokens=4,
        qformer_config={**SMALL, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        image_token_index=len(WORDS),
    )  # fmt: skip
    return hf.Blip2ForConditionalGeneration(config), processor


def write_captioner(folder, kind="blip", seed=0):
    """A captioning model of some kind with random weights, as transformers stores it."""
    torch.manual_seed(seed)
    model, processor = {"blip": tiny_blip, "git": tiny_git, "blip-2": tiny_blip2}[kind]()
    for parameter in model.parameters():  # the initial weights hardly tell pictures apart
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((48, 40))


@pytest.fixture(scope="module")
def captioners(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    return {kind: Captioner(write_captioner(root / kind, kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return write_captioner(tmp_path_factory.mktemp("models") / "blip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    write_judges(folder)
    return folder / "clip"


# --- which captions are kept


@pytest.mark.parametrize(
    "caption,category,named",
    [
        ("a dog on the grass", "dog", True),
        ("Two DOGS.", "dog", True),
        ("a dogma", "dog", False),
        ("a hotdog", "dog", False),
        ("red buses", "bus", True),
        ("a bear in the snow", "polar bear", True),
        ("a chest of wood", "chest of drawers", True),
        ("a glass of milk", "chest of drawers", False),
        ("a bow and a knife", "bow and arrow", True),
        ("salt and bread", "bow and arrow", False),
        ("a box-cutter", "box", True),
        ("", "dog", False),
        ("a thing of the", "the", True),
        ("ein Bär im Schnee", "bär", True),
    ],
)
def test_a_caption_names_the_subject(caption, category, named):
    assert names_subject(caption, category) is named


def test_choose():
    given = ["a cat", "a dog", "dogs", "no", "the dog", "dog 4", "dog 5", "dog 6"]
    assert choose(given, "dog") == ("a dog", "dogs", "the dog", "dog 4", "dog 5")
    assert choose(given, "dog", 1) == ("a dog",)
    assert choose(given, "bird") == ("a cat",)
    assert choose([], "dog") == ()


def test_tidy():
    assert tidy([" a  dog\n", "", "A dog", "a cat", "a dog", "  "]) == ["a dog", "a cat"]


# --- in which order


def test_rank_follows_similarity_and_keeps_the_order_of_equals(clip, monkeypatch):
    judge = CaptionJudge(ClipTower(clip))
    monkeypatch.setattr(judge, "similarities", lambda picture, captions: torch.tensor([0.1, 0.5, 0.1, -0.2, 0.5]))
    assert judge.rank(picture(0), list("abcde")) == list("beacd")
    assert judge.rank(picture(0), ["a"]) == ["a"] and judge.rank(picture(0), []) == []


def test_similarity_is_the_librarys(clip):
    from transformers import CLIPImageProcessor, CLIPModel

    captions = ["a dog", "a red car on a long road beside the sea", "?", "word " * 100]
    model = CLIPModel.from_pretrained(clip, local_files_only=True, trust_remote_code=False).eval()
    process = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    rows = [[CLIP_START, *clip_ids(text)[:75], CLIP_END] for text in captions]
    ids = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (77 - len(row)) for row in rows])
    shown = picture(3).resize((SIDE, SIDE))  # the library's newer processors resize a little differently
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, **process(shown, return_tensors="pt"))
    cosines = found.text_embeds @ found.image_embeds[0]
    judge = CaptionJudge(ClipTower(clip))
    assert (judge.similarities(shown, captions) - cosines).abs().max() < EXACT
    assert judge.rank(shown, captions) == [captions[i] for i in np.argsort(-cosines.numpy())]
    assert cosines.std() > 1e-3  # there is an order to find


def test_texts_together_are_texts_alone(clip):
    tower, texts = ClipTower(clip), ["a dog", "a very long caption of a dog on the grass", "cat"]
    alone = torch.stack([tower.text(text) for text in texts])
    assert (tower.texts(texts) - alone).abs().max() < EXACT


# --- from which file

CAPTION_FILES = {
    "key.csv": "key,caption\none-dog,a dog\none-dog,two dogs\n",
    "extra.csv": '\ufeffimage,score,caption\none.jpg,1,a dog\none.jpg,2,"two dogs"\n',
    "path.csv": "image,caption\nphotos/one.jpg,a dog\nphotos/one.jpg,two dogs\n",
    "stem.csv": "caption,image\na dog,one\ntwo dogs,one\n",
    "lines.jsonl": '{"image": "one", "captions": ["a dog", "two dogs"], "by": "me"}\n\n{"key": "x", "caption": "no"}\n',
    "both.jsonl": '{"key": "one-dog", "caption": "a dog"}\n{"image": "one.jpg", "caption": "two dogs"}\n',
}


@pytest.mark.parametrize("name", CAPTION_FILES)
def test_caption_files(tmp_path, name):
    (tmp_path / name).write_text(CAPTION_FILES[name], encoding="utf-8")
    found = CaptionFile(tmp_path / name)
    assert found.of(Photo("one-dog", "photos/one.jpg", "dog")) == ["a dog", "two dogs"]
    assert found.of(Photo("other", "photos/other.jpg", "dog")) == []


@pytest.mark.parametrize(
    "name,text,said",
    [
        ("a.csv", "", "should have a header row"),
        ("a.csv", "key,text\none,a dog\n", "should have a header row"),
        ("a.csv", "caption\na dog\n", "should have a header row"),
        ("a.csv", "key,caption\n", "holds no caption"),
        ("a.csv", "key,caption\none,\n", "line 2 should have a `caption`"),
        ("a.csv", "key,caption\n,a dog\n", "line 2 should name its photo"),
        ("a.csv", "key,caption\none,a dog, on grass\n", "line 2: a caption with a comma"),
        ("a.csv", "key,image,caption\none,one,a dog\n", "line 2 should name its photo"),
        ("a.jsonl", "", "holds no caption"),
        ("a.jsonl", "key,caption\none,a dog\n", "line 1 is no JSON.*should be called .csv"),
        ("a.jsonl", '["one", "a dog"]\n', "line 1 should be an object"),
        ("a.jsonl", '{"key": 3, "caption": "a dog"}\n', "line 1 should name its photo"),
        ("a.jsonl", '{"key": "one", "caption": 3}\n', "line 1 should have a `caption`"),
        ("a.jsonl", '{"key": "one", "captions": "a dog"}\n', "line 1 should have a `caption`"),
        ("a.jsonl", '{"key": "one", "captions": ["a dog", " "]}\n', "line 1 should have a `caption`"),
    ],
)
def test_caption_files_that_are_none(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(SubjectError, match=said):
        CaptionFile(tmp_path / name)


def test_caption_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("binary.csv", "none.csv", "none.jsonl"):
        with pytest.raises(SubjectError, match="cannot be read"):
            CaptionFile(tmp_path / name)


# --- from which model


@pytest.mark.parametrize("kind", KINDS)
def test_captions_depend_on_picture_key_and_seed_alone(captioners, kind):
    captioner, settings = captioners[kind], SamplingSettings(samples=3, max_tokens=8, seed=1)
    pictures, keys = [picture(0), picture(1), picture(1)], ["a", "b", "c"]
    together = captioner.captions(pictures, keys, settings)
    torch.manual_seed(99)
    assert together == [captioner.captions([p], [key], settings)[0] for p, key in zip(pictures, keys, strict=True)]
    assert [len(captions) for captions in together] == [3, 3, 3] and len({*together[0], *together[1]}) > 3
    assert together[1] != together[2] != captioner.captions([picture(1)], ["c"], SamplingSettings(3, 0.95, 5, 8, 2))[0]
    assert all(set(caption.split()) <= set(WORDS) for captions in together for caption in captions)


def nucleus_by_hand(logits, top_p, number):
    """Walk down the sorted words until the drawn share of the nucleus is passed."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")
    size = next(n for n in range(1, len(order) + 1) if shares[order[:n]].sum() >= top_p - 1e-12)
    left = number * shares[order[:size]].sum()
    for word in order[:size]:
        left -= shares[word]
        if left < 0:
            return int(word)
    return int(order[size - 1])


@pytest.mark.parametrize("top_p,least", [(0.95, 5), (0.3, 0)])
def test_captions_are_sampled_word_by_word(captioners, top_p, least):
    from transformers import BlipForConditionalGeneration

    captioner = captioners["blip"]
    settings = SamplingSettings(samples=4, top_p=top_p, min_tokens=least, max_tokens=9, seed=4)
    model, process = captioner._model, captioner._processor
    assert isinstance(model, BlipForConditionalGeneration)
    numbers, expected = random_numbers("key", settings), []
    with torch.no_grad():
        seen = model.vision_model(process(images=picture(5), return_tensors="pt")["pixel_values"])[0]
        for row in numbers:
            ids = [START]
            while len(ids) <= settings.max_tokens and (len(ids) == 1 or ids[-1] != END):
                logits = model.text_decoder(input_ids=torch.tensor([ids]), encoder_hidden_states=seen).logits[0, -1]
                if len(ids) <= least:
                    logits[END] = -math.inf
                ids.append(nucleus_by_hand(logits.numpy(), top_p, row[len(ids) - 1]))
            expected.append(" ".join(WORDS[i] for i in ids if i > START))
    assert captioner.captions([picture(5)], ["key"], settings) == [expected]


def test_a_nucleus_is_drawn_from_by_its_shares():
    shares, rows = torch.tensor([0.05, 0.5, 0.15, 0.3]), 20_000
    draw = NucleusDraw(0.9, np.random.default_rng(0).random((rows, 1)))
    scores = draw(torch.zeros(rows, 1), shares.log().expand(rows, -1))
    assert ((scores == 0).sum(-1) == 1).all() and torch.isinf(scores).sum() == rows * 3
    counts = Counter(scores.argmax(-1).tolist())
    assert set(counts) == {1, 2, 3}
    for word, share in ((1, 0.5), (3, 0.3), (2, 0.15)):  # 0.8 is reached by two words, so a third one is in
        share /= 0.95
        assert abs(counts[word] / rows - share) < 5 * math.sqrt(share * (1 - share) / rows)


def test_one_likely_word_is_a_nucleus():
    draw = NucleusDraw(0.95, np.array([[0.999999]]))
    assert draw(torch.zeros(1, 1), torch.tensor([[0.0, 9.0, 0.0]])).argmax() == 1


@pytest.mark.parametrize(
    "values,said",
    [
        ({"samples": 0}, "samples = 0"),
        ({"top_p": 0}, "top_p = 0"),
        ({"top_p": math.nan}, "top_p = nan"),
        ({"top_p": 1.1}, "top_p = 1.1"),
        ({"min_tokens": 30}, "min_tokens = 30"),
        ({"min_tokens": -1}, "min_tokens = -1"),
        ({"max_tokens": 10_000}, "max_tokens = 10000"),
    ],
)
def test_impossible_sampling(values, said):
    with pytest.raises(SubjectError, match=said):
        SamplingSettings(**values)


def test_the_authors_sampling():
    assert SamplingSettings() == SamplingSettings(samples=48, top_p=0.95, min_tokens=5)


def test_folders_that_hold_no_captioner(tmp_path, clip):
    def refused(said):
        with pytest.raises(CheckpointError, match=said):
            Captioner(tmp_path / "blip")

    refused("has no config.json")
    folder = write_captioner(tmp_path / "blip")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "vision_model" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    refused(f"lack {name}; get them whole")
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    refused("cannot be loaded")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    refused("Weights in pickle files")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    refused("of type 'clip', but captions come from blip, blip-2, git")
    with pytest.raises(CheckpointError, match="of type 'clip'"):
        Captioner(clip)


@pytest.mark.parametrize(
    "pattern,said", [("tokenizer.json", "has no vocabulary"), ("*processor_config.json", "cannot be loaded")]
)
def test_a_folder_without_the_processors_files(tmp_path, pattern, said):
    folder = write_captioner(tmp_path / "blip")
    for path in list(folder.glob(pattern)):
        path.unlink()
    with pytest.raises(CheckpointError, match=said):
        Captioner(folder)


# --- a whole list


@pytest.fixture
def photos(tmp_path):
    """Seven photos of a list, one of them broken; category dog or cat."""
    (tmp_path / "in" / "photos").mkdir(parents=True)
    listed = []
    for number in range(7):
        path = tmp_path / "in" / "photos" / f"{number}.png"
        picture(number).save(path)
        category = "dog" if number % 2 else "cat"
        listed.append(Photo(f"{number}-{category}", f"photos/{number}.png", category, (0.1, 0.2, 0.8, 0.9)))
    path = tmp_path / "in" / "photos" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    write_photos(tmp_path / "in" / "list.jsonl", listed)
    return listed


def arguments(tmp_path, *given, out="in/captioned.jsonl"):
    return ["caption", str(tmp_path / "in" / "list.jsonl"), "--out", str(tmp_path / out), *map(str, given)]


def call(given):
    parser = argparse.ArgumentParser()
    lists_command.add_commands(parser.add_subparsers())
    options = parser.parse_args(given)
    options.run(options)


@pytest.fixture
def caption(tmp_path, photos):
    def run(*given, out="in/captioned.jsonl"):
        call(arguments(tmp_path, *given, out=out))
        return list(read_photos(tmp_path / out))

    return run


def sampled_by(blip, *more):
    return ("--captioner", blip, "--samples", 6, "--max-tokens", 8, "--batch", 2, *more)


def test_captions_of_a_file(caption, photos, tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\n1,a cat\n1,a dog\n1,dogs\n2,a thing\n2,a tree\n3,dog\n")
    found = caption("--captions", tmp_path / "captions.csv")
    assert [photo.captions for photo in found] == [(), ("a dog", "dogs"), ("a thing",), ("dog",), (), (), ()]
    assert [(photo.key, photo.image, photo.box) for photo in found] == [(p.key, p.image, p.box) for p in photos]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["captioned.jsonl", "list.jsonl", "photos"]


def test_places_follow_the_list(caption, photos, tmp_path):
    write_photos(tmp_path / "in" / "list.jsonl", [Photo("a", "photos/0.png", "cat", mask="masks/0.png")])
    (tmp_path / "captions.csv").write_text("key,caption\na,a cat\n")
    (photo,) = caption("--captions", tmp_path / "captions.csv", out="else/where/list.jsonl")
    assert (photo.image, photo.mask) == ("../../in/photos/0.png", "../../in/masks/0.png")
    assert (tmp_path / "else" / "where" / photo.image).is_file()


def test_sampled_and_ranked(caption, photos, blip, clip, tmp_path, caplog):
    with caplog.at_level("INFO"):
        found = caption(*sampled_by(blip), "--clip", clip, "--keep", 2)
    assert found[3].captions == () and "7 photos, " in caplog.text and "1 without, of which 1 cannot" in caplog.text
    settings, judge, captioner = SamplingSettings(6, 0.95, 5, 8, 0), CaptionJudge(ClipTower(clip)), Captioner(blip)
    for number, photo in enumerate(found):
        if number != 3:
            drawn = tidy(captioner.captions([picture(number)], [photo.key], settings)[0])
            assert photo.captions == choose(judge.rank(picture(number), drawn), photo.category, 2)
    assert max(len(photo.captions) for photo in found) == 2


def test_a_judge_puts_the_lists_own_captions_in_order(caption, clip, tmp_path):
    given = ("a cat", "the cat sits", "cats of all colours")
    write_photos(tmp_path / "in" / "list.jsonl", [Photo("a", "photos/0.png", "cat", captions=given)])
    (photo,) = caption("--clip", clip)
    assert list(photo.captions) == CaptionJudge(ClipTower(clip)).rank(picture(0), list(given))


def test_all_sources_add_up_in_order(caption, blip, tmp_path):
    write_photos(tmp_path / "in" / "list.jsonl", [Photo("a", "photos/0.png", "word1", captions=("word1 own",))])
    (tmp_path / "captions.csv").write_text("key,caption\na,word1 file\n")
    (photo,) = caption("--captions", tmp_path / "captions.csv", *sampled_by(blip, "--keep", 100))
    assert photo.captions[:2] == ("word1 own", "word1 file")


KILL = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from test_captions import call
from blipdiff_impl.blip_diffusion.synthesis.captioning.progress import UnfinishedCaptions
real, calls = UnfinishedCaptions.add, []
def add(self, records):
    calls.append(1)
    real(self, records[: len(records) - (len(calls) == 2)])
    if len(calls) == 2:
        with open(self.path, "ab") as file:
            file.write(b'{{"key": "4-d')
        os.kill(os.getpid(), signal.SIGKILL)
UnfinishedCaptions.add = add
call({arguments!r})
"""


def test_a_killed_run_goes_on(caption, blip, tmp_path, monkeypatch):
    """Killed in the middle of writing its second batch: the first one is kept, the file is that of an unbroken run."""
    caption(*sampled_by(blip))
    whole, out = (tmp_path / "in" / "captioned.jsonl").read_bytes(), "in/again.jsonl"
    script = KILL.format(root=str(ROOT), arguments=arguments(tmp_path, *sampled_by(blip), out=out))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / out).exists() and (tmp_path / "in" / "again.jsonl.partial").read_text().count("\n") == 4
    batches = []
    real = Captioner.captions
    monkeypatch.setattr(Captioner, "captions", lambda self, p, keys, s: batches.append(keys) or real(self, p, keys, s))
    caption(*sampled_by(blip), out=out)
    assert batches == [["2-cat"], ["4-cat", "5-dog"], ["6-cat"]]
    assert (tmp_path / out).read_bytes() == whole and not (tmp_path / "in" / "again.jsonl.partial").exists()


@pytest.fixture
def broken_off(caption, blip, monkeypatch, tmp_path):
    """A run that was interrupted after its first batch; the path of what it left."""
    real, calls = captioning_run._caption_batch, []

    def stop(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(captioning_run, "_caption_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            caption(*sampled_by(blip))
    return tmp_path / "in" / "captioned.jsonl.partial"


@pytest.mark.parametrize(
    "more,said",
    [(("--seed", 5), "another value of sampling.*'seed': 0.*'seed': 5"), (("--keep", 1), "of keep: 5, not 1"),
     (("--batch", 3), "of batch: 2, not 3")],
)  # fmt: skip
def test_a_run_goes_on_with_the_same_settings_only(caption, blip, broken_off, more, said):
    before = broken_off.read_bytes()
    with pytest.raises(SubjectError, match=said):
        caption(*sampled_by(blip, *more))
    assert broken_off.read_bytes() == before


def test_a_run_goes_on_with_the_same_list_only(caption, blip, broken_off, photos, tmp_path):
    write_photos(tmp_path / "in" / "list.jsonl", photos[:3])
    with pytest.raises(SubjectError, match="another value of list"):
        caption(*sampled_by(blip))


def test_what_is_left_may_be_damaged(caption, blip, broken_off):
    settings, first, second, *_ = broken_off.read_text().split("\n")
    broken_off.write_text("\n".join((settings, first, "{" + second, "")))
    with pytest.raises(SubjectError, match="line 3 is damaged"):
        caption(*sampled_by(blip))
    for foreign in ("[1]\n", "something else\n"):
        broken_off.write_text(foreign)
        with pytest.raises(SubjectError, match="is no unfinished list of captions"):
            caption(*sampled_by(blip))
        assert broken_off.read_text() == foreign
    broken_off.write_text('{"list": "cut o')
    assert len(caption(*sampled_by(blip))) == 7


@pytest.mark.parametrize("done", range(1, 8))
def test_every_place_to_go_on_from(caption, blip, done, tmp_path):
    """Whatever number of photos is on disk, the list comes out the same."""
    whole = caption(*sampled_by(blip))
    out = tmp_path / "in" / "captioned.jsonl"
    partial = tmp_path / "in" / "captioned.jsonl.partial"
    lines = [json.dumps({"key": photo.key, "captions": photo.captions}) for photo in whole]
    out.unlink()
    sources = captioning_run.CaptionSources(captioner=Captioner(blip), sampling=SamplingSettings(6, 0.95, 5, 8),
                                            batch=2)  # fmt: skip
    partial.write_text("\n".join([json.dumps(sources.as_record(tmp_path / "in" / "list.jsonl")), *lines[:done], ""]))
    assert caption(*sampled_by(blip)) == whole


@pytest.mark.parametrize(
    "given,said",
    [
        ([], "Give captions"),
        (["--captions", "none.csv"], "none.csv cannot be read"),
        (["--captioner", "none"], "none is no folder of a captioning model"),
        (["--clip", "none"], "none is no folder of a CLIP model"),
    ],
)
def test_what_is_missing(caption, given, said, tmp_path):
    with pytest.raises(SubjectError, match=said):
        caption(*(tmp_path / part if part.startswith("none") else part for part in given))
    assert not list((tmp_path / "in").glob("captioned*"))


@pytest.mark.parametrize("option,value", [("--keep", 0), ("--batch", 0), ("--samples", 0)])
def test_impossible_numbers(caption, blip, option, value):
    with pytest.raises(SubjectError, match=f"{option[2:]} = 0"):
        caption(*sampled_by(blip), option, value)


def test_lists_that_are_none(caption, clip, tmp_path):
    path = tmp_path / "in" / "list.jsonl"
    for content, said in (("", "holds no photo"), ('{"key": "a"}\n', "line 1: has no image")):
        path.write_text(content)
        with pytest.raises(SubjectError, match=said):
            caption("--clip", clip)
    path.unlink()
    with pytest.raises(SubjectError, match="cannot be read"):
        caption("--clip", clip)
    assert not list((tmp_path / "in").glob("captioned*"))


def test_a_list_is_not_written_over(caption, clip, tmp_path):
    (tmp_path / "in" / "captioned.jsonl").write_text("mine")
    for out in ("in/captioned.jsonl", "in/list.jsonl"):
        with pytest.raises(SubjectError, match="is there already"):
            caption("--clip", clip, out=out)
    assert (tmp_path / "in" / "captioned.jsonl").read_text() == "mine"
