"""Files of GILL: the published folder, this pack's own, language models, and everything that is neither."""

import json
import re

import pytest
import torch
from gill_fixtures import (
    ARGS,
    SMALL,
    opt_folder,
    random_parts,
    released_shapes,
    tiny_clip,
    tiny_opt,
    with_mapper,
    write_tokenizer,
)
from ms_fixtures import sparse_pickle, sparse_safetensors
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
from blipdiff_impl.blip_diffusion.checkpoints.opening import TOYBOX_FILE
from blipdiff_impl.errors import CheckpointError
from blipdiff_impl.gill.checkpoint import convert_gill, is_gill, open_gill, save_gill
from blipdiff_impl.gill.config import RELEASED, GILLConfig
from blipdiff_impl.gill.language_model import LanguageModel, read_sizes
from blipdiff_impl.gill.pipeline import load_gill
from blipdiff_impl.gill.tokenizer import TextTokenizer
from blipdiff_impl.gill.vision import ClipVision
from blipdiff_impl.ms_diffusion.checkpoint import open_adapter
from tests.fuzzed import cut, flipped, refusals

NUMBERS = 50_096_385
DECISION = {"1.weight": (2, 4096), "1.bias": (2,)}


def refused(*said):
    return pytest.raises(CheckpointError, match="(?s)" + ".*".join(map(re.escape, said)))


