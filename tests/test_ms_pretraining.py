"""The stage that trains an adapter: what it computes, what it draws, what a run leaves, and runs that cannot go on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ms_world import (
    CONFIG,
    IMAGE_SIDE,
    POOLED,
    TEXT_G,
    TEXT_L,
    diffusers_unet,
    random_adapter,
    shaken,
    text_config,
    transformers_vision,
)
from PIL import Image
from pretraining_fixtures import finish_run, kill_run, picture_bytes, start_run, write_shard
from slow_ms import SlowSubjects, slow_layers

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.ms_diffusion.checkpoint import open_adapter, save_adapter
from blipdiff_impl.ms_diffusion.config import RELEASED
from blipdiff_impl.ms_diffusion.pretraining.command import train
from blipdiff_impl.ms_diffusion.pretraining.model import MSModel
from blipdiff_impl.ms_diffusion.pretraining.settings import MSSettings
from blipdiff_impl.ms_diffusion.pretraining.task import MSTask
from blipdiff_impl.ms_diffusion.unet_layers import UNetWithSubjects
from blipdiff_impl.training.run_log import read_losses
from blipdiff_impl.training.samples import BrokenSample
from blipdiff_impl.training.settings_file import to_yaml
from blipdiff_impl.training.shards import Shards

SIZE = 32
BOXES = ((0.0, 0.25, 0.6, 0.9), (0.35, 0.0, 1.0, 0.55), (0.5, 0.5, 1.0, 1.0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model in diffusers' layout, its picture encoder, and a shard."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    root = tmp_path_factory.mktemp("ms")
    ends = {"vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    vae = AutoencoderKL(block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4)  # fmt: skip
    first = CLIPTextModel(CLIPTextConfig(**text_config(TEXT_L, "quick_gelu"), **ends))
    second = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(TEXT_G, "gelu"), projection_dim=POOLED, **ends))
    for name, network in (("vae", vae), ("text_encoder", first), ("text_encoder_2", second)):
        shaken(network, len(name)).save_pretrained(root / "xl" / name)
    diffusers_unet().save_pretrained(root / "xl" / "unet")
    transformers_vision().save_pretrained(root / "vision")
    write_shard(root / "a.tar", {f"{index}": members(index) for index in range(5)})
    return root


def members(index):
    """Sample `index`: one to three subjects."""
    rng = np.random.default_rng(index)
    count = 1 + index % 3
    subjects = [{"phrase": ["dog", "tea pot", "mug"][number], "box": list(BOXES[number])} for number in range(count)]
    about = {"caption": "a dog, a tea pot and a mug", "subjects": subjects}
    references = {f"reference{number}.png": picture_bytes(rng, (20, 28)) for number in range(count)}
    return {"png": picture_bytes(rng, (40, 48)), "json": json.dumps(about).encode(), **references}


def settings_of(folders, out, **changes):
    sizes = {name: getattr(CONFIG.resampler, name) for name in
             ("width", "depth", "heads", "head_width", "queries", "feed_forward")}  # fmt: skip
    return MSSettings(**{
        "model": str(folders / "xl"), "vision": str(folders / "vision"), "shards": (str(folders / "a.tar"),),
        "out": str(out), "size": SIZE, "batch_size": 2, "steps": 4, "learning_rate": 1e-3, "last_rate": 1e-3,
        "save_every": 2, "log_every": 1, "sample_every": 0, "threads": 1, "subjects": 3, **sizes, **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def task(folders):
    return MSTask(settings_of(folders, folders / "unused"))


@pytest.fixture(scope="module")
def samples(folders):
    shards = Shards((str(folders / "a.tar"),))
    return [shards[index] for index in range(5)]


def test_a_fresh_adapter_fits_and_begins_with_the_unets_own_keys_and_values(task, folders):
    assert replace(task.model.adapter.config) == CONFIG
    for layer in task.model.adapter.layers:
        own, attention = task.model.adapter.ms_adapter[str(layer.number)], task.frozen.unet.get_submodule(layer.module)
        assert torch.equal(own.to_k_ip.weight, attention.to_k.weight)
        assert torch.equal(own.to_v_ip.weight, attention.to_v.weight)
    trained = {name for name, weight in task.model.named_parameters() if weight.requires_grad}
    assert trained == set(task.model.state_dict()) and all(name.startswith("adapter.") for name in trained)


def test_the_prediction_is_that_of_the_slow_implementation(task, samples):
    """Two pictures, of two subjects and of one, against explicit attention in a loop over places."""
    quiet = MSTask.__new__(MSTask)
    quiet.__dict__ |= task.__dict__
    quiet.settings = replace(task.settings, text_drop=0.0, image_drop=0.0, both_drop=0.0, grounding_drop=0.0)
    adapter = random_adapter()
    quiet.model = MSModel(adapter, UNetWithSubjects(task.frozen.unet, adapter.layers))
    examples = [quiet.prepare(samples[index], np.random.default_rng(0)) for index in (1, 0)]
    batch = quiet.batch(quiet.collate(examples))
    with torch.no_grad():
        noisy = batch.alphas.sqrt()[:, None, None, None] * batch.latents
        noisy = noisy + (1 - batch.alphas).sqrt()[:, None, None, None] * batch.noise
        loss = quiet.model(batch)["noise"]
        more = {"text_embeds": batch.pooled, "time_ids": torch.tensor([[SIZE, SIZE, 0.0, 0.0, SIZE, SIZE]] * 2)}
        expected = []
        for row, count in ((0, 2), (1, 1)):
            boxes = [tuple(round(edge, 6) for edge in box) for box in batch.boxes[row, :count].tolist()]
            slow = SlowSubjects(adapter, batch.features[row, :count], batch.phrases[row, :count], boxes, [1.0] * count)
            pair = [each[row : row + 1].expand(2, *each.shape[1:]) for each in (noisy, batch.times, batch.context)]
            own = {name: value[row : row + 1].expand(2, -1) for name, value in more.items()}
            with slow_layers(task.frozen.unet, slow) as unet:
                expected.append(unet(*pair, added_cond_kwargs=own).sample[1])
        by_hand = (torch.stack(expected) - batch.noise).square().mean()
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-5)


def test_latents_are_computed_in_full_precision(task, samples):
    """The autoencoder stays in float32 while the rest trains in 16 bit."""
    raw = task.collate([task.prepare(sample, np.random.default_rng(0)) for sample in samples[:2]])
    expected = task.batch(raw)
    with torch.autocast("cpu", torch.bfloat16):
        found = task.batch(raw)
    assert torch.equal(found.latents, expected.latents)
    assert not torch.equal(found.features.float(), expected.features)  # the other networks are not told to


def test_boxes_follow_the_middle_square(task, samples):
    """The picture is 48 wide and 40 high: the square is without four columns on each side."""
    example = task.prepare(samples[0], np.random.default_rng(0))
    assert example.boxes[0].tolist() == pytest.approx([0, 0.25, (0.6 * 48 - 4) / 40, 0.9])
    assert example.boxes[1:].abs().sum() == 0 and example.references[1:].abs().sum() == 0
    assert example.references.shape == (3, 3, IMAGE_SIDE, IMAGE_SIDE) and example.target.shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("shares, text, images", [
    ((1.0, 0.0, 0.0), True, False), ((0.0, 1.0, 0.0), False, True), ((0.0, 0.0, 1.0), True, True),
    ((0.0, 0.0, 0.0), False, False),
])  # fmt: skip
def test_what_is_dropped(folders, task, samples, shares, text, images):
    quiet = MSTask.__new__(MSTask)
    quiet.__dict__ |= task.__dict__
    quiet.settings = replace(task.settings, **dict(zip(("text_drop", "image_drop", "both_drop"), shares, strict=True)))
    example = quiet.prepare(samples[0], np.random.default_rng(3))
    assert bool((example.ids[0] == 49407).sum() == 76) == text  # end and padding only
    assert bool((example.references == 0).all()) == images
    assert example.boxes[0].sum() > 0


def test_shares_of_the_defaults(task, samples):
    drawn = [task.prepare(samples[0], np.random.default_rng(index)) for index in range(300)]
    without_text = sum(bool((each.ids[0] == 49407).sum() == 76) for each in drawn) / 300
    without_images = sum(bool((each.references == 0).all()) for each in drawn) / 300
    assert without_text == pytest.approx(0.1, abs=0.05) and without_images == pytest.approx(0.1, abs=0.05)
    assert sum(bool(each.ungrounded) for each in drawn) / 300 == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(("share", "noisy"), [(0.0, 0.5), (0.8, 0.9), (1.0, 1.0)])
def test_timesteps_come_from_the_noisier_half_as_often_as_is_asked(task, samples, share, noisy):
    other = MSTask.__new__(MSTask)
    other.__dict__ |= task.__dict__
    other.settings = replace(task.settings, noisy_share=share)
    drawn = (other.prepare(samples[0], np.random.default_rng(seed)) for seed in range(300))
    times = np.array([int(each.time) for each in drawn])
    assert (times >= 500).mean() == pytest.approx(noisy, abs=0.1) and times.max() < 1000
    assert share == 1 or times.min() < 500


def test_defaults_are_the_papers():
    """The release's script and the paper's run: 16 GPUs with 8 samples each."""
    settings = MSSettings(model="m", vision="v")
    assert (settings.loss, settings.optimiser, settings.learning_rate, settings.last_rate) == (
        "noise", "adamw", 1e-4, 1e-4)  # fmt: skip
    assert (settings.batch_size, settings.steps, settings.warm_up) == (16 * 8, 120_000, 0)
    assert (settings.weight_decay, settings.clip, settings.betas) == (0.01, 1.0, (0.9, 0.999))
    assert (settings.size, settings.subjects, settings.min_snr, settings.mask_weight) == (512, 4, 0.0, 0.0)
    assert (settings.text_drop, settings.image_drop, settings.both_drop) == (0.05, 0.05, 0.05)
    assert (settings.grounding_drop, settings.box_jitter, settings.noisy_share) == (0.1, 0.0, 0.0)
    own = ("width", "depth", "heads", "head_width", "queries", "feed_forward")
    assert all(getattr(settings, name) == getattr(RELEASED.resampler, name) for name in own)


def losses_of(folder):
    return [row["noise"] for row in read_losses(folder)]


def test_killed_and_gone_on_is_the_same_as_unbroken(folders, tmp_path):
    """SIGKILL in the middle; to the bit: all that is drawn depends on seed and place in the run alone."""
    whole = settings_of(folders, tmp_path / "whole", steps=24, ema_decay=0.9, box_jitter=0.1)
    path = train(whole)
    parts = replace(whole, out=str(tmp_path / "parts"))
    kill_run(start_run(parts, tmp_path), tmp_path / "parts" / "checkpoints" / "step_*[2-9]")
    assert len(losses_of(tmp_path / "parts")) < 24
    assert "from step 0 of" not in finish_run(start_run(parts, tmp_path))
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole") and len(losses_of(tmp_path / "whole")) == 24
    first, second = (open_adapter(each).tensors() for each in (path, tmp_path / "parts" / path.name))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {tensor.dtype for tensor in first.values()} == {torch.float16} and open_adapter(path).config == CONFIG
    assert first.keys() == random_adapter().state_dict().keys()


def test_two_processes_are_one_with_the_same_batch(folders, tmp_path):
    """1e-4: sums of float32 in another order, over six steps."""
    one = settings_of(folders, tmp_path / "one", steps=6, batch_size=4)
    train(one)
    output = finish_run(start_run(replace(one, out=str(tmp_path / "two")), tmp_path, processes=2))
    assert "2 process(es)" in output
    found, expected = losses_of(tmp_path / "two"), losses_of(tmp_path / "one")
    assert found == pytest.approx(expected, abs=1e-4) and len(found) == 6 and found[0] != found[-1]


def test_it_learns_and_shows_it(folders, tmp_path, samples):
    """The error on five pictures, with the same noise each time, falls; and a grid is drawn: reference, original, own
    picture."""
    settings = settings_of(
        folders, tmp_path, steps=10, batch_size=4, learning_rate=3e-3, last_rate=3e-3, sample_every=10, sample_count=2,
        sample_steps=2, text_drop=0.0, image_drop=0.0, both_drop=0.0, grounding_drop=0.0, seed=2,
    )  # fmt: skip
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    assert main(["pretrain", str(path)]) == 0
    result = tmp_path / "ms_adapter.safetensors"
    assert error_on(replace(settings, adapter=str(result)), samples) < 0.98 * error_on(settings, samples)
    (grid,) = (tmp_path / "samples").glob("*.png")
    with Image.open(grid) as picture:
        assert picture.size == (2 * SIZE, 3 * SIZE)
    assert open_adapter(result).config == CONFIG


def error_on(settings, samples):
    """The error of the noise, four times for each sample."""
    task = MSTask(settings)
    examples = [
        task.prepare(sample, np.random.default_rng((draw, index)))
        for draw in range(4) for index, sample in enumerate(samples)
    ]  # fmt: skip
    with torch.no_grad():
        return float(task.model(task.batch(task.collate(examples)))["noise"])


@pytest.mark.parametrize("change, said", [
    (lambda members: members.pop("reference0.png"), "has no picture .reference0 of its subject 0"),
    (lambda members: members.update(json=json.dumps({"caption": "a"}).encode()), "has no references"),
    (lambda members: about(members, box=[0.5, 0, 0.5, 1]), "box of subject 0, .0.5, 0, 0.5, 1., has no area"),
    (lambda members: about(members, box="left"), "should be four numbers, not 'left'"),
    (lambda members: about(members, phrase="  "), "phrase of a subject is empty"),
])  # fmt: skip
def test_samples_that_cannot_be_used(task, tmp_path, change, said):
    broken = members(0)
    change(broken)
    shards = Shards((str(write_shard(tmp_path / "b.tar", {"x": broken})),))
    with pytest.raises(BrokenSample, match=said):
        task.prepare(shards[0], np.random.default_rng(0))


def about(members, **changes):
    record = json.loads(members["json"])
    record["subjects"][0] |= changes
    members["json"] = json.dumps(record).encode()


@pytest.mark.parametrize("changes, said", [
    ({"model": ""}, "model is not given: name the folder of a Stable Diffusion XL model"),
    ({"text_drop": 0.5, "image_drop": 0.6}, "text_drop . image_drop . both_drop = 1.1"),
    ({"flip": 0.2}, "flip = 0.2 is a setting of other stages"),
    ({"size": 33}, "size = 33 is no multiple of 2"),
    ({"loss": "columns", "sample_every": 5}, "loss = 'columns' draws no pictures.*sample_every = 5.*sample_every: 0"),
])  # fmt: skip
def test_settings_that_cannot_be_used(folders, tmp_path, changes, said):
    with pytest.raises(SubjectError, match=said):
        MSTask(settings_of(folders, tmp_path, **changes))


def test_a_folder_without_a_part(folders, tmp_path):
    with pytest.raises(CheckpointError, match="unet holds no UNet2DConditionModel that diffusers can read"):
        MSTask(settings_of(folders, tmp_path, model=str(tmp_path)))


def test_an_adapter_for_another_unet(folders, tmp_path):
    from ms_fixtures import SMALL
    from ms_fixtures import random_adapter as another

    save_adapter(another(config=SMALL), tmp_path / "other.safetensors", torch.float32)
    with pytest.raises(CheckpointError, match="cross-attention is not the adapter's"):
        MSTask(settings_of(folders, tmp_path, adapter=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize("name, width", [("image_width", 40), ("phrase_width", 16), ("context_width", 64)])
def test_an_adapter_whose_resampler_is_for_other_networks(folders, tmp_path, name, width):
    """It has the UNet's layers: without a look at its widths the first step would end in a matrix of another size."""
    other = replace(CONFIG, resampler=replace(CONFIG.resampler, **{name: width}))
    save_adapter(random_adapter(other), tmp_path / "other.safetensors", torch.float32)
    said = f"other.safetensors has {name} {width}, but .* need {getattr(CONFIG.resampler, name)}"
    with pytest.raises(CheckpointError, match=said):
        MSTask(settings_of(folders, tmp_path, adapter=str(tmp_path / "other.safetensors")))


