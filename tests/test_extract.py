"""`extract`: what a model learned as a file that the host's Load LoRA puts on another checkpoint."""

import dataclasses
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import CONFIG, PIECES, write_tiny_checkpoint

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.stable_diffusion.config import UNetConfig
from blipdiff_impl.stable_diffusion.ldm_names import canonical_unet_names
from blipdiff_impl.stable_diffusion.unet_shapes import unet_shapes

PARTS = ("unet", "text_encoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A stock model (UNet and text encoder alone), one whose weights were trained on from it, and a whole one around
    the stock weights."""
    root = tmp_path_factory.mktemp("extract")
    parts = write_tiny_checkpoint(root / "whole.safetensors", seed=81)
    generator = torch.Generator().manual_seed(1)
    trained = dict(parts)
    for part in PARTS:
        trained[part] = {
            name: weight * (1 + 0.02 * torch.randn(weight.shape, generator=generator))
            for name, weight in parts[part].items()
        }
    write_single_file(root / "stock.safetensors", {part: parts[part] for part in PARTS}, CONFIG, PIECES)
    write_single_file(root / "trained.safetensors", trained, CONFIG, PIECES)
    return [root / f"{name}.safetensors" for name in ("stock", "trained", "whole")]


@pytest.fixture(scope="module")
def far(models, tmp_path_factory):
    """A whole model whose weights are many times the stock ones, of either sign: rounded differences miss it."""
    path = tmp_path_factory.mktemp("far") / "far.safetensors"
    parts = write_tiny_checkpoint(path, seed=81)
    generator = torch.Generator().manual_seed(2)
    for part in PARTS:
        for name, weight in parts[part].items():
            parts[part][name] = weight * 8 * torch.randn(weight.shape, generator=generator)
    path.unlink()
    write_single_file(path, parts, CONFIG, PIECES)
    return path


@pytest.fixture(scope="module")
def load(comfy):
    def run(path):
        source = comfy.module("nodes.host.blip_diffusion.sources").Source(str(path))
        with torch.inference_mode():
            return comfy.module("nodes.host.blip_diffusion.loader").load_model(source, "fp32")

    return run


def effective(patcher, prefix):
    """The weights as sampled, by the host's own arithmetic."""
    from comfy.lora import calculate_weight

    weights = {}
    for key, (stored, *patches) in patcher.get_key_patches(prefix).items():
        weight = stored[1](stored[0].float(), inplace=False) if callable(stored[1]) else stored[0].float()
        weights[key] = calculate_weight(patches, weight.clone(), key) if patches else weight
    return weights


def applied(comfy, loaded, path):
    return comfy.sd.load_lora_for_models(loaded.model, loaded.clip, load_file(path), 1.0, 1.0)


def test_the_whole_difference_makes_the_base_the_model(comfy, load, models, tmp_path, capsys):
    """Bit for bit, norms, biases and embeddings of words included."""
    stock, trained, whole = models
    out = tmp_path / "full.safetensors"
    assert main(["extract", str(trained), str(out), "--base", str(stock), "--full"]) == 0
    assert "off by a rounding: 0" in capsys.readouterr().out
    base, expected = load(whole), load(trained)
    model, clip = applied(comfy, base, out)
    for found, wanted, prefix in (
        (model, expected.model, "diffusion_model."),
        (clip.patcher, expected.clip.patcher, "clip_l.transformer.text_model."),
    ):
        ours, theirs = effective(found, prefix), effective(wanted, prefix)
        assert ours.keys() == theirs.keys() and len(ours) > 30
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_where_one_difference_cannot_lead_to_the_model_its_misses_are_counted(
    comfy, load, models, far, tmp_path, capsys
):
    stock, _, whole = models
    out = tmp_path / "full.safetensors"
    assert main(["extract", str(far), str(out), "--base", str(stock), "--full"]) == 0
    printed = int(re.search(r"off by a rounding: (\d+)", capsys.readouterr().out)[1])
    base, expected = load(whole), load(far)
    model, clip = applied(comfy, base, out)
    missed = 0
    for found, wanted, start, prefix in (
        (model, expected.model, base.model, "diffusion_model."),
        (clip.patcher, expected.clip.patcher, base.clip.patcher, "clip_l.transformer.text_model."),
    ):
        ours, theirs, before = (effective(each, prefix) for each in (found, wanted, start))
        for key, weight in theirs.items():
            missed += int((ours[key] != weight).sum())
            size = torch.maximum(weight.abs(), before[key].abs())
            assert ((ours[key] - weight).abs() <= torch.finfo(torch.float32).eps * size).all()
    assert printed == missed > 0


def test_the_loras_error_is_as_printed(comfy, load, models, tmp_path, capsys):
    stock, trained, whole = models
    kept = []
    for rank in (2, 8):
        out = tmp_path / f"rank{rank}.safetensors"
        assert main(["extract", str(trained), str(out), "--base", str(stock), "--rank", str(rank)]) == 0
        printed = {part: float(share) / 100 for part, share in
                   re.findall(r"(unet|text encoder): ([\d.]+)%", capsys.readouterr().out)}  # fmt: skip
        base, expected = load(whole), load(trained)
        model, clip = applied(comfy, base, out)
        for name, prefix, found, start, wanted in (
            ("unet", "diffusion_model.", model, base.model, expected.model),
            ("text encoder", "clip_l.transformer.text_model.", clip.patcher, base.clip.patcher, expected.clip.patcher),
        ):
            before, ours, theirs = (effective(each, prefix) for each in (start, found, wanted))
            energy = sum(float((theirs[key] - before[key]).double().square().sum()) for key in ours)
            missed = sum(float((theirs[key] - ours[key]).double().square().sum()) for key in ours)
            assert abs(1 - missed / energy - printed[name]) < 2e-3
        kept.append(printed["unet"])
    assert 0.05 < kept[0] < kept[1] < 1
    assert set(load_file(out)) and all(key.startswith(("lora_unet_", "lora_te_")) for key in load_file(out))


def test_the_smallest_rank_that_keeps_the_energy_is_found(models, tmp_path, capsys):
    stock, trained, _ = models
    out = tmp_path / "out.safetensors"

    def kept(*size):
        assert main(["extract", str(trained), str(out), "--base", str(stock), "--overwrite", *size]) == 0
        said = capsys.readouterr().out
        ranks = [int(rank) for rank in re.findall(r"^rank: (\d+)", said, re.M)]
        return min(float(share) for share in re.findall(r"([\d.]+)% of that of its matrices", said)) / 100, *ranks

    share, rank = kept("--energy", "0.6")
    assert share >= 0.6 and kept("--rank", str(rank - 1))[0] < 0.6 and kept("--rank", str(rank)) == (share,)
    assert kept("--energy", "0")[1] == 1 and kept("--energy", "1")[0] == 1


def test_an_energy_beyond_the_highest_rank_is_refused(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("blipdiff_impl.blip_diffusion.checkpoints.extract.MOST_RANK", 2)
    out = tmp_path / "out.safetensors"
    assert main(["extract", str(models[1]), str(out), "--base", str(models[0]), "--energy", "0.9"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"energy = 0.9 cannot be reached: rank 2, the highest, keeps 0\.\d{4} of the change of the", said)
    assert not out.exists()


@pytest.fixture(scope="module")
def loaded(load, models):
    """The model with the stock weights, and the trained one."""
    return load(models[2]), load(models[1])


def transplanted(comfy, host, learned, base, **changes):
    with torch.inference_mode():
        inputs = {"model": host.model, "clip": host.clip, "subject_model": learned.model, "subject_clip": learned.clip,
                  "base_model": base.model, "base_clip": base.clip, "strength": 1.0}  # fmt: skip
        return comfy.node("SubjectTransplant").execute(**inputs | changes).result


@pytest.mark.parametrize("learned", ["near", "far"])
def test_a_transplant_makes_the_base_the_model(comfy, loaded, load, far, learned):
    """Bit for bit, and nothing of what went in has changed."""
    base, trained = loaded
    trained = load(far) if learned == "far" else trained
    before = effective(base.model, "diffusion_model.")
    model, clip = transplanted(comfy, base, trained, base)
    for found, wanted, prefix in (
        (model, trained.model, "diffusion_model."),
        (clip.patcher, trained.clip.patcher, "clip_l.transformer.text_model."),
    ):
        ours, theirs = effective(found, prefix), effective(wanted, prefix)
        assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []
    assert all(torch.equal(weight, before[key]) for key, weight in effective(base.model, "diffusion_model.").items())
    assert model.model is base.model.model and not base.model.patches and not base.clip.patcher.patches


def test_a_transplant_stacks_and_has_a_strength(comfy, loaded, models, tmp_path):
    base, trained = loaded
    lora = tmp_path / "lora.safetensors"
    assert main(["extract", str(models[1]), str(lora), "--base", str(models[0]), "--rank", "2"]) == 0
    styled, styled_clip = applied(comfy, base, lora)
    half, _ = transplanted(comfy, base, trained, base, model=styled, clip=styled_clip, strength=0.5)
    start, style = effective(base.model, "diffusion_model."), effective(styled, "diffusion_model.")
    end, found = effective(trained.model, "diffusion_model."), effective(half, "diffusion_model.")
    for key, weight in found.items():
        torch.testing.assert_close(weight, style[key] + 0.5 * (end[key] - start[key]), rtol=0, atol=1e-6)
    none, _ = transplanted(comfy, base, base, base)
    assert not none.patches


def test_models_of_other_sizes_are_not_transplanted(comfy, loaded, load, tmp_path):
    other = dataclasses.replace(CONFIG, unet=dataclasses.replace(CONFIG.unet, layers_per_block=2))
    write_tiny_checkpoint(tmp_path / "other.safetensors", other, seed=3)
    error = comfy.module("blipdiff_impl.errors").SubjectError
    with pytest.raises(error, match="MODELs are not of one size"):
        transplanted(comfy, load(tmp_path / "other.safetensors"), loaded[1], loaded[0])


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("trained", "--base", "trained"), "nothing to extract"),
        (("trained", "--base", "stock", "--rank", "0"), "rank = 0"),
        (("stock", "--base", "trained", "--rank", "4"), ""),
        (("trained", "--base", "nowhere"), "nowhere"),
        (("trained", "--base", "stock", "--energy", "1.5"), "energy = 1.5"),
        (("trained", "--base", "stock", "--energy", "nan"), "energy = nan"),
    ],
)
def test_what_cannot_be_extracted_ends_in_a_sentence(models, tmp_path, capsys, arguments, sentence):
    paths = {"stock": str(models[0]), "trained": str(models[1])}
    source, *rest = [paths.get(word, word) for word in arguments]
    status = main(["extract", source, str(tmp_path / "x.safetensors"), *rest])
    assert status == (2 if sentence else 0) and sentence in capsys.readouterr().err


