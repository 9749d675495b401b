"""Arrays in memory: `npz:` files good and bad, statistics, fingerprints."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convswap.data import ArrayImages, load_data
from convswap.data.arrays import channel_axis, data_from_arrays, fingerprint, pixel_statistics
from convswap.errors import DataError, UsageError


def arrays(n_train=12, n_test=6, shape=(8, 9, 3), classes=3, seed=0):
    random = np.random.default_rng(seed)
    return {
        "x_train": random.integers(0, 256, (n_train, *shape), dtype=np.uint8),
        "y_train": np.arange(n_train) % classes,
        "x_test": random.integers(0, 256, (n_test, *shape), dtype=np.uint8),
        "y_test": np.arange(n_test) % classes,
    }


def save(path, content):
    np.savez(path, **content)
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 9), (1, 8, 9)),
        ((8, 9, 3), (3, 8, 9)),
        ((3, 8, 9), (3, 8, 9)),
        ((8, 9, 1), (1, 8, 9)),
        ((4, 5, 4), (4, 4, 5)),
    ],
)
def test_layouts(tmp_path, shape, expected):
    content = arrays(shape=shape)
    data = load_data(save(tmp_path / "set.npz", content))
    assert isinstance(data.train, ArrayImages)
    assert (data.channels, *data.image_size) == expected
    assert data.train.images.shape == (12, *expected)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert (len(data.train), len(data.test), data.num_classes, data.class_names) == (12, 6, 3, ("0", "1", "2"))
    assert data.flip is (expected[0] != 1)
    source = torch.from_numpy(content["x_test"])
    if len(shape) == 2:
        source = source[:, None]
    elif shape != expected:
        source = source.permute(0, 3, 1, 2)
    assert torch.equal(data.test.images, source)


def test_statistics_equal_numpy(tmp_path):
    content = arrays(n_train=50)
    data = load_data(save(tmp_path / "set.npz", content))
    pixels = content["x_train"].astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_statistics_of_constant_and_chunked_images(monkeypatch):
    assert pixel_statistics(torch.full((3, 1, 4, 4), 255, dtype=torch.uint8)) == ((1.0,), (1 / 255,))
    images = torch.randint(0, 256, (20, 3, 5, 5), dtype=torch.uint8)
    whole = pixel_statistics(images)
    monkeypatch.setattr("convswap.data.arrays._CHUNK_BYTES", 1000)
    assert pixel_statistics(images) == whole


def test_fingerprint_is_of_the_contents(monkeypatch):
    nhwc = arrays()
    nchw = {key: np.moveaxis(a, 3, 1).copy() if a.ndim == 4 else a.astype(np.uint8) for key, a in nhwc.items()}
    first, second = (data_from_arrays("any", content, source="memory") for content in (nhwc, nchw))
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 64
    monkeypatch.setattr("convswap.data.arrays._CHUNK_BYTES", 1000)
    assert fingerprint(first.train, first.test) == first.fingerprint
    changed = ArrayImages(first.train.images.clone(), first.train.labels)
    changed.images[3, 0, 2, 2] ^= 1
    assert fingerprint(changed, first.test) != first.fingerprint
    assert fingerprint(first.test, first.train) != first.fingerprint


def test_data_can_be_replaced_but_not_changed(tmp_path):
    data = load_data(save(tmp_path / "set.npz", arrays()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.flip = True
    assert dataclasses.replace(data, mean=(0.5, 0.5, 0.5)).mean == (0.5, 0.5, 0.5)


def test_keras_label_columns(tmp_path):
    content = arrays()
    content["y_train"] = content["y_train"][:, None].astype(np.uint8)
    assert load_data(save(tmp_path / "set.npz", content)).train.labels.shape == (12,)


def with_nan(a):
    a = a.astype(np.float32)
    a.flat[:2] = np.nan
    return a


BAD = {
    "missing": ({"y_test": None}, "no array 'y_test'.*x_train"),
    "float": ({"x_train": lambda a: a / np.float32(255)}, r"x_train must hold uint8 .*float32 in 0.*astype\('uint8'\)"),
    "nan": ({"x_test": with_nan}, "x_test must hold uint8 .*with 2 NaN"),
    "nan labels": ({"y_train": with_nan}, "y_train must hold integers, got float32 with 2 NaN"),
    "strings": ({"y_train": lambda a: a.astype("U3")}, "y_train must hold integers, got <U3"),
    "flat": ({"x_train": lambda a: a.reshape(12, -1)}, r"x_train must have shape .*got \(12, 216\)"),
    "no images": ({"x_test": lambda a: a[:0]}, r"x_test is empty: its shape is \(0, 8, 9, 3\)"),
    "many channels": ({"x_train": lambda a: np.zeros((12, 20, 20, 20), np.uint8)}, "no axis 1 or 3 of at most 16"),
    "one hot": ({"y_train": lambda a: np.eye(3, dtype=int)[a]}, r"y_train must have shape \(N,\).*\(12, 3\)"),
    "lengths": ({"y_test": lambda a: a[:4]}, "x_test has 6 images but y_test has 4 labels"),
    "other size": ({"x_test": lambda a: a[:, :7]}, "x_train and x_test have different shapes"),
    "negative": ({"y_test": lambda a: a - 1}, "y_test holds the label -1"),
    "unknown class": ({"y_test": lambda a: a + 1}, "y_test holds the label 3, but there are 3 classes"),
    "huge": ({"y_test": lambda a: a.astype(np.uint64) + 2**63}, "y_test holds the label 922337203685477580"),
    "gap": ({"y_train": lambda a: a * 2, "y_test": lambda a: a * 2}, "y_train holds the label 4"),
    "one class": ({"y_train": lambda a: a * 0, "y_test": lambda a: a * 0}, "only one class"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(tmp_path, case):
    changes, message = BAD[case]
    content = arrays()
    for key, change in changes.items():
        if change is None:
            del content[key]
        else:
            content[key] = change(content[key])
    with pytest.raises(DataError, match=message) as caught:
        load_data(save(tmp_path / "set.npz", content))
    assert "set.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_pickle_is_read(tmp_path):
    content = arrays() | {"y_train": np.array([{"a": 1}] * 12, dtype=object)}
    with pytest.raises(DataError, match=r"y_train holds Python objects \(a pickle\).*y_train=numpy.asarray") as caught:
        load_data(save(tmp_path / "set.npz", content))
    assert "allow_pickle" not in str(caught.value)


def test_bad_files(tmp_path):
    for file, message in ((tmp_path / "absent.npz", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=message):
            load_data(f"npz:{file}")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        load_data(f"npz:{tmp_path / 'single.npy'}")
    np.savez_compressed(tmp_path / "cut.npz", **arrays(100))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        load_data(f"npz:{tmp_path / 'cut.npz'}")
    damaged = bytearray(whole)
    damaged[300:400] = bytes(100)
    (tmp_path / "cut.npz").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        load_data(f"npz:{tmp_path / 'cut.npz'}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=120), zip_mark=st.booleans())
def test_any_bytes_are_one_clear_error(tmp_path, content, zip_mark):
    (tmp_path / "any.npz").write_bytes((b"PK\x03\x04" if zip_mark else b"") + content)
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'any.npz'}")
    assert "\n" not in str(caught.value)


any_array = st.one_of(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)),
    hnp.arrays(st.sampled_from([np.int64, np.int8, np.uint64, np.float32, np.bool_, np.complex64]), st.integers(0, 5)),
)


@settings(max_examples=150, deadline=None)
@given(content=st.fixed_dictionaries(dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), any_array)))
def test_any_arrays_are_a_data_set_or_one_clear_error(content):
    said = ""
    try:
        data = data_from_arrays("any", content, source="any.npz")
    except DataError as error:
        said = str(error)
    if said:
        assert said.startswith("any.npz")
        assert "\n" not in said
    else:
        assert data.train.images.shape[1:] == data.test.images.shape[1:]
        assert max(data.train.labels.max(), data.test.labels.max()) < data.num_classes


@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)))
def test_channel_axis_is_the_shorter_one(shape):
    axis = channel_axis(shape)
    assert axis in (1, 3)
    assert shape[axis] == min(shape[1], shape[3])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("digit", {}, "unknown data set 'digit'; did you mean 'digits'"),
        ("imagenet", {}, "unknown data set 'imagenet'"),
        ("npz:", {}, "lacks a path; write npz:PATH"),
        ("imagefolder:", {}, "lacks a path"),
        ("digits", {"image_size": 32}, "image_size=32 is not allowed for 'digits'.*8x8"),
        ("digits", {"image_size": 0}, "image_size=0"),
        ("digits", {"image_size": "8"}, "image_size='8'"),
    ],
)
def test_bad_names(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        load_data(name, **arguments)


def test_a_path_alone_is_told_apart(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="imagefolder:"):
        load_data(str(tmp_path))
    with pytest.raises(UsageError, match="npz:"):
        load_data(str(tmp_path / "file"))