def test_an_adapter_for_a_unet_of_other_widths(folders, tmp_path):
    other = replace(CONFIG, unet=replace(CONFIG.unet, widths=(32, 64, 96)))
    save_adapter(random_adapter(other), tmp_path / "other.safetensors", torch.float32)
    with pytest.raises(CheckpointError, match=r"has unet.widths \(32, 64, 96\), but .* need \(32, 64, 128\)"):
        MSTask(settings_of(folders, tmp_path, adapter=str(tmp_path / "other.safetensors")))


def test_a_resampler_of_another_size_may_be_trained_further(folders, tmp_path):
    """What the settings say of a new resampler does not matter where one is given."""
    other = replace(CONFIG, resampler=replace(CONFIG.resampler, depth=1, queries=8))
    save_adapter(random_adapter(other), tmp_path / "other.safetensors", torch.float32)
    task = MSTask(settings_of(folders, tmp_path, adapter=str(tmp_path / "other.safetensors")))
    assert task.model.adapter.config == other


def test_other_stages_still_train(capsys, tmp_path):
    (tmp_path / "x.yaml").write_text("stage: 7\n")
    assert main(["pretrain", str(tmp_path / "x.yaml")]) == 2
    assert "`stage: 1` or `stage: 2` or `stage: ms-diffusion`" in capsys.readouterr().err
