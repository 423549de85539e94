"""Training data: the order of samples, shards and what is wrong with them, crops, captions, and the toy world."""

import json

import numpy as np
import pytest
import torch
from pretraining_fixtures import VOCABULARY, picture_bytes, sample_members, write_shard, write_shards

from blipdiff_impl.blip_diffusion.pretraining.pictures import crop_for_tower, draw_box
from blipdiff_impl.blip_diffusion.pretraining.stage1_task import CaptionPieces
from blipdiff_impl.blip_diffusion.pretraining.toy import COLOURS, ToyWorld, colour_word, looks, toy_vocabulary
from blipdiff_impl.toy_world.world import BACKGROUNDS, captions, subject_from_seed, vocabulary
from blipdiff_impl.training.loading import TOGETHER, Order, Positions
from blipdiff_impl.training.samples import BrokenSample
from blipdiff_impl.training.shards import Shards
from blipdiff_impl.training.targets import mask_cells, target_square


def test_every_sample_comes_once_an_epoch_in_another_order_each_time():
    order = Order([3, 40, 1, *[5] * 20], seed=1)
    epochs = [[order[epoch * order.count + i] for i in range(order.count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(144)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [Order([3, 40, 1, *[5] * 20], seed=2)[i] for i in range(144)]


def test_a_position_means_the_same_wherever_reading_begins():
    straight = Order([4, 9, 2], seed=7)
    expected = [straight[i] for i in range(100)]
    assert [Order([4, 9, 2], seed=7)[i] for i in reversed(range(100))] == expected[::-1]


def test_few_shards_are_read_at_a_time():
    order = Order([10] * 50, seed=3)
    shards = [order[i] // 10 for i in range(10 * TOGETHER)]
    assert len(set(shards)) == TOGETHER and shards != sorted(shards)


def test_shards_give_back_what_was_put_in(tmp_path):
    shards = Shards((write_shards(tmp_path, (3, 2)),))
    assert shards.groups == [3, 2] and len(shards) == 5
    for index in range(5):
        members, sample = sample_members(index), shards[index]
        about = json.loads(members["json"])
        assert sample.key == f"shard{int(index > 2)}.tar:{index:04d}"
        assert (list(sample.captions), sample.category, sample.context) == (about["captions"], about["category"], "b a")
        assert sample.picture.shape == (40, 48, 3) and sample.composite.shape == (36, 36, 3)
        rng = np.random.default_rng(index)
        rng.choice(5, 1 + index % 4)
        assert (sample.picture == rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).all()


def test_a_text_file_a_mask_and_a_latent_are_taken_too(tmp_path):
    import io

    latent = io.BytesIO()
    np.save(latent, np.ones((4, 8, 8), np.float16))
    mask = io.BytesIO()
    from PIL import Image

    Image.new("L", (48, 40), 255).save(mask, format="PNG")
    members = {"jpg": picture_bytes(np.random.default_rng(0), kind="JPEG"), "txt": b" a dog\n",
               "mask.png": mask.getvalue(), "latent.npy": latent.getvalue()}  # fmt: skip
    sample = Shards((str(write_shard(tmp_path / "a.tar", {"x": members})),))[0]
    assert sample.captions == ("a dog",) and sample.composite is None and sample.category == ""
    assert sample.mask.shape == (40, 48) and sample.latent.shape == (4, 8, 8) and sample.latent.dtype == np.float32


@pytest.mark.parametrize("wrong, sentence", [
    ({"png": None}, "has no picture"),
    ({"png": b"no picture"}, "0000.png cannot be read as a picture"),
    ({"png": picture_bytes(np.random.default_rng(0))[:500]}, "0000.png cannot be read as a picture"),
    ({"json": b"{"}, "0000.json is not JSON"),
    ({"json": b"[1]"}, "should be an object"),
    ({"json": b"\xff\xfe"}, "0000.json is not JSON"),
    ({"json": b"{}"}, "has no caption"),
    ({"json": b'{"caption": ""}'}, "has no caption"),
    ({"json": b'{"captions": [3]}'}, "has no caption"),
    ({"json": b'{"captions": "dog"}'}, "has no caption"),
    ({"json": b'{"caption": "a", "category": 3}'}, "category should be text"),
    ({"mask.png": picture_bytes(np.random.default_rng(0), (9, 9))}, "mask .* and picture .* differ in size"),
    ({"latent.npy": b"\x93NUMPY"}, "latent.npy cannot be read"),
    ({"latent.npy": b""}, "latent.npy cannot be read"),
])  # fmt: skip
def test_a_broken_sample_is_named(tmp_path, wrong, sentence):
    members = {name: data for name, data in (sample_members(0) | wrong).items() if data is not None}
    shards = Shards((str(write_shard(tmp_path / "a.tar", {"0000": members})),))
    with pytest.raises(BrokenSample, match=f"a.tar:0000.*{sentence}|{sentence}"):
        shards[0]


def test_a_pickled_latent_is_not_opened(tmp_path):
    import io

    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members = sample_members(0) | {"latent.npy": file.getvalue()}
    with pytest.raises(BrokenSample, match="latent.npy"):
        Shards((str(write_shard(tmp_path / "a.tar", {"0000": members})),))[0]


@pytest.mark.parametrize("data, sentence", [(b"no tar at all" * 99, "a.tar cannot be read as a tar"), (b"", "a.tar")])
def test_a_file_that_is_no_shard_is_named(tmp_path, data, sentence):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        Shards((str(tmp_path / "a.tar"),))


def test_an_empty_shard_is_named(tmp_path):
    write_shard(tmp_path / "good.tar", {"0000": sample_members(0)})
    write_shard(tmp_path / "hollow.tar", {})
    with pytest.raises(ValueError, match="hollow.tar holds no sample"):
        Shards((str(tmp_path / "*.tar"),))


@pytest.mark.parametrize("patterns, sentence", [((), "no training data"), (("no*.tar",), "There is no shard no.*tar")])
def test_shards_that_are_not_there(tmp_path, monkeypatch, patterns, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        Shards(patterns)


class Echo:
    """Prepares a sample to its key and a draw."""

    def prepare(self, sample, rng):
        return sample.key, rng.uniform()


def test_a_broken_sample_is_left_out_and_named_once(tmp_path, caplog):
    samples = {f"{i:04d}": sample_members(i) for i in range(6)}
    samples["0002"]["png"] = b"no picture"
    source = Shards((str(write_shard(tmp_path / "a.tar", samples)),))
    positions = Positions(source, Echo(), 1)
    keys = [positions[i][0] for i in range(18)]
    assert len(keys) == 18 and not any(key.endswith("0002") for key in keys)
    assert {key[-4:] for key in keys} == {"0000", "0001", "0003", "0004", "0005"}
    told = [record for record in caplog.records if "a.tar:0002" in record.getMessage()]
    assert len(told) == 1


def test_data_without_one_good_sample_stops(tmp_path):
    source = Shards((str(write_shard(tmp_path / "a.tar", {"0000": {"png": b"", "txt": b"a"}})),))
    with pytest.raises(ValueError, match="100 samples in a row cannot be used.*a.tar:0000"):
        Positions(source, Echo(), 1)[0]


def test_draws_depend_on_seed_and_position_alone(tmp_path):
    source = Shards((write_shards(tmp_path),))
    first = [Positions(source, Echo(), 1)[i] for i in range(30)]
    positions = Positions(source, Echo(), 1)
    assert [positions[i] for i in reversed(range(30))] == first[::-1]
    draws = [draw for _, draw in first]
    assert len(set(draws)) == 30
    assert draws != [Positions(source, Echo(), 2)[i][1] for i in range(30)]


def test_captions_have_one_length_and_keep_their_end():
    pieces = CaptionPieces(VOCABULARY, 5)
    start, end = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    ids, mask = pieces("a dog")
    assert ids.tolist() == [start, VOCABULARY.index("a"), VOCABULARY.index("dog"), end, 0] and mask.tolist() == [
        1,
        1,
        1,
        1,
        0,
    ]
    ids, mask = pieces("a b dog mug a b")
    assert len(ids) == 5 and ids[-1] == end and mask.all()
    assert pieces("")[0].tolist() == [start, end, 0, 0, 0]


def test_random_crops_lie_inside_and_have_the_size_asked_for():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(500):
        left, top, right, bottom = draw_box(300, 200, 0.5, rng)
        assert 0 <= left < right <= 300 + 1e-9 and 0 <= top < bottom <= 200 + 1e-9
        shares.append((right - left) * (bottom - top) / 60_000)
    assert min(shares) < 0.55 and max(shares) > 0.9


def test_crops_can_be_mirrored_and_switched_off():
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:, :10] = 255
    plain, mirrored = (crop_for_tower(picture, 16, 1.0, flip, np.random.default_rng(0)) for flip in (0.0, 1.0))
    torch.testing.assert_close(plain.flip(-1), mirrored)
    assert plain.shape == (3, 16, 16) and plain[0, 0, 0] > plain[0, 0, -1]


def test_targets_and_masks_are_cut_alike():
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:64] = 255
    target = target_square(picture, 64)
    cells = mask_cells(picture[:, :, 0], 8)
    assert target.shape == (3, 64, 64) and float(target.min()) == -1 and float(target.max()) == 1
    assert ((target[0].unfold(0, 8, 8).unfold(1, 8, 8).mean((-1, -2)) + 1) / 2 - cells[0]).abs().max() < 0.1
    assert not mask_cells(None, 8).any()


@pytest.mark.parametrize("name", COLOURS)
def test_colours_have_their_own_names(name):
    assert colour_word(COLOURS[name]) == name


def test_toy_captions_are_made_of_known_words():
    pieces, world = set(toy_vocabulary()), ToyWorld(50, describe_look=True)
    assert toy_vocabulary()[: len(vocabulary())] == list(vocabulary())
    for index in range(20):
        for caption in world[index].captions:
            assert set(caption.split()) <= pieces


def test_the_look_is_told_in_the_first_stage_only():
    subject = subject_from_seed(3)
    said, hidden = (ToyWorld(50, describe)[3] for describe in (True, False))
    assert any(looks(subject)[0] in caption for caption in said.captions)
    phrases = {phrase for name in BACKGROUNDS for phrase in captions(name)}
    assert {caption.removeprefix(f"a {subject.category} ") for caption in hidden.captions} <= phrases
    assert hidden.category == subject.category and hidden.context in phrases
    assert (said.picture == hidden.picture).all() and said.composite.shape == (64, 64, 3)


def test_toy_pairs_are_the_same_with_and_without_the_bank_on_disk(tmp_path, monkeypatch):
    from blipdiff_impl.blip_diffusion.pretraining import toy

    stored = ToyWorld(50, describe_look=False)
    monkeypatch.setattr(toy, "CACHE", tmp_path)
    rendered = ToyWorld(50, describe_look=False)
    for index in (0, 17):
        a, b = stored[index], rendered[index]
        assert b.latent is None
        assert (a.picture == b.picture).all() and (a.composite == b.composite).all() and a.captions == b.captions
