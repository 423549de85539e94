"""Subject Matte in the real host: from a mask and from a category, batches, what is refused, and what goes on into the
encoder. CLIPSeg has random weights, so what it finds means nothing and is only compared with the method itself."""

import pytest
import torch
from test_matting_clipseg import write_tiny_clipseg

NONE = "(none: connect a mask)"


@pytest.fixture
def pack(comfy):
    def module(name):
        return comfy.module(name)

    return module


@pytest.fixture
def cut(comfy):
    """SubjectMatte as a function: IMAGE, MASK, TRIMAP."""

    def run(images, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectMatte").execute(images, **inputs).result

    return run


@pytest.fixture
def root(comfy, monkeypatch, tmp_path):
    """An empty folder in place of models/clipseg."""
    monkeypatch.setitem(comfy.folder_paths.folder_names_and_paths, "clipseg", ([str(tmp_path)], set()))
    return tmp_path


@pytest.fixture
def segmenter(root):
    write_tiny_clipseg(root / "tiny")
    return "tiny"


def photos(count=1, side=48):
    """Red squares on green, each a little further right."""
    batch = torch.tensor([0.1, 0.6, 0.2]).expand(count, side, side, 3).clone()
    for index in range(count):
        batch[index, 12:36, 10 + index : 34 + index] = torch.tensor([0.9, 0.1, 0.1])
    generator = torch.Generator().manual_seed(0)
    return (batch + 0.01 * torch.randn(batch.shape, generator=generator)).clamp(0, 1)


def rough(count=1, side=48):
    mask = torch.zeros(count, side, side)
    mask[:, 14:34, 12:32] = 1
    return mask


def test_a_rough_mask_becomes_an_exact_one(cut):
    image, alpha, trimap = cut(photos(), masks=rough(), edge_width=0.1)
    truth = torch.zeros(48, 48)
    truth[12:36, 10:34] = 1
    assert image.shape == (1, 48, 48, 3) and alpha.shape == trimap.shape == (1, 48, 48)
    assert set(trimap.unique().tolist()) == {0, 0.5, 1}
    assert (rough()[0] - truth).abs().mean() > 0.05 > 0.01 > (alpha[0] - truth).abs().mean()
    assert all(part.dtype == torch.float32 and 0 <= part.min() <= part.max() <= 1 for part in (image, alpha, trimap))


def test_the_default_ground_is_the_encoders(cut, pack):
    neutral = torch.tensor(pack("blipdiff_impl.pictures.preprocess").CLIP_MEAN)
    image, alpha, _ = cut(photos(), masks=rough(), edge_width=0.1)
    torch.testing.assert_close(image[0, 0, 0], neutral)
    image, alpha, _ = cut(photos(), masks=rough(), edge_width=0.1, ground="white")
    assert image[0, 0, 0].tolist() == [1, 1, 1]


def test_one_mask_serves_all_photos_and_each_is_cut_out_by_itself(cut):
    together = cut(photos(3), masks=rough(), edge_width=0.15)
    for index in range(3):
        alone = cut(photos(3)[index : index + 1], masks=rough(), edge_width=0.15)
        for part, single in zip(together, alone, strict=True):
            assert torch.equal(part[index : index + 1], single)
    several = cut(photos(3), masks=rough(3), edge_width=0.15)
    assert all(torch.equal(one, other) for one, other in zip(together, several, strict=True))


def test_grey_and_transparent_pictures(cut):
    grey = photos().mean(-1, keepdim=True)
    expanded = cut(grey.expand(-1, -1, -1, 3), masks=rough())
    assert all(torch.equal(a, b) for a, b in zip(cut(grey, masks=rough()), expanded, strict=True))
    with_alpha = torch.cat([photos(), torch.rand(1, 48, 48, 1)], -1)
    opaque = cut(photos(), masks=rough())
    assert all(torch.equal(a, b) for a, b in zip(cut(with_alpha, masks=rough()), opaque, strict=True))


def test_the_category_goes_through_clipseg(cut, pack, segmenter, root):
    clipseg, trimap = pack("blipdiff_impl.pictures.matting.clipseg"), pack("blipdiff_impl.pictures.matting.trimap")
    network = clipseg.load_clipseg(root / segmenter)
    expected = [
        trimap.trimap_from_confidence(clipseg.confidence(network, photo, "dog"), 0.7, 0.3) for photo in photos(2)
    ]
    _, alpha, found = cut(
        photos(2), category="dog", segmenter=segmenter, foreground_threshold=0.7, background_threshold=0.3
    )
    # The host may compute on another device or in another order: a pixel at the threshold may change sides.
    assert (found != torch.stack(expected)).float().mean() < 0.01
    assert alpha.shape == (2, 48, 48)


def test_a_mask_takes_clipsegs_place(cut, segmenter):
    with_both = cut(photos(), category="dog", segmenter=segmenter, masks=rough())
    assert all(torch.equal(a, b) for a, b in zip(with_both, cut(photos(), masks=rough()), strict=True))


def test_folders_with_weights_are_offered(comfy, root, segmenter):
    (root / "notes").mkdir()
    (root / "file.safetensors").touch()
    options = next(i for i in comfy.node("SubjectMatte").define_schema().inputs if i.id == "segmenter").options
    assert options == ["tiny", NONE]
    assert comfy.node("SubjectMatte").validate_inputs(segmenter="elsewhere")  # judged only where it is needed


def test_the_folder_is_registered_beside_the_users(comfy, pack, monkeypatch, tmp_path):
    monkeypatch.setitem(comfy.folder_paths.folder_names_and_paths, "clipseg", ([str(tmp_path)], set()))
    pack("nodes.host.folders").register()
    folders = comfy.folder_paths.get_folder_paths("clipseg")
    assert folders[0] == str(tmp_path) and folders[1].endswith("clipseg") and len(folders) == 2


@pytest.mark.parametrize("name", [NONE, "elsewhere", "..", "../tiny", ""])
def test_without_clipseg_and_mask_a_sentence_says_what_to_put_where(cut, root, name):
    write_tiny_clipseg(root.parent / "tiny")
    with pytest.raises(ValueError, match=f"No mask is connected.*config.json and model.safetensors.*{root}"):
        cut(photos(), category="dog", segmenter=name)


def test_an_empty_category(cut, segmenter):
    with pytest.raises(ValueError, match="category is empty"):
        cut(photos(), segmenter=segmenter)


def test_the_number_of_the_bad_photo_is_told(cut):
    masks = rough(3)
    masks[1] = 0.3  # selects something, but nothing surely
    with pytest.raises(ValueError, match="^Photo 2 of 3: No foreground was found"):
        cut(photos(3), masks=masks)
    masks[1] = 1
    with pytest.raises(ValueError, match="^Photo 2 of 3: The rough mask covers the whole picture"):
        cut(photos(3), masks=masks)


def nan_photo():
    bad = photos(2)
    bad[1, 5, 5] = float("nan")
    return bad


@pytest.mark.parametrize(
    "images, masks, sentence",
    [
        (torch.rand(0, 32, 32, 3), rough(1, 32), "0 photos"),
        (torch.rand(1, 8, 8, 3), torch.ones(1, 8, 8), "8x8 pixels, too small"),
        (torch.zeros(1, 16, 9000, 3), torch.ones(1, 16, 9000), "9000x16 pixels"),
        (nan_photo(), rough(2), "^Photo 2 of 2: .*NaN"),
        (photos().expand(65, -1, -1, -1), rough(), "65 photos"),
        (photos().to(torch.uint8), rough(), "uint8"),
        (photos()[0], rough(), "should be a batch"),
        (photos() * 255, rough(), "expected 0..1"),
        (photos(), torch.zeros(1, 64, 64), "mask is 64x64 pixels but the photo is 48x48"),
        (photos(), torch.zeros(1, 48, 48), "selects nothing"),
        (photos(3), rough(2), "2 masks for 3 photos"),
        (photos(), rough().long(), "masks should be floats"),
        (photos(), rough() * float("nan"), "NaN"),
    ],
)
def test_what_is_refused(cut, images, masks, sentence):
    with pytest.raises(ValueError, match=sentence):
        cut(images, masks=masks)


def test_thresholds_in_the_wrong_order(cut, segmenter):
    with pytest.raises(ValueError, match="foreground_threshold is 0.2"):
        cut(photos(), category="dog", segmenter=segmenter, foreground_threshold=0.2, background_threshold=0.4)


def test_cancelling_stops_between_photos_and_the_next_run_works(comfy, cut):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        cut(photos(2), masks=rough())
    assert cut(photos(), masks=rough())[0].shape == (1, 48, 48, 3)


def test_the_inputs_are_left_as_they_were(cut):
    images, masks = photos(), rough()
    cut(images, masks=masks)
    assert torch.equal(images, photos()) and torch.equal(masks, rough())


def test_the_cut_out_goes_into_the_encoder(comfy, cut, pack):
    image, alpha, _ = cut(photos(), masks=rough())
    pack("blipdiff_impl.pictures.preprocess").check_photos(image)
    pack("blipdiff_impl.pictures.preprocess").check_masks(alpha, image)
    toybox = comfy.node("SubjectModelLoader").define_schema().inputs[0].default
    with torch.inference_mode():
        encoder = comfy.node("SubjectModelLoader").execute(toybox, "fp32").result[3]
        assert len(comfy.node("SubjectEncoder").execute(encoder, image, "mug", masks=alpha).result[0]) == 1
