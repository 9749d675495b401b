"""Folders of images: layouts, broken files, colours, and crops that are pure functions."""

import logging
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from convswap.data import FolderImages, load_data
from convswap.data.decode import open_image
from convswap.data.folder import random_crop
from convswap.data.split import stratified_split
from convswap.errors import DataError


def save_image(path, seed=0, size=(40, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def unsplit(tmp_path):
    """Three classes of ten, without split folders."""
    for label, name in enumerate(("ant", "bee", "cow")):
        for index in range(10):
            save_image(tmp_path / "set" / name / f"{index}.jpg", seed=10 * label + index)
    return tmp_path / "set"


def split_folder(unsplit, test_name="val"):
    root = unsplit.parent / "split"
    for folder in unsplit.iterdir():
        for index, file in enumerate(sorted(folder.iterdir())):
            target = root / ("train" if index < 8 else test_name) / folder.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return root


def files(images):
    return [str(path) for path in images.paths]


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_with_split_folders(unsplit, test_name):
    root = split_folder(unsplit, test_name)
    data = load_data(f"imagefolder:{root}", image_size=16)
    assert (len(data.train), len(data.test), data.num_classes, data.channels) == (24, 6, 3, 3)
    assert data.class_names == ("ant", "bee", "cow")
    assert data.image_size == (16, 16)
    assert all(f"/{test_name}/" in file for file in files(data.test))
    assert data.test.labels == [0, 0, 1, 1, 2, 2]
    assert data.flip
    assert data.train.train
    assert not data.test.train


def test_without_split_folders(unsplit):
    data, again = (load_data(f"imagefolder:{unsplit}", image_size=16) for _ in range(2))
    assert (len(data.train), len(data.test)) == (24, 6)
    assert sorted(data.test.labels) == [0, 0, 1, 1, 2, 2]
    assert not set(files(data.train)) & set(files(data.test))
    assert files(data.train) == files(again.train)
    moved = shutil.move(unsplit, unsplit.parent / "moved")
    assert load_data(f"imagefolder:{moved}", image_size=16).fingerprint == data.fingerprint


def test_default_size_is_224(unsplit):
    data = load_data(f"imagefolder:{unsplit}")
    for images in (data.train, data.test):
        image, label = images[0]
        assert image.shape == (3, 224, 224)
        assert image.dtype == torch.uint8
        assert label == 0


def test_fingerprint_follows_the_order(unsplit):
    """A name that does not change the order of the images does not count; here it changes the split, too."""
    before = load_data(f"imagefolder:{unsplit}").fingerprint
    (unsplit / "ant" / "0.jpg").rename(unsplit / "ant" / "zero.jpg")
    assert load_data(f"imagefolder:{unsplit}").fingerprint != before


def test_other_files_are_ignored_and_folders_nest(unsplit):
    before = load_data(f"imagefolder:{unsplit}")
    for name in ("notes.txt", "Thumbs.db", "._0.jpg"):
        (unsplit / "ant" / name).write_text("no image")
    (unsplit / ".hidden").mkdir()
    assert load_data(f"imagefolder:{unsplit}").fingerprint == before.fingerprint
    save_image(unsplit / "ant" / "more" / "deep" / "image.PNG")
    data = load_data(f"imagefolder:{unsplit}")
    assert len(data.train) + len(data.test) == 31


def break_files(root, number=1):
    """Truncate some images of class ant; return their names."""
    broken = sorted((root / "ant").glob("*.jpg"))[:number]
    for file in broken:
        file.write_bytes(file.read_bytes()[:700])
    return broken


def test_truncated_images_are_refused_by_name(unsplit):
    broken = break_files(unsplit, 4)
    with pytest.raises(DataError, match=r"4 of 30 images under .*truncated.*--skip-unreadable") as caught:
        load_data(f"imagefolder:{unsplit}")
    message = str(caught.value)
    assert all(f"ant/{file.name}" in message for file in broken[:3])
    assert f"ant/{broken[3].name}" not in message  # the first few only
    assert "\n" not in message


def test_unreadable_images_are_left_out_on_request(unsplit, caplog):
    break_files(unsplit)
    (unsplit / "bee" / "0.jpg").write_text("this is no image")
    (unsplit / "bee" / "1.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="convswap"):
        data = load_data(f"imagefolder:{unsplit}", skip_unreadable=True)
    assert "3 of 30 images" in caplog.text
    assert "bee/0.jpg (not an image)" in caplog.text
    assert len(data.train) + len(data.test) == 27


@pytest.mark.parametrize("skipped", ["train", "val"])
def test_nothing_left_after_skipping(unsplit, skipped):
    root = split_folder(unsplit)
    for file in (root / skipped).glob("*/*.jpg" if skipped == "val" else "ant/*.jpg"):
        file.write_bytes(b"")
    expected = "no readable test image" if skipped == "val" else "no readable training image of class 'ant'"
    with pytest.raises(DataError, match=expected):
        load_data(f"imagefolder:{root}", skip_unreadable=True)


def test_bad_layouts(tmp_path, unsplit):
    def said(path, message):
        with pytest.raises(DataError, match=message) as caught:
            load_data(f"imagefolder:{path}")
        assert "\n" not in str(caught.value)

    said(tmp_path / "absent", "no such folder")
    said(unsplit / "ant" / "0.jpg", "a file, not a folder")
    said(unsplit / "ant", "no class folders; its 10 images have no label; lay it out as")
    (tmp_path / "one" / "class").mkdir(parents=True)
    said(tmp_path / "one", "only one class folder, 'class'")
    (unsplit / "empty").mkdir()
    said(unsplit, "class folder .*empty holds no image")
    save_image(unsplit / "empty" / "single.png")
    said(unsplit, "class 'empty' has 1 image")
    shutil.rmtree(unsplit / "empty")
    root = split_folder(unsplit)
    save_image(root / "val" / "dog" / "0.png")
    said(root, "has the class 'dog', which .*train lacks; add it there, or remove it here")
    shutil.rmtree(root / "val" / "dog")
    (root / "val" / "ant").rename(root / "val" / "Ant")
    said(root, "has the class 'Ant', which .*train lacks; did you mean 'ant'")
    shutil.rmtree(root / "val")
    said(root, "has a train folder but no val or test")


def test_a_class_may_be_named_train_inside_parts(unsplit):
    (unsplit / "cow").rename(unsplit / "train")
    with pytest.raises(DataError, match=r"train may be a part or a class: 'ant' lies beside it.*/train/train"):
        load_data(f"imagefolder:{unsplit}")
    root = split_folder(unsplit)
    assert load_data(f"imagefolder:{root}").class_names == ("ant", "bee", "train")


COLOURS = {
    "palette.png": lambda rgb: rgb.quantize(8),
    "gray.png": lambda rgb: rgb.convert("L"),
    "gray_alpha.png": lambda rgb: rgb.convert("LA"),
    "alpha.png": lambda rgb: rgb.convert("RGBA"),
    "one_bit.png": lambda rgb: rgb.convert("1"),
    "cmyk.jpg": lambda rgb: rgb.convert("CMYK"),
    "anim.gif": lambda rgb: rgb.quantize(8),
}


@pytest.mark.parametrize("file", COLOURS)
def test_colours_become_rgb(tmp_path, file):
    rgb = Image.new("RGB", (9, 7), (255, 255, 255))
    COLOURS[file](rgb).save(tmp_path / file)
    image = open_image(tmp_path / file)
    assert (image.mode, image.size) == ("RGB", (9, 7))
    assert np.asarray(image).min() >= 254


def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 0x40FF, 0xFFFF]], dtype=np.uint16)).save(tmp_path / "wide.png")
    assert np.asarray(open_image(tmp_path / "wide.png"))[0, :, 0].tolist() == [0, 0x40, 255]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    save_image(tmp_path / "turned.jpg", size=(40, 30), exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (30, 40)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**62), st.integers(0, 999), st.integers(0, 10**7))
