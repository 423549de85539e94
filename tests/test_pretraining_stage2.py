"""The second stage: prompts as in generation, the loss by hand, dropping, ablations, weights, fresh parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretraining_fixtures import MODEL, VOCABULARY, sample_members, write_model, write_shard, write_shards
from safetensors.torch import save_file

from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.blip_diffusion.pretraining.command import make_task
from blipdiff_impl.blip_diffusion.pretraining.initial import load_initial
from blipdiff_impl.blip_diffusion.pretraining.prompt_rows import REPETITIONS, draw_row
from blipdiff_impl.blip_diffusion.pretraining.settings import ABLATIONS, Stage1Settings, Stage2Settings
from blipdiff_impl.blip_diffusion.text import encode_subject
from blipdiff_impl.prompts.rows import compose
from blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START
from blipdiff_impl.stable_diffusion.noise import error_weights
from blipdiff_impl.training.samples import BrokenSample, Sample
from blipdiff_impl.training.shards import Shards

VECTORS = MODEL.qformer.num_query_tokens
CAPTION, CONTEXT = "a brown dog on the grass", "on the grass"
SAMPLE = Sample("x", np.zeros((8, 8, 3), np.uint8), (CAPTION,), "Dog.", context=CONTEXT)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    return {"model": str(write_model(folder / "tiny.safetensors")), "shards": (write_shards(folder),),
            "batch_size": 4, "dropout": 0.0, "crop_low": 1.0, "flip": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def task(material):
    return make_task(Stage2Settings(**material, subject_drop=0.0))


def batch_of(task, indices=(0, 1, 2, 3), seed=0):
    shards = Shards(task.settings.shards)
    examples = [task.prepare(shards[i], np.random.default_rng((seed, i))) for i in indices]
    return task.batch(task.collate(examples))


@pytest.mark.parametrize("template, share", [("paper", 0.0), ("released", 1.0)])
def test_prompts_mean_what_they_do_in_generation(material, template, share):
    """Training's context against the pipeline's, from the same picture. 1e-4: float32 through two small encoders."""
    task = make_task(Stage2Settings(**material, subject_drop=0.0, released_share=share))
    pipeline = SubjectPipeline.from_checkpoint(material["model"])
    shards = Shards(material["shards"])
    for index in range(4):
        sample = shards[index]
        sample = replace(sample, captions=sample.captions[:1])
        rng = np.random.default_rng(index)
        twin = np.random.default_rng(index)
        twin.integers(1)
        twin.uniform(size=3)
        repetitions = REPETITIONS[twin.integers(len(REPETITIONS))]
        batch = task.batch(task.collate([task.prepare(sample, rng)]))
        with torch.no_grad():
            found = task.model.eval().context(batch)
            photo = torch.from_numpy(sample.composite.copy())[None].float() / 255
            subject = pipeline.encoder.encode(photo, sample.category)
            text = sample.captions[0] if template == "paper" else sample.context
            prompt = compose(text, sample.category, template, prompt_reps=repetitions)
            expected = encode_subject(pipeline.text_encoder, prompt, subject)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_paper_prompt_ends_with_the_subject():
    row = draw_row(SAMPLE, CAPTION, VECTORS, Stage2Settings(subject_drop=0.0), np.random.default_rng(0))
    assert row.ids.shape == (77,) and row.ids[0] == CLIP_START and row.has_subject
    assert (row.ids[row.place :] == CLIP_END).all()  # the vectors' places, the end, padding


@pytest.mark.parametrize("words", [1, 60, 500])
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_long_captions_leave_room_for_the_subject(words, share, drop):
    settings = Stage2Settings(subject_drop=drop, released_share=share)
    long = replace(SAMPLE, context="grass " * words)
    row = draw_row(long, "grass " * words, VECTORS, settings, np.random.default_rng(0))
    assert len(row.ids) == 77 and row.has_subject == (drop == 0.0)
    assert 1 <= row.place and row.place + VECTORS <= 76


def test_shares_come_as_often_as_asked_for():
    settings = Stage2Settings(subject_drop=0.15, released_share=0.4, empty_share=0.1)
    rng = np.random.default_rng(0)
    rows = [draw_row(SAMPLE, CAPTION, VECTORS, settings, rng) for _ in range(4000)]
    empty = np.mean([(row.ids[1:] == CLIP_END).all() and not row.has_subject for row in rows])
    dropped = np.mean([not row.has_subject for row in rows])
    # Three standard errors of a share of 4000 draws.
    assert empty == pytest.approx(0.1, abs=0.015)
    assert dropped == pytest.approx(0.1 + 0.9 * 0.15, abs=0.02)


def test_a_dropped_subject_leaves_the_words_alone():
    """The text stays, the vectors go: what remains is the plain prompt."""
    kept, dropped = (
        draw_row(SAMPLE, CAPTION, VECTORS, Stage2Settings(subject_drop=drop), np.random.default_rng(0))
        for drop in (0.0, 1.0)
    )
    assert (kept.ids == dropped.ids).all() and kept.has_subject and not dropped.has_subject


def test_the_loss_by_hand(task):
    batch = batch_of(task)
    model = task.model.eval()
    with torch.no_grad():
        alpha = [float(task._alphas[t]) for t in batch.times]
        noisy = torch.stack(
            [a**0.5 * x + (1 - a) ** 0.5 * e for a, x, e in zip(alpha, batch.latents, batch.noise, strict=True)]
        )
        predicted = model.unet(noisy, batch.times, model.context(batch)).sample
        expected = np.mean([float(((p - e) ** 2).mean()) for p, e in zip(predicted, batch.noise, strict=True)])
        assert float(model(batch)["noise"]) == pytest.approx(expected, rel=1e-5)


def test_the_target_is_the_original_and_the_input_the_composite(task):
    """Another composite moves the context alone, another picture the latents alone."""
    shards = Shards(task.settings.shards)
    one = shards[0]
    other = replace(one, composite=shards[1].composite)
    moved = replace(one, picture=shards[1].picture)
    made = [task.batch(task.collate([task.prepare(s, np.random.default_rng(0))])) for s in (one, other, moved)]
    assert torch.equal(made[0].latents, made[1].latents) and not torch.equal(made[0].features, made[1].features)
    assert torch.equal(made[0].features, made[2].features) and not torch.equal(made[0].latents, made[2].latents)


def test_latents_are_computed_in_full_precision(task):
    expected = batch_of(task)
    with torch.autocast("cpu", torch.bfloat16):
        found = batch_of(task)
    assert torch.equal(found.latents, expected.latents) and not torch.equal(found.features, expected.features)


def test_latents_may_come_computed(task):
    shards = Shards(task.settings.shards)
    plain = batch_of(task)
    ready = [replace(shards[i], latent=plain.latents[i].numpy()) if i % 2 else shards[i] for i in range(4)]
    examples = [task.prepare(sample, np.random.default_rng((0, i))) for i, sample in enumerate(ready)]
    torch.testing.assert_close(task.batch(task.collate(examples)).latents, plain.latents, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes, sentence", [
    ({"composite": None}, "has no composite"),
    ({"category": ""}, "has no category"),
    ({"latent": np.zeros((4, 3, 3), np.float32)}, r"latent is \(4, 3, 3\)"),
])  # fmt: skip
def test_samples_the_stage_cannot_use(task, changes, sentence):
    with pytest.raises(BrokenSample, match=sentence):
        task.prepare(replace(Shards(task.settings.shards)[0], **changes), np.random.default_rng(0))


def test_a_dropped_subject_sends_nothing_from_its_picture(task):
    batch = batch_of(task)
    model = task.model.eval()
    other = replace(batch, features=batch.features.flip(0), has_subject=torch.tensor([True, False, True, False]))
    batch = replace(batch, has_subject=other.has_subject)
    with torch.no_grad():
        moved = (model.context(batch) != model.context(other)).flatten(1).any(1)
        plain = model.text_encoder(batch.ids)
        torch.testing.assert_close(model.context(batch)[1::2], plain[1::2], rtol=0, atol=1e-5)
    assert moved.tolist() == [True, False, True, False]


def row_of_table_2(material, row):
    return make_task(Stage2Settings(**(material | ABLATIONS[row])))


def test_without_subject_text_the_category_reaches_the_q_former_no_more(material):
    for row, depends in (("full", True), ("no-subject-text", False)):
        task = row_of_table_2(material, row)
        batch = replace(batch_of(task), has_subject=torch.ones(4, dtype=torch.bool))
        other = replace(batch, words=torch.where(batch.word_mask.bool(), VOCABULARY.index("tea"), 0))
        with torch.no_grad():
            found = [task.model.eval().context(b) for b in (batch, other)]
        assert torch.equal(*found) != depends


def test_a_frozen_text_encoder_gets_no_gradient_and_the_rest_does(material):
    for row in ABLATIONS:
        task = row_of_table_2(material, row)
        task.model(batch_of(task))["noise"].backward()
        trained = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in trained.values()), row  # several processes would wait for ever
        assert any(n.startswith("text_encoder.") for n in trained) == (row != "frozen-text-encoder")
        assert any(n.startswith("qformer.") for n in trained) and any(n.startswith("unet.") for n in trained)


def test_without_subject_dropping_every_prompt_has_its_subject(material):
    for row, expected in (("no-subject-dropping", {True}), ("full", {True, False})):
        task = row_of_table_2(material, row)
        seen = {bool(flag) for seed in range(12) for flag in batch_of(task, seed=seed).has_subject}
        assert seen == expected


def test_without_the_first_stage_a_fresh_q_former_is_trained(material, tmp_path):
    first = make_task(
        Stage1Settings(model=material["model"], shards=material["shards"], batch_size=4, fresh=("qformer",))
    )
    first.write(first.model.state_dict(), tmp_path / "first.safetensors")
    settings = Stage2Settings(**material, fresh=("qformer",), stage1=str(tmp_path / "first.safetensors"))
    with_first = make_task(settings).model.qformer.query_tokens
    assert torch.equal(with_first, first.model.qformer.query_tokens)
    without = make_task(replace(settings, seed=99, **ABLATIONS["no-pretraining"])).model.qformer.query_tokens
    assert not torch.equal(with_first, without)


def test_weights_of_timesteps_are_those_of_min_snr():
    """Hang et al. 2023, noise prediction: min(SNR, gamma) / SNR."""
    alphas = torch.tensor([0.99, 0.5, 0.1])  # SNR 99, 1, 1/9
    cells = torch.tensor([0.0, 1.0, 0.5])[:, None, None, None]
    found = error_weights(alphas, cells, 5.0, 2.0).flatten().tolist()
    assert found == pytest.approx([5 / 99, 3.0, 2.0], rel=1e-4)
    assert error_weights(alphas, cells, 0.0, 0.0).flatten().tolist() == [1.0, 1.0, 1.0]


def test_a_fresh_q_former_copies_its_feed_forward_and_keeps_the_tower(material):
    kept, fresh = (
        load_initial(Stage1Settings(model=material["model"], batch_size=4, fresh=parts)).encoder
        for parts in ((), ("qformer",))
    )
    assert torch.equal(kept.visual_encoder.pre_layernorm.weight, fresh.visual_encoder.pre_layernorm.weight)
    assert not torch.equal(kept.qformer.query_tokens, fresh.qformer.query_tokens)
    for layer in fresh.qformer.encoder.layer:
        assert torch.equal(layer.intermediate.dense.weight, layer.intermediate_query.dense.weight)
        assert torch.equal(layer.output.dense.weight, layer.output_query.dense.weight)


def test_a_fresh_q_former_starts_from_a_bert(material, tmp_path):
    """Names as in published files: `bert.encoder.layer.0.attention.self.query.weight`; no row for `[DEC]`."""
    donor = load_initial(Stage1Settings(model=material["model"], batch_size=4)).encoder.qformer
    bert = {}
    for name, tensor in donor.state_dict().items():
        if "crossattention" not in name and "_query" not in name and name != "query_tokens":
            name = f"bert.{name}".replace("attention.attention.", "attention.self.")
            bert[name] = tensor.clone().contiguous()
    table = "bert.embeddings.word_embeddings.weight"
    bert[table] = bert[table][:-1].clone()
    save_file(bert, tmp_path / "bert.safetensors")
    settings = Stage1Settings(
        model=material["model"], batch_size=4, fresh=("qformer",), bert=str(tmp_path / "bert.safetensors")
    )
    made = load_initial(settings).encoder.qformer
    layer, source = made.encoder.layer[1], donor.encoder.layer[1]
    assert torch.equal(layer.attention.attention.query.weight, source.attention.attention.query.weight)
    assert torch.equal(layer.intermediate_query.dense.weight, source.intermediate.dense.weight)
    assert not torch.equal(layer.crossattention.attention.query.weight, source.crossattention.attention.query.weight)
    assert torch.equal(made.embeddings.word_embeddings.weight[:-1], donor.embeddings.word_embeddings.weight[:-1])
    del bert["bert.encoder.layer.1.output.dense.weight"]
    save_file(bert, tmp_path / "bert.safetensors")
    with pytest.raises(ValueError, match="has nothing for encoder.layer.1.output.dense.weight"):
        load_initial(settings)


def test_a_bert_that_is_not_there_is_named(material):
    with pytest.raises(ValueError, match="BERT nowhere.safetensors cannot be read"):
        load_initial(
            Stage1Settings(model=material["model"], batch_size=4, fresh=("qformer",), bert="nowhere.safetensors")
        )


def test_a_vocabulary_without_the_caption_token_is_named(tmp_path):
    from tiny_model import CONFIG, PIECES, random_parts

    write_single_file(tmp_path / "old.safetensors", random_parts(), CONFIG, PIECES)
    with pytest.raises(ValueError, match=r"10 word pieces have no \[DEC\]"):
        make_task(Stage1Settings(model=str(tmp_path / "old.safetensors"), batch_size=4))


def test_shards_of_the_first_stage_need_neither_composite_nor_category(tmp_path, material):
    members = {name: data for name, data in sample_members(0).items() if name == "png"} | {"txt": b"a dog"}
    path = write_shard(tmp_path / "a.tar", {"0000": members})
    task = make_task(Stage1Settings(model=material["model"], batch_size=4))
    assert task.prepare(Shards((str(path),))[0], np.random.default_rng(0)).mask.sum() == 4
