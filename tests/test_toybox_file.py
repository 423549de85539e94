"""The embedded model's file, and a small zero-shot check of what is in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
from blipdiff_impl.blip_diffusion.config import ModelConfig
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.toy_world.world import CATEGORIES, vocabulary

MAX_BYTES = 45_000_000
PARTS = ("subject_encoder", "text_encoder", "unet", "vae")


@pytest.fixture(scope="module")
def weight_file():
    from blipdiff_impl.toybox.export import WEIGHT_FILE

    return WEIGHT_FILE


def test_size_types_and_metadata(weight_file):
    assert weight_file.stat().st_size <= MAX_BYTES
    with safe_open(weight_file, "pt") as file:
        metadata = file.metadata()
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}
        assert {name.split(".")[0] for name in file.keys()} == set(PARTS)
    assert metadata["format"] == "blipdiffusion"
    assert metadata["vocabulary"].split("\n") == vocabulary()
    config = ModelConfig.from_json(metadata["config"])
    assert config.picture_size == 96 and config.vae.downscale == 8
    assert config.unet.cross_attention_dim == config.text_encoder.hidden_size == config.qformer.hidden_size


def test_every_part_loads_through_the_ordinary_loader(weight_file):
    checkpoint = open_checkpoint("toybox")
    assert checkpoint.vocabulary == vocabulary()
    for name in PARTS:
        assert all(torch.isfinite(tensor).all() for tensor in checkpoint.part(name).values())


def test_adopting_cuts_the_words_of_captions_and_changes_nothing_else(weight_file, tmp_path):
    from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
    from blipdiff_impl.toybox.export import adopt

    checkpoint = open_checkpoint("toybox")
    config, words = checkpoint.config, [*vocabulary(), "[DEC]", "red"]
    found = {name: dict(checkpoint.part(name)) for name in PARTS}
    (table,) = (name for name in found["subject_encoder"] if name.endswith("word_embeddings.weight"))
    rows = found["subject_encoder"][table]
    found["subject_encoder"][table] = torch.cat([rows, torch.ones(2, rows.shape[1], dtype=rows.dtype)])
    config = replace(config, qformer=replace(config.qformer, vocab_size=len(words)))
    trained, adopted = tmp_path / "trained.safetensors", tmp_path / "adopted.safetensors"
    write_single_file(trained, found, config, words, torch.float16)
    adopt(trained, adopted)
    assert adopted.read_bytes() == weight_file.read_bytes()
    write_single_file(trained, found, config, words[::-1], torch.float16, overwrite=True)
    with pytest.raises(SubjectError, match="not trained on the toy world"):
        adopt(trained, adopted)


def test_latent_channels_have_unit_spread_under_the_usual_factor():
    """Scaled by 0.18215 each channel has mean 0 and spread 1, which the noise schedule takes for granted."""
    from blipdiff_impl.stable_diffusion.building import build_vae
    from blipdiff_impl.toybox.evaluate import make_trials

    checkpoint = open_checkpoint("toybox")
    vae = build_vae(checkpoint.config.vae, {name: t.float() for name, t in checkpoint.part("vae").items()})
    pictures = np.stack([trial.rendered for trial in make_trials(48)])
    with torch.inference_mode():
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(pixels).latent_dist.mean * checkpoint.config.vae.scaling_factor
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.25
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.2


def test_held_out_subjects_are_drawn_where_the_prompt_says():
    """24 subjects, 15 steps. Chance is 1/8 for the subject and 1/12 for the place; the bounds are far above it
    (5 standard errors of chance) and far below what docs/toybox.md reports, so that neither luck nor another
    machine's rounding decides.
    """
    from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
    from blipdiff_impl.toybox.evaluate import Evaluation, generate, make_trials
    from blipdiff_impl.toybox.judge import Judge

    trials = make_trials(24)
    pictures = generate(SubjectPipeline.from_checkpoint("toybox"), trials, steps=15)
    scores = Evaluation(Judge.load(), trials).score(pictures)
    assert scores["subject_top1"] >= 0.5
    assert scores["background_accuracy"] >= 0.7
    assert scores["category_accuracy"] >= 0.6
    assert scores["palette_distance"] < 0.8 * scores["palette_distance_random"]


def test_the_judge_is_fair_to_the_renderer():
    from blipdiff_impl.toybox.evaluate import Evaluation, make_trials
    from blipdiff_impl.toybox.judge import Judge

    trials = make_trials(2 * len(CATEGORIES))
    scores = Evaluation(Judge.load(), trials).score(np.stack([trial.rendered for trial in trials]))
    assert min(scores[name] for name in ("subject_top1", "background_accuracy", "category_accuracy")) >= 0.9


def test_a_pipeline_that_was_put_together_to_draw_has_no_encoder_and_says_so():
    from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline

    whole = SubjectPipeline.from_checkpoint("toybox")
    drawing = SubjectPipeline(whole.config, None, whole.text_encoder, whole.unet, whole.vae)
    picture = drawing.generate(None, "on the beach", "mug", steps=1, guidance=1.0)
    assert picture.shape == (1, 96, 96, 3)
    with pytest.raises(SubjectError, match="has no subject encoder"):
        _ = drawing.encoder
