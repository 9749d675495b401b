"""The data sets with names: embedded, found on disk, or not found."""

import gzip
import pickle
import struct
import urllib.error

import numpy as np
import pytest
import torch

from convswap.data import load_data
from convswap.data.arrays import pixel_statistics
from convswap.data.named import NAMED_SETS, data_root
from convswap.errors import DataError


def test_digits():
    data = load_data("digits", image_size=8)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert (data.num_classes, data.channels, data.image_size, data.flip) == (10, 1, (8, 8), False)
    assert data.train.images.max() == 255
    assert data.train.images.min() == 0
    share = torch.bincount(data.test.labels) / (torch.bincount(data.test.labels) + torch.bincount(data.train.labels))
    assert ((share - 0.2).abs() < 0.01).all()  # stratified
    # The split and the pixels are fixed for ever: results on digits are comparable across machines and versions.
    assert data.fingerprint == "58abd3ea6d06402345f0a755fbe2fbf2c6f13bb2c6db523776d3de0134776b88"


def test_digits_are_the_whole_set_once():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    ours = torch.cat([data.train.images, data.test.images]).reshape(1797, 64).tolist()
    theirs = np.rint(load_digits().data * 255 / 16).astype(int).tolist()
    assert sorted(ours) == sorted(theirs)


def test_real_cifar10(data_root):
    if not (data_root / "cifar10.npz").exists():
        pytest.skip("no cifar10.npz under the data root")
    data = load_data("cifar10", root=data_root, download=False)
    assert (len(data.train), len(data.test), data.num_classes, data.channels) == (50_000, 10_000, 10, 3)
    assert data.class_names[3] == "cat"
    assert data.flip
    mean, std = pixel_statistics(data.train.images)
    np.testing.assert_allclose(data.mean, mean, atol=1e-4)
    np.testing.assert_allclose(data.std, std, atol=1e-4)
    # Nothing was copied into another order: the file's NHWC memory is used as it is.
    assert data.train.images.is_contiguous(memory_format=torch.channels_last)


def test_real_mnist(data_root):
    if not (data_root / "MNIST" / "raw").is_dir():
        pytest.skip("no MNIST/raw under the data root")
    data = load_data("mnist", root=data_root, download=False)
    assert (len(data.train), len(data.test), data.image_size, data.channels) == (60_000, 10_000, (28, 28), 1)
    assert not data.flip
    mean, std = pixel_statistics(data.train.images)
    np.testing.assert_allclose((data.mean, data.std), (mean, std), atol=1e-4)


def small(name, per_class=1):
    facts = NAMED_SETS[name]
    channels, height, width = facts.image_shape
    labels = np.repeat(np.arange(facts.num_classes), per_class)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), height, width, channels), dtype=np.uint8)
    return {"x_train": images, "y_train": labels, "x_test": images[:5], "y_test": labels[:5]}


@pytest.mark.parametrize("name", NAMED_SETS)
def test_npz_under_the_root_or_the_environment(tmp_path, monkeypatch, name):
    np.savez(tmp_path / f"{name}.npz", **small(name))
    monkeypatch.setenv("CONVSWAP_DATA", str(tmp_path))
    by_environment = load_data(name, download=False)
    monkeypatch.delenv("CONVSWAP_DATA")
    by_root = load_data(name, root=tmp_path, download=False)
    assert by_environment.fingerprint == by_root.fingerprint
    assert len(by_root.class_names) == by_root.num_classes == NAMED_SETS[name].num_classes
    assert by_root.mean == NAMED_SETS[name].mean
    assert len(by_root.mean) == len(by_root.std) == by_root.channels


def test_root_wins_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVSWAP_DATA", "/elsewhere")
    assert data_root(tmp_path) == tmp_path
    assert str(data_root(None)) == "/elsewhere"
    monkeypatch.delenv("CONVSWAP_DATA")
    assert data_root(None).parts[-3:] == (".cache", "convswap", "data")


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_torchvision_layout_of_fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    content = small("fashion_mnist")
    for prefix, split in (("train", "train"), ("t10k", "test")):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", content[f"x_{split}"][..., 0])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", content[f"y_{split}"])
    data = load_data("fashion_mnist", root=tmp_path, download=False)
    np.savez(tmp_path / "fashion_mnist.npz", **content)
    assert data.fingerprint == load_data("fashion_mnist", root=tmp_path, download=False).fingerprint
    assert data.class_names[9] == "Ankle boot"

    (raw / "train-images-idx3-ubyte").write_bytes(b"damaged")
    (tmp_path / "fashion_mnist.npz").unlink()
    with pytest.raises(DataError, match="fashion_mnist"):
        load_data("fashion_mnist", root=tmp_path, download=False)


def test_torchvision_layout_of_cifar100(tmp_path, monkeypatch):
    from torchvision import datasets

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = small("cifar100")
    for split in ("train", "test"):
        images = content[f"x_{split}"].transpose(0, 3, 1, 2).reshape(len(content[f"y_{split}"]), -1)
        entry = {"data": images, "fine_labels": content[f"y_{split}"].tolist()}
        (folder / split).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"name {i}" for i in range(100)]}))
    monkeypatch.setattr(datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_data("cifar100", root=tmp_path, download=False)
    assert data.class_names[99] == "name 99"
    np.testing.assert_array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), content["x_train"])


@pytest.mark.parametrize("name", NAMED_SETS)
def test_not_found(tmp_path, name):
    with pytest.raises(DataError, match=f"data set '{name}' not found.*downloading is off.*CONVSWAP_DATA") as caught:
        load_data(name, root=tmp_path, download=False)
    assert f"{tmp_path}/{name}.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_no_network(tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=r"the download failed \(.*not found|the download failed") as caught:
        load_data(name, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_foreign_npz_is_not_papered_over(tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(gzip.compress(b"no npz"))
    with pytest.raises(DataError, match=r"cifar10.npz: damaged"):
        load_data("cifar10", root=tmp_path)
    np.savez(tmp_path / "cifar10.npz", **small("mnist"))
    with pytest.raises(DataError, match=r"images of \(1, 28, 28\) .* cifar10 has \(3, 32, 32\)"):
        load_data("cifar10", root=tmp_path)
    np.savez(tmp_path / "cifar10.npz", **small("cifar100"))
    with pytest.raises(DataError, match="label 99"):
        load_data("cifar10", root=tmp_path)