DEEP = dataclasses.replace(CONFIG, unet=dataclasses.replace(CONFIG.unet, layers_per_block=2))
UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."


def host_names(comfy, config):
    """Canonical name -> LDM name, by the host's own table."""
    from comfy.utils import unet_to_diffusers

    return unet_to_diffusers(comfy.module("nodes.host.unet").host_config(config))


def in_ldm_names(comfy, parts, config):
    """The tensors of a single-file checkpoint around a UNet and a text encoder."""
    names = host_names(comfy, config)
    return {
        **{UNET + names[name]: tensor for name, tensor in parts["unet"].items()},
        **{TEXT + name: tensor for name, tensor in parts["text_encoder"].items()},
        TEXT + "text_model.embeddings.position_ids": torch.arange(77)[None],
        "first_stage_model.encoder.conv_in.bias": torch.ones(4),
        "model_ema.diffusion_modelinput_blocks00bias": torch.ones(4),
        "alphas_cumprod": torch.ones(1000),
    }


@pytest.fixture(scope="module")
def deep(comfy, tmp_path_factory):
    """A model with two layers a block, its base as a file of this pack, and the tensors of the base in LDM names."""
    root = tmp_path_factory.mktemp("deep")
    write_tiny_checkpoint(root / "model.safetensors", DEEP, seed=5)
    parts = write_tiny_checkpoint(root / "base.safetensors", DEEP, seed=6)
    return root / "model.safetensors", root / "base.safetensors", in_ldm_names(comfy, parts, DEEP.unet)