def test_random_crop_is_inside_and_pure(height, width, seed, epoch, index):
    top, left, crop_height, crop_width = crop = random_crop(height, width, seed, epoch, index)
    assert 0 <= top <= top + crop_height <= height
    assert 0 <= left <= left + crop_width <= width
    assert min(crop_height, crop_width) >= 1
    assert random_crop(height, width, seed, epoch, index) == crop


def test_random_crop_covers_and_varies():
    crops = [random_crop(240, 240, 0, 0, index) for index in range(2000)]
    area = np.array([height * width / 57_600 for _, _, height, width in crops])
    ratio = np.array([width / height for _, _, height, width in crops])
    assert 0.07 < area.min() < 0.1
    assert 0.9 < area.max() <= 1.0
    assert 0.74 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.35
    for other in (random_crop(240, 240, 1, 0, 0), random_crop(240, 240, 0, 1, 0)):
        assert other != crops[0]
    assert len(set(crops)) > 1990


def stack(images, workers=0, persistent=False):
    loader = DataLoader(images, batch_size=5, num_workers=workers, persistent_workers=persistent)
    return loader, torch.cat([batch for batch, _ in loader])


def test_crops_depend_on_seed_epoch_and_index_alone(unsplit):
    train = load_data(f"imagefolder:{unsplit}", image_size=16).train
    train.set_epoch(seed=3, epoch=1)
    _, first = stack(train)
    assert torch.equal(torch.stack([train[index][0] for index in reversed(range(len(train)))]).flip(0), first)
    train.set_epoch(seed=3, epoch=2)
    loader, second = stack(train, workers=2, persistent=True)
    assert not torch.equal(first, second)
    train.set_epoch(seed=3, epoch=1)  # workers that stay alive see the change
    assert torch.equal(torch.cat([batch for batch, _ in loader]), first)
    train.set_epoch(seed=4, epoch=1)
    assert not torch.equal(stack(train)[1], first)
    assert torch.equal(pickle.loads(pickle.dumps(train))[0][0], train[0][0])