def published(folder, prefix="module.model.", decision=True, args=ARGS, change=None):
    """The published folder in its full size, all zeros, which are not on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = released_shapes(prefix)
    if change:
        change(shapes)
    sparse_pickle(folder / "pretrained_ckpt.pth.tar", {"state_dict": shapes}, torch.bfloat16)
    if decision:
        sparse_pickle(folder / "decision_model.pth.tar", {"state_dict": DECISION})
    if args is not None:
        (folder / "model_args.json").write_text(json.dumps(args))
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return published(tmp_path_factory.mktemp("gill_opt"))


@pytest.fixture
def small(tmp_path):
    parts = random_parts()
    save_gill(parts, tmp_path / "small.safetensors", torch.float32)
    return parts, tmp_path / "small.safetensors"


def test_the_published_files(release, tmp_path):
    opened = open_gill(release / "pretrained_ckpt.pth.tar")
    infos = {name: info.shape for name, info in opened.infos.items()}
    decision = {f"decision_model.{name}": shape for name, shape in DECISION.items()}
    assert infos == released_shapes("") | decision
    assert sum(torch.Size(shape).numel() for name, shape in infos.items() if name not in decision) == NUMBERS
    assert opened.config.decision and opened.config.image_tokens == tuple(range(50266, 50274))
    assert open_gill(release).config == opened.config
    alone = open_gill(published(tmp_path / "alone", "model.", decision=False))
    assert alone.config == RELEASED and {name: i.shape for name, i in alone.infos.items()} == released_shapes("")


def test_the_published_file_as_a_module(release):
    """Nothing is missing and nothing left over."""
    parts = open_gill(release).load()
    numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.named_children()}
    assert numbers == {"input_embeddings": 32_768, "visual_embeddings": 16_793_600, "visual_fc": 262_400,
                       "ret_text_hidden_fcs": 1_048_832, "gen_text_hidden_fcs": 31_958_784,
                       "decision_model": 8194}  # fmt: skip
    assert parts.rows.dtype == torch.float32 and not any(p.requires_grad or p.is_meta for p in parts.parameters())


def test_converting_the_published_files(release, tmp_path, capsys):
    path = tmp_path / "gill.safetensors"
    assert main(["convert", str(release), str(path)]) == 0
    shown = capsys.readouterr().out
    for said in ("GILL model", "31,958,784 numbers", "for a language model 4096 wide", "draw or retrieve", "bfloat16"):
        assert said in shown
    assert path.stat().st_size == pytest.approx(2 * (NUMBERS + 8194), rel=1e-3)
    assert open_gill(path).config == open_gill(release).config
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "gill"
    assert main(["inspect", str(path)]) == 0 and "mapper" in capsys.readouterr().out
    assert main(["inspect", str(release)]) == 0 and "mapper" in capsys.readouterr().out
    path.unlink()


def test_what_is_written_is_read(small, tmp_path):
    parts, path = small
    opened = open_gill(path)
    assert opened.config == SMALL and is_gill(path)
    again = opened.load().state_dict()
    assert again.keys() == parts.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in parts.state_dict().items())
    assert main(["convert", str(path), str(tmp_path / "half.safetensors"), "--dtype", "float16"]) == 0
    stored = load_file(tmp_path / "half.safetensors")
    assert all(torch.equal(stored[name], value.half()) for name, value in parts.state_dict().items())


def test_the_published_layout_of_other_sizes(tmp_path, small):
    """Sizes are read off the tensors, so that a training for another OPT is read as well; values arrive."""
    parts, _ = small
    weights = parts.state_dict()
    kept = {f"module.model.{name}": value for name, value in weights.items() if not name.startswith("decision")}
    torch.save({"state_dict": kept}, tmp_path / "pretrained_ckpt.pth.tar")
    torch.save({"state_dict": {name[15:]: value for name, value in weights.items() if name.startswith("decision")}},
               tmp_path / "decision_model.pth.tar")  # fmt: skip
    ids = list(range(300, 308))
    args = {**ARGS, "n_visual_tokens": 3, "ret_emb_dim": 10, "gen_emb_dim": 32, "gen_token_idx": ids,
            "retrieval_token_idx": ids}  # fmt: skip
    (tmp_path / "model_args.json").write_text(json.dumps(args))
    opened = open_gill(tmp_path)
    assert opened.config == SMALL
    again = opened.load().state_dict()
    assert all(torch.equal(again[name], value) for name, value in weights.items())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_language_model_in_several_files(tmp_path, kind):
    """As OPT-6.7B is published: numbered .bin files with an index; or the same as .safetensors."""
    whole = LanguageModel.from_folder(opt_folder(tmp_path / "whole"))
    folder = tmp_path / "shards"
    folder.mkdir()
    write_tokenizer(folder)
    tiny_opt().save_pretrained(folder, max_shard_size="16KB")
    shards = sorted(folder.glob("model-0000*.safetensors"))
    if kind == "bin":
        as_bin_shards(folder, shards)
    assert len(shards) > 2 and not (folder / "model.safetensors").exists()
    found = LanguageModel.from_folder(folder).state_dict()
    assert found.keys() == whole.state_dict().keys()
    assert all(torch.equal(value, found[name]) for name, value in whole.state_dict().items())
    broken = next(iter(sorted(folder.glob(f"*-00002-of-*.{kind}"))))
    broken.unlink()
    with pytest.raises(CheckpointError, match="cannot be read: a file is missing"):
        LanguageModel.from_folder(folder)
    if kind == "bin":
        torch.save({"a": Refused()}, broken)
        with pytest.raises(CheckpointError, match=re.escape(broken.name)):
            LanguageModel.from_folder(folder)


class Refused:
    """More than tensors, which a pickle would make by running code."""

    def __reduce__(self):
        return (print, ("this ran",))


def as_bin_shards(folder, shards):
    """The same weights as files of PyTorch, and the index that belongs to them."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    renamed = {path.name: path.name.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
               for path in shards}  # fmt: skip
    index["weight_map"] = {name: renamed[file] for name, file in index["weight_map"].items()}
    for path in shards:
        torch.save(load_file(path), folder / renamed[path.name])
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_options_for_other_checkpoints_are_refused(tmp_path, small, capsys):
    for words in (["convert", str(small[1]), str(tmp_path / "b.safetensors"), "--sizes", "toybox"],
                  ["inspect", str(small[1]), "--stock", "x"]):  # fmt: skip
        assert main(words) == 2
        assert f"is a GILL model, whose files say all that is needed: leave out {words[-2]}" in capsys.readouterr().err


def test_commands_still_take_other_checkpoints(capsys):
    assert main(["inspect", "toybox"]) == 0
    assert "subject encoder" in capsys.readouterr().out.replace("_", " ")