def extracted(model, base, out, *options):
    assert main(["extract", str(model), str(out), "--base", str(base), "--overwrite", *options]) == 0
    return out.read_bytes()


@pytest.mark.parametrize("kind", ["convolutions", "linear", "ckpt"])
def test_the_base_may_be_one_file_in_ldm_names(deep, tmp_path, kind):
    model, base, tensors = deep
    if kind == "linear":
        tensors = {
            name: tensor.flatten(1) if re.search(r"proj_(in|out)\.weight$", name) else tensor
            for name, tensor in tensors.items()
        }
    if kind == "ckpt":
        single = tmp_path / "sd15.ckpt"
        torch.save({"state_dict": tensors, "global_step": 1}, single)
    else:
        single = tmp_path / "sd15.safetensors"
        save_file(tensors, single)
    for size in (("--full",), ("--rank", "4")):
        wanted = extracted(model, base, tmp_path / "wanted.safetensors", *size)
        assert extracted(model, single, tmp_path / "found.safetensors", *size) == wanted


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        CONFIG.unet,
        UNetConfig(block_out_channels=(32,), layers_per_block=3, attention_levels=(True,)),
        UNetConfig(block_out_channels=(32, 64), layers_per_block=12, attention_levels=(False, True)),
    ],
)
def test_ldm_names_are_those_of_the_hosts_unet(comfy, config):
    """Names and shapes, one to one."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init

    names, shapes = canonical_unet_names(config), unet_shapes(config)
    table = host_names(comfy, config)
    assert names == {table[name]: name for name in shapes} and len(names) == len(shapes)
    host_config = comfy.module("nodes.host.unet").host_config(config)
    unet = UNetModel(**host_config, device="meta", operations=disable_weight_init)
    assert {name: tuple(t.shape) for name, t in unet.state_dict().items()} == {k: shapes[v] for k, v in names.items()}


def test_the_released_files_names():
    names = canonical_unet_names(UNetConfig())
    assert len(names) == len(set(names.values())) == 686
    assert names["input_blocks.3.0.op.weight"] == "down_blocks.0.downsamplers.0.conv.weight"
    assert names["output_blocks.2.1.conv.bias"] == "up_blocks.0.upsamplers.0.conv.bias"
    assert names["output_blocks.5.2.conv.bias"] == "up_blocks.1.upsamplers.0.conv.bias"
    assert names["output_blocks.11.1.proj_out.weight"] == "up_blocks.3.attentions.2.proj_out.weight"


def without(tensors, start):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda t: without(t, UNET + "input_blocks.1.1.proj_in.weight"),
            "1 tensor is missing: down_blocks.0.attentions.0.proj_in.weight",
        ),
        (
            lambda t: without(t, TEXT + "text_model.final_layer_norm.bias"),
            "1 tensor is missing: text_model.final_layer_norm.bias (64). The file is incomplete, or of another size",
        ),
        (
            lambda t: t | {UNET + "input_blocks.99.0.bias": torch.ones(4)},
            "1 tensor is unexpected: model.diffusion_model.input_blocks.99.0.bias",
        ),
        (lambda t: t | {UNET + "conv_in.bias": torch.ones(32)}, "unexpected: model.diffusion_model.conv_in.bias"),
        (lambda t: t | {UNET + "input_blocks.0.0.weight": torch.ones(32, 9, 3, 3)}, "a model of another size"),
        (lambda t: without(t, TEXT), "has no text encoder to compare with. Give stock Stable Diffusion 1.5 whole"),
        (lambda t: t | {UNET + "label_emb.0.0.bias": torch.ones(4)}, "is Stable Diffusion XL, not Stable Diffusion"),
        (
            lambda t: without(t, TEXT) | {"conditioner.embedders.0.transformer.x": torch.ones(4)},
            "is Stable Diffusion XL, not",
        ),
        (
            lambda t: without(t, TEXT) | {"cond_stage_model.model.ln_final.bias": torch.ones(4)},
            "is Stable Diffusion 2, not Stable Diffusion 1.5. Give the model that yours was trained from",
        ),
        (lambda t: {UNET + "double_blocks.0.x": torch.ones(4)}, "is Stable Diffusion 3 or Flux, not"),
    ],
)
def test_a_base_that_is_not_stable_diffusion_15_ends_in_a_sentence(deep, tmp_path, capsys, change, sentence):
    base, out = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(change(deep[2]), base)
    assert main(["extract", str(deep[0]), str(out), "--base", str(base)]) == 2
    assert sentence in capsys.readouterr().err and not out.exists()


def test_a_base_of_other_levels_or_cut_short_ends_in_a_sentence(deep, models, tmp_path, capsys):
    base, out = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    save_file(deep[2], base)
    assert main(["extract", str(models[1]), str(out), "--base", str(base)]) == 2
    said = capsys.readouterr().err
    assert "unexpected: model.diffusion_model." in said and "The file belongs to a model of another size." in said
    base.write_bytes(base.read_bytes()[:-1000])
    assert main(["extract", str(deep[0]), str(out), "--base", str(base)]) == 2
    assert "damaged or incomplete" in capsys.readouterr().err and not out.exists()
