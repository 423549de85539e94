"""`extract`: what a model learned as a file that the host's Load LoRA puts on another checkpoint."""

import re

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import CONFIG, PIECES, write_tiny_checkpoint

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.checkpoints import write_single_file

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
    import dataclasses

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