@pytest.mark.parametrize("change, said", [
    (lambda shapes: shapes.pop("model.gen_text_hidden_fcs.0.fc.bias"),
     ["1 tensor is missing: gen_text_hidden_fcs.0.fc.bias (512)", "download it again"]),
    (lambda shapes: shapes.update({"model.lm.model.decoder.embed_tokens.weight": (4, 4)}),
     ["1 tensor is unexpected: lm.model.decoder.embed_tokens.weight"]),
    (lambda shapes: shapes.update({"model.input_embeddings.weight": (50274, 4096)}),
     ["input_embeddings.weight (found 50274x4096, expected 8x4096)"]),
    (lambda shapes: shapes.update({"model.visual_embeddings.bias": (9,)}), ["found 9, expected 16384"]),
    (lambda shapes: shapes.update({"model.visual_fc.weight": (1 << 20, 1024)}), ["retrieval_width is 1048576"]),
])  # fmt: skip
def test_files_that_are_not_whole(tmp_path, change, said):
    with refused(*said):
        open_gill(published(tmp_path, "model.", change=change))


@pytest.mark.parametrize("changes, said", [
    ({"n_visual_tokens": 3}, "says n_visual_tokens = 3, but the weights beside it have 4"),
    ({"gen_emb_dim": 1024}, "says gen_emb_dim = 1024, but the weights beside it have 768"),
    ({"text_fc_mode": "linear"}, "says text_fc_mode = 'linear'"),
    ({"gen_token_idx": [1, 2]}, "gen_token_idx = [1, 2]; 8 ids that follow each other"),
    ({"gen_token_idx": list(range(9, 17))}, "the same as retrieval_token_idx"),
    ({"gen_token_idx": "x" * 9999}, "gen_token_idx = 'xxx"),
    ({"share_ret_gen": 1}, "says share_ret_gen = 1"),
])  # fmt: skip
def test_records_that_do_not_fit(tmp_path, changes, said):
    with refused("model_args.json", said) as error:
        open_gill(published(tmp_path, "model.", args={**ARGS, **changes}))
    assert len(str(error.value)) < 700


def test_files_that_are_missing(tmp_path):
    with refused("There is no GILL model x.safetensors. Looked for pretrained_ckpt.pth.tar, model_args.json, "
                 "decision_model.pth.tar in", "Found there: nothing"):  # fmt: skip
        open_gill(tmp_path / "x.safetensors")
    with refused("needs its model_args.json beside it. Looked for model_args.json in", "Found there: decision_model"):
        open_gill(published(tmp_path, args=None))
    assert not is_gill(tmp_path / "x.pt") and not is_gill(tmp_path / "..")


@pytest.mark.parametrize("make, said", [
    (lambda folder: TOYBOX_FILE, "it looks like a BLIP-Diffusion checkpoint"),
    (lambda folder: sparse_pickle(folder / "decision_model.pth.tar", {"state_dict": DECISION}),
     "its tensors are 1.weight, 1.bias"),
    (lambda folder: sparse_pickle(folder / "a.bin", {"image_proj": {"grounding_latents": (1,)}}), "an MS-Diffusion"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"vision_model.post_layernorm.bias": (4,)}),
     "a CLIP vision model"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"model.decoder.embed_tokens.weight": (4, 4)}),
     "a language model (OPT)"),
])  # fmt: skip
def test_other_kinds_are_called_what_they_are(tmp_path, make, said):
    path = make(tmp_path)
    assert not is_gill(path)
    with refused(path.name, "is no GILL model:", said):
        open_gill(path)


def test_other_readers_know_a_gill_model(release):
    for read in (open_checkpoint, open_adapter):
        with refused("pretrained_ckpt.pth.tar is no", "ooks like a GILL model"):
            read(release / "pretrained_ckpt.pth.tar")


