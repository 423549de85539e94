"""One rule for pictures and texts from disk, whoever reads them; what is dropped is said."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from synthesis_fixtures import png_header
from tiny_model import write_tiny_checkpoint

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.finetuning import command, plain
from blipdiff_impl.blip_diffusion.finetuning.pictures import prepare, square_opacity, squares
from blipdiff_impl.blip_diffusion.synthesis.sharding.photos import read_photo
from blipdiff_impl.blip_diffusion.synthesis.sharding.rejects import Rejected
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.files import (
    UnreadablePicture,
    as_tensor,
    decode_text,
    picture_paths,
    read_cutout,
    read_mask,
    read_picture,
)
from blipdiff_impl.training.samples import BrokenSample
from blipdiff_impl.training.shards import Shards

HALF = 1 << 15


def raw_png(width, height, depth, kind, rows, *chunks):
    """A PNG from its scan lines, for what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    more = b"".join(chunk(name, data) for name, data in chunks)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + more + body + chunk(b"IEND", b"")


def file_of(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def hidden_red(mode="RGBA"):
    """Left half red and seen, right half green and fully transparent."""
    picture = Image.new("RGBA", (64, 64), (200, 0, 0, 255))
    picture.paste((0, 200, 0, 0), (32, 0, 64, 64))
    return picture.convert(mode)


def palette_with_transparency():
    picture = Image.new("P", (64, 64), 0)
    picture.putpalette([200, 0, 0, 0, 200, 0])
    picture.paste(1, (32, 0, 64, 64))
    return file_of(picture, transparency=1)


def turned():
    """A picture 64x32 whose EXIF says that it stands upright as 32x64, red at the top."""
    picture = Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(picture, "JPEG", exif=exif, quality=95)


GREY16 = raw_png(64, 64, 16, 0, [struct.pack(">64H", *[HALF] * 64)] * 64)
PICTURES = {
    "16-bit grey": (GREY16, (128, 128, 128)),
    "16-bit RGB": (raw_png(64, 64, 16, 2, [struct.pack(">192H", *[HALF] * 192)] * 64), (128, 128, 128)),
    "16-bit grey and alpha": (raw_png(64, 64, 16, 4, [struct.pack(">128H", *[HALF, 65535] * 64)] * 64), (128,) * 3),
    "16-bit TIFF": (file_of(Image.fromarray(np.full((64, 64), HALF, np.uint16)), "TIFF"), (128, 128, 128)),
    "grey": (file_of(Image.new("L", (64, 64), 77)), (77, 77, 77)),
    "bits": (file_of(Image.new("1", (64, 64), 1)), (255, 255, 255)),
    "CMYK": (file_of(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    "palette": (palette_with_transparency(), (200, 0, 0)),
    "RGBA": (file_of(hidden_red()), (200, 0, 0)),
    "LA": (file_of(Image.new("LA", (64, 64), (50, 255))), (50, 50, 50)),
    "GIF": (file_of(Image.new("RGB", (64, 64), (200, 0, 0)), "GIF"), (200, 0, 0)),
    "animated GIF": (
        file_of(Image.new("RGB", (64, 64), (200, 0, 0)), "GIF", save_all=True,
                append_images=[Image.new("RGB", (64, 64), (0, 0, 200))]), (200, 0, 0)),
    "animated WebP": (
        file_of(Image.new("RGB", (64, 64), (200, 0, 0)), "WEBP", save_all=True, lossless=True,
                append_images=[Image.new("RGB", (64, 64), (0, 0, 200))]), (200, 0, 0)),
    "BMP": (file_of(Image.new("RGB", (64, 64), (200, 0, 0)), "BMP"), (200, 0, 0)),
}  # fmt: skip


def from_finetune(folder, data):
    (folder / "a.png").write_bytes(data)
    (photo,) = command._read_folder(folder).values()
    return squares(photo, 64)[0]


def from_shard(folder, data):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in (("a.png", data), ("a.txt", b"a dog")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return torch.from_numpy(np.array(Shards((str(folder / "a.tar"),))[0].picture)) / 255


def from_synthesis(folder, data):
    (folder / "a.png").write_bytes(data)
    return as_tensor(read_photo(folder / "a.png", 64, 8))


def from_evaluation(folder, data):
    (folder / "a.png").write_bytes(data)
    return as_tensor(read_picture(folder / "a.png"))


READERS = (from_finetune, from_shard, from_synthesis, from_evaluation)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", PICTURES)
def test_every_reader_sees_the_same_colours(tmp_path, reader, kind):
    data, colour = PICTURES[kind]
    seen = reader(tmp_path, data)
    assert (seen[:, :24] * 255 - torch.tensor(colour)).abs().max() <= 1.5


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_turns_a_photo_upright(tmp_path, reader):
    seen = reader(tmp_path, turned())
    assert seen.shape[0] >= seen.shape[1]
    assert seen[2, :, 0].mean() > 0.8 and seen[-3, :, 2].mean() > 0.8  # red above blue


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("data", [palette_with_transparency(), file_of(hidden_red()), file_of(hidden_red(), "WEBP")])
def test_no_reader_shows_what_is_hidden(tmp_path, reader, data):
    seen = reader(tmp_path, data)
    green = seen[..., 1] - torch.maximum(seen[..., 0], seen[..., 2])
    assert green.max() < 0.1
    assert seen[:, 40:].min() > 0.35  # and it is not black


def text_bomb():
    """A PNG whose text is 64 MB large when it is unpacked."""
    information = PngImagePlugin.PngInfo()
    information.add_text("prompt", "x" * (1 << 26), zip=True)
    return file_of(Image.new("RGB", (64, 64)), pnginfo=information)


BAD = {
    "no picture": b"no picture",
    "empty": b"",
    "cut off": file_of(Image.effect_noise((64, 64), 50).convert("RGB"))[:900],
    "cut off GIF": file_of(Image.effect_noise((64, 64), 50), "GIF")[:300],
    "a bomb": png_header(30_000, 30_000),
    "nearly a bomb": png_header(12_000, 12_000),
    "a large text": text_bomb(),
    "32-bit floats": file_of(Image.fromarray(np.zeros((64, 64), np.float32)), "TIFF"),
    "32-bit numbers": file_of(Image.fromarray(np.full((64, 64), 1 << 20, np.int32)), "TIFF"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_ends_in_a_sentence(tmp_path, reader, kind):
    with pytest.raises((SubjectError, Rejected), match="a.png cannot be read as a picture") as refused:
        reader(tmp_path, BAD[kind])
    assert len(str(refused.value)) < 500 and "object at 0x" not in str(refused.value)


def test_damaged_pictures_never_end_in_anything_else(tmp_path):
    rng = np.random.default_rng(5)
    noise = Image.effect_noise((24, 24), 90)
    kinds = [("PNG", {}), ("GIF", {}), ("JPEG", {}), ("WEBP", {}), ("TIFF", {}), ("BMP", {}),
             ("TIFF", {"compression": "tiff_lzw"})]  # fmt: skip
    for kind, options in kinds:
        whole = file_of(noise.convert("RGB"), kind, **options)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            try:
                assert read_picture(io.BytesIO(bytes(data)), "damaged").mode == "RGB"
            except UnreadablePicture as refused:
                assert str(refused).startswith("damaged cannot be read")


def test_exif_that_is_garbage_turns_nothing(tmp_path):
    data = file_of(Image.new("RGB", (64, 32), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_picture(io.BytesIO(data), "a").size == (64, 32)


def test_in_a_mask_transparent_is_black():
    mask = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 4, 8))
    read = np.asarray(read_mask(io.BytesIO(file_of(mask)), "mask"))
    assert (read[:, :4] == 255).all() and (read[:, 4:] == 0).all()
    assert read_mask(io.BytesIO(GREY16), "mask").getextrema() == (128, 128)


def test_a_cut_out_keeps_its_alpha_and_a_whole_picture_has_none():
    assert read_cutout(io.BytesIO(file_of(hidden_red())), "a").mode == "RGBA"
    assert read_cutout(io.BytesIO(file_of(Image.new("RGBA", (8, 8), "red"))), "a").mode == "RGB"


# --- fine-tuning


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "tiny.safetensors"
    write_tiny_checkpoint(path, seed=3)
    return path


@pytest.fixture
def tune(checkpoint, tmp_path, capsys):
    (tmp_path / "photos").mkdir()

    def run(*arguments, out="dog.safetensors"):
        given = ["finetune", "--images", tmp_path / "photos", "--category", "dog", "--out", tmp_path / out]
        given += ["--checkpoint", checkpoint, "--steps", 1, *arguments]
        return main(list(map(str, given))), capsys.readouterr().err

    return run


def test_of_a_cut_out_only_the_subject_is_learned():
    """Alpha is the mask: whatever the background counts, where nothing is shown nothing is learned."""
    photos = torch.rand(2, 64, 64, 4)
    photos[..., 3] = 1
    photos[1, :, 32:, 3] = 0
    opaque = square_opacity(photos, 64)
    pictures = prepare(squares(photos, 64), lambda pixels: torch.zeros(len(pixels), 4, 8, 8), opaque=opaque)
    assert (pictures.weights[0] == 1).all()
    assert (pictures.weights[1, 0, :, :4] == 1).all() and (pictures.weights[1, 0, :, 4:] == 0).all()
    assert square_opacity(photos[..., :3], 64) is None
    ground = squares(photos, 64)[1, :, 40:]
    assert (ground.std((0, 1)) < 1e-6).all() and 0.35 < ground.min() < ground.max() < 0.55  # the encoder's grey


def test_a_transparent_photo_is_tuned_on_by_its_alpha(tune, tmp_path, monkeypatch):
    weights = []
    original = plain.tune
    monkeypatch.setattr(plain, "tune", lambda *a, **o: (weights.append(a[2].weights), original(*a, **o))[1])
    hidden_red().save(tmp_path / "photos" / "a.png")
    assert tune()[0] == 0
    (found,) = weights
    assert found.min() == 0 and found.max() == 1


def test_photos_of_one_stem_are_all_used(tune, tmp_path, monkeypatch):
    counts = []
    original = plain.tune
    monkeypatch.setattr(plain, "tune", lambda *a, **o: (counts.append(len(a[2])), original(*a, **o))[1])
    for name, colour in (("dog.jpg", "red"), ("dog.png", "blue"), ("cat.png", "white")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "photos" / name)
    assert tune()[0] == 0 and counts == [3]
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("dog.png", "cat.webp"):
        Image.new("L", (64, 64), 255).save(masks / name)
    status, said = tune("--masks", masks, out="b.safetensors")
    assert status == 2 and "no mask" in said and "dog.jpg.png" in said
    Image.new("L", (64, 64), 255).save(masks / "dog.jpg.png")
    assert tune("--masks", masks, out="b.safetensors")[0] == 0


def test_a_bad_photo_is_named_before_the_model_is_loaded(tune, tmp_path):
    hidden = Image.new("RGBA", (64, 64), (9, 9, 9, 0))
    for name, save in (
        ("clear.png", hidden.save),
        ("huge.png", lambda path: path.write_bytes(png_header(30_000, 30_000))),
        ("tiny.png", Image.new("RGB", (8, 8)).save),
        ("long.png", Image.new("1", (9000, 20)).save),
    ):
        path = tmp_path / "photos" / name
        save(path)
        status, said = tune("--checkpoint", tmp_path / "nowhere.safetensors")
        assert status == 2 and str(path) in said and "Traceback" not in said and len(said.splitlines()) == 1, said
        path.unlink()


# --- folders and texts


def test_what_a_folder_holds_beside_pictures_is_said_once(tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("._a.png", "notes.txt", "b.heic", "c.psd", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for _ in range(2):
        assert [path.name for path in picture_paths(tmp_path)] == ["a.png"]
    (said,) = caplog.messages
    assert "._a.png, b.heic, c.psd and 1 more, no picture files" in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_captions_in_every_encoding_that_editors_save(tmp_path, encoding):
    text = "a café’s dog – on the grass"
    assert decode_text(text.encode(encoding)) == text
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("a.png", GREY16), ("a.txt", text.encode(encoding))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert Shards((str(tmp_path / "a.tar"),))[0].captions == (text,)


@pytest.mark.parametrize("members, sentence", [
    ([("a.png", GREY16), ("a.png", GREY16), ("a.txt", b"a")], "a.png is there twice"),
    ([("a.png", GREY16), ("a.PNG", GREY16), ("a.txt", b"a")], "a.png is there twice"),
    ([("a.png", GREY16), ("a.txt", b"a"), ("a.txt", b"b")], "a.txt is there twice"),
    ([("a.png", GREY16), ("a.jpg", GREY16), ("a.txt", b"a")], "png and jpg, and nothing says which"),
    ([("a.png", GREY16), ("a.txt", b"\xff\xfe\x00")], "a.txt is no text"),
    ([("a.png", GREY16), ("a.json", b"[" * 100_000)], "a.json is not JSON"),
])  # fmt: skip
def test_a_sample_of_which_nobody_knows_what_is_meant_is_named(tmp_path, members, sentence):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(BrokenSample, match=sentence):
        Shards((str(tmp_path / "a.tar"),))[0]