def test_test_images_do_not_depend_on_the_epoch(unsplit):
    test = load_data(f"imagefolder:{unsplit}", image_size=16).test
    _, first = stack(test)
    test.set_epoch(seed=9, epoch=9)
    assert torch.equal(stack(test)[1], first)


def test_centre_of_a_test_image(tmp_path):
    pixels = np.zeros((256, 512, 3), dtype=np.uint8)
    pixels[16:240, 144:368] = 255  # exactly the central 224x224
    Image.fromarray(pixels).save(tmp_path / "square.png")
    images = FolderImages([tmp_path / "square.png"], [0], 224, train=False)
    assert (images[0][0] == 255).all()
    assert torch.equal(images[-1][0], images[0][0])
    with pytest.raises(IndexError):
        images[1]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6))
def test_stratified_split(sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    keys = [f"key {index}" for index in range(len(labels))]
    train, test = stratified_split(labels, keys, [str(label) for label in range(len(sizes))])
    assert sorted(train + test) == list(range(len(labels)))
    for label, size in enumerate(sizes):
        assert sum(labels[index] == label for index in test) == max(1, round(size / 5))


def test_hymenoptera(shared):
    folder = shared / "data" / "hymenoptera"
    if not folder.is_dir():
        pytest.skip("no hymenoptera folder in ../shared/data")
    data = load_data(f"imagefolder:{folder}", image_size=64)
    assert len(data.train) + len(data.test) == 397
    assert data.class_names == ("ants", "bees")
    images, labels = next(iter(DataLoader(data.train, batch_size=32, shuffle=True)))
    assert images.shape == (32, 3, 64, 64)
    assert 20 < images.float().std() < 110
    assert set(labels.tolist()) == {0, 1}


def test_a_file_rewritten_in_place_changes_the_fingerprint(unsplit):
    before = load_data(f"imagefolder:{unsplit}").fingerprint
    assert load_data(f"imagefolder:{unsplit}").fingerprint == before
    save_image(unsplit / "ant" / "0.jpg", seed=99, size=(50, 44))
    assert load_data(f"imagefolder:{unsplit}").fingerprint != before


def test_a_file_that_changes_parts_changes_the_fingerprint(unsplit):
    root = split_folder(unsplit)
    before = load_data(f"imagefolder:{root}", image_size=16).fingerprint
    (root / "train" / "ant" / "0.jpg").rename(root / "val" / "ant" / "0.jpg")
    assert load_data(f"imagefolder:{root}", image_size=16).fingerprint != before


def test_labels_are_those_of_the_training_classes_where_the_test_part_lacks_one(unsplit):
    root = split_folder(unsplit)
    shutil.rmtree(root / "val" / "bee")
    data = load_data(f"imagefolder:{root}", image_size=16)
    assert data.class_names == ("ant", "bee", "cow")
    assert data.test.labels == [0, 0, 2, 2]
    assert [data.class_names[label] for label in data.test.labels] == [path.parent.name for path in data.test.paths]


def test_the_test_folder_comes_before_val(unsplit):
    root = split_folder(unsplit)
    shutil.copytree(root / "val", root / "test")
    data = load_data(f"imagefolder:{root}", image_size=16)
    assert {path.parent.parent.name for path in data.test.paths} == {"test"}
    assert {path.parent.parent.name for path in data.train.paths} == {"train"}


def test_crops_have_the_aspect_and_reach_that_are_promised():
    """Of a wide image: width over height from 3/4 to 4/3 (and as often above 1 as below), every edge is reached."""
    height, width = 60, 120
    crops = [random_crop(height, width, 0, 0, index) for index in range(4000)]
    ratios = np.array([w / h for _, _, h, w in crops if w * h > 400])
    assert 0.7 < ratios.min() < 0.8
    assert 1.28 < ratios.max() < 1.4
    assert any(top == 0 for top, *_ in crops)
    assert any(top + h == height and h < height // 2 for top, _, h, _ in crops)
    assert any(left + w == width and w < width // 2 for _, left, _, w in crops)
    tall = [random_crop(300, 40, 0, 0, index) for index in range(300)]
    assert np.mean([w / h for _, _, h, w in tall]) < 1.1


def test_the_split_follows_the_keys_whatever_their_order():
    keys = [f"image {index}.jpg" for index in range(20)]
    order = list(np.random.default_rng(0).permutation(20))
    _, test = stratified_split([0] * 20, keys, ["a"])
    _, other = stratified_split([0] * 20, [keys[index] for index in order], ["a"])
    assert {keys[index] for index in test} == {keys[order[index]] for index in other}
    assert stratified_split([0, 0, 1, 1], list("abcd"), ["a", "b"])[1] != []