def test_a_classifier_that_is_none(tmp_path):
    folder = published(tmp_path, "model.")
    sparse_pickle(folder / "decision_model.pth.tar", {"state_dict": {"1.weight": (2, 4096)}})
    with refused("is no decision classifier of GILL: its tensors are 1.weight"):
        open_gill(folder)
    sparse_pickle(folder / "decision_model.pth.tar", {"state_dict": {"1.weight": (3, 4096), "1.bias": (3,)}})
    with refused("decision_model.1.weight (found 3x4096, expected 2x4096)"):
        open_gill(folder)


def test_files_with_code_in_them(tmp_path):
    folder = published(tmp_path, "model.")
    torch.save(
        {"state_dict": {"model.visual_fc.bias": torch.zeros(1), "x": re.compile("a")}},
        folder / "pretrained_ckpt.pth.tar",
    )
    with refused("holds a Python object besides tensors", "not loaded") as error:
        open_gill(folder)
    assert "weights_only" not in str(error.value)


def test_damaged_files(tmp_path, small):
    path = tmp_path / "a.safetensors"
    content = small[1].read_bytes()
    header = int.from_bytes(content[:8], "little") + 8

    def read(path):
        return open_gill(path).load() if is_gill(path) else open_gill(path)

    assert refusals(read, path, [content, *flipped(content, 150, 1, header), *cut(content, 20, 2)]) > 120
    torch.save({"state_dict": {"model.visual_fc.bias": torch.ones(2)}}, tmp_path / "whole.pth.tar")
    damaged = flipped((tmp_path / "whole.pth.tar").read_bytes(), 100, 3)
    assert refusals(read, tmp_path / "b.pth.tar", damaged) == 100  # never of the released sizes


def test_weights_that_are_not_finite(tmp_path, small):
    parts, path = small
    parts.visual_fc.bias[0] = 1e30
    save_gill(parts, path, torch.float32, overwrite=True)
    with refused("weight visual_fc.bias", "as torch.float16; choose a wider type"):
        convert_gill(path, tmp_path / "b.safetensors", torch.float16)
    tensors = load_file(path)
    tensors["visual_fc.bias"][0] = torch.nan
    with safe_open(path, "pt") as file:
        save_file(tensors, path, file.metadata())
    with refused("visual_fc.bias in", "holds NaN"):
        open_gill(path).load()


@pytest.mark.parametrize("changes, said", [
    ({"format_version": "2"}, "format version 2, but this version of the pack reads 1"),
    ({"config": "{"}, "not valid JSON"), ({"config": "[" * 5000}, "not valid JSON"),
    ({"config": '{"colour":3}'}, "has fields this version does not know: ['colour']"),
    ({"config": '{"mapper":{"width":10}}'}, "mapper.width is 10, which its 4 heads do not divide"),
    ({"config": '{"language_width":100000000}'}, "language_width is 100000000; from 1 to 65536"),
    ({"config": with_mapper(queries=5).to_json()}, "query_embs (found 1x77x16, expected 1x5x16)"),
])  # fmt: skip
def test_sizes_that_do_not_fit(tmp_path, small, changes, said):
    with safe_open(small[1], "pt") as file:
        save_file(load_file(small[1]), tmp_path / "changed.safetensors", {**file.metadata(), **changes})
    with refused(said):
        open_gill(tmp_path / "changed.safetensors")


def test_sizes_as_json():
    for config in (RELEASED, SMALL, with_mapper(heads=2)):
        assert GILLConfig.from_json(config.to_json()) == config


# --- folders of language models


@pytest.fixture(scope="module")
def opt(tmp_path_factory):
    return opt_folder(tmp_path_factory.mktemp("opt"))


def copy_of(opt, folder, *without, **config):
    folder.mkdir(exist_ok=True)
    for path in opt.iterdir():
        if path.name not in without:
            (folder / path.name).write_bytes(path.read_bytes())
    if config:
        record = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**record, **config}))
    return folder


def test_files_belong_together(opt, small):
    gill = load_gill(small[1], opt, tower=ClipVision(tiny_clip()))
    assert torch.equal(gill.language.embed([305])[0, 0], small[0].rows[5]) and gill.tower.width == 20


def test_a_language_model_of_another_width(tmp_path, small):
    """Seen before a weight is read: this folder has none."""
    write_tokenizer(tmp_path)
    record = {"model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12,
              "num_attention_heads": 12, "max_position_embeddings": 2048, "vocab_size": 50272}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(record))
    with refused(str(tmp_path), "is 768 wide, but this GILL model was trained for one of 24"):
        load_gill(small[1], tmp_path)
    with refused("The language model has no weights. Looked for model.safetensors", "Found there: config.json"):
        LanguageModel.from_folder(tmp_path)


def test_weights_of_pytorch(opt, tmp_path):
    """As published: a .bin, whose names may lack the outermost module's."""
    folder = copy_of(opt, tmp_path, "model.safetensors")
    weights = load_file(opt / "model.safetensors")
    torch.save({name.removeprefix("model."): value for name, value in weights.items()}, folder / "pytorch_model.bin")
    a, b = (LanguageModel.from_folder(each).network.state_dict() for each in (opt, folder))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("change, said", [
    ({"model_type": "gpt2"}, "holds a model of the type 'gpt2', but GILL needs an OPT"),
    ({"hidden_size": 10**9}, "says hidden_size = 1000000000; a whole number from 1 to 65536"),
    ({"num_hidden_layers": "2"}, "says num_hidden_layers = '2'"),
    ({"num_hidden_layers": 3}, "lack model.decoder.layers.2"),
    ({"bos_token_id": -1}, "says that a text begins with -1"),
    ({"hidden_size": 32}, "cannot be read: a file is missing, or config.json belongs to other weights"),
    ({"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}, "of the type 'evil'"),
])  # fmt: skip
def test_configurations_that_do_not_fit(opt, tmp_path, change, said):
    with refused(said):
        LanguageModel.from_folder(copy_of(opt, tmp_path, **change))


def test_folders_that_are_not_whole(opt, tmp_path):
    with refused("is no folder of a language model. Looked for config.json in", "but there is no such folder"):
        read_sizes(tmp_path / "none")
    with refused("has no tokenizer. Looked for vocab.json, merges.txt, tokenizer.json in"):
        LanguageModel.from_folder(copy_of(opt, tmp_path / "a", "merges.txt"))
    damaged = copy_of(opt, tmp_path / "b")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-100])
    with refused("model.safetensors is damaged"):
        LanguageModel.from_folder(damaged)
    code = copy_of(opt, tmp_path / "c", "model.safetensors")
    torch.save({"x": re.compile("a")}, code / "pytorch_model.bin")
    with refused("holds a Python object besides tensors"):
        LanguageModel.from_folder(code)


@pytest.mark.parametrize("name, content", [
    ("vocab.json", "{"), ("vocab.json", "[]"), ("vocab.json", '{"a": "b"}'), ("vocab.json", '{"a": 7}'),
    ("vocab.json", "{}"), ("merges.txt", "a b c\n"), ("merges.txt", "nothing known\n"), ("merges.txt", "\udcff"),
])  # fmt: skip
def test_tokenizers_that_cannot_be_read(opt, tmp_path, name, content):
    folder = copy_of(opt, tmp_path)
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with refused(str(folder)):
        TextTokenizer.from_folder(folder)


def test_a_tokenizer_in_one_file(opt, tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    bpe = Tokenizer(models.BPE.from_file(str(opt / "vocab.json"), str(opt / "merges.txt")))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.save(str(tmp_path / "tokenizer.json"))
    text = "Q: a cat in snow\nA:"
    assert TextTokenizer.from_folder(tmp_path).ids(text) == TextTokenizer.from_folder(opt).ids(text)


def test_tokens_are_those_of_transformers(opt):
    """Against the library's own tokenizer of OPT on the same files, but for its start token."""
    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer(str(opt / "vocab.json"), str(opt / "merges.txt"), unk_token="<unk>")
    ours = TextTokenizer.from_folder(opt)
    for text in ("Q: a cat, in  snow!\n\nA: the same?", "caf\u00e9 \u732b 12 don't", " a", ""):
        assert ours.ids(text) == theirs(text, add_special_tokens=False)["input_ids"]
