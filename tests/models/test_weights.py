"""Starting from files of weights, good and bad."""

import json
import logging
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from convswap.errors import StoreError, UsageError
from convswap.models import create_model, load_weights
from convswap.models.weights import classifier_path


@pytest.fixture
def trained():
    return create_model("cifar_resnet8", num_classes=10)


def fresh_model(num_classes=10, **arguments):
    return create_model("cifar_resnet8", num_classes=num_classes, **arguments)


def assert_same(model, trained, but=()):
    for name, value in trained.state_dict().items():
        if name not in but:
            assert torch.equal(model.state_dict()[name], value), name


WRAPS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best": 0.9},
    "model": lambda state: {"model": state},
    "data_parallel": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "compiled": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "without_counters": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, trained, wrap, zipped):
    torch.save(WRAPS[wrap](trained.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    model = fresh_model()
    assert load_weights(model, tmp_path / "w.pth") == []
    assert_same(model, trained)


@pytest.mark.parametrize("file", ["w.safetensors", "w.bin"])
def test_safetensors(tmp_path, trained, file):
    save_file(trained.state_dict(), tmp_path / file, metadata={"format": "pt"})
    model = fresh_model()
    assert load_weights(model, str(tmp_path / file)) == []
    assert_same(model, trained)


def test_other_classes_start_fresh_and_it_is_said(tmp_path, trained, caplog):
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, logger="convswap"):
        model = fresh_model(7, weights=tmp_path / "w.pth")
    assert_same(model, trained, but=("linear.weight", "linear.bias"))
    assert "linear.bias, linear.weight" in caplog.text
    assert load_weights(fresh_model(7), tmp_path / "w.pth") == ["linear.bias", "linear.weight"]


class Stranger:
    """Not allowed in a file of weights."""


def write_not_torch(path):
    path.write_bytes(b"\x80\x02hello, this is no file of weights")


def write_empty(path):
    path.write_bytes(b"")


def write_truncated(path):
    torch.save(fresh_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])


def write_stranger(path):
    torch.save({"state_dict": fresh_model().state_dict(), "args": Stranger()}, path)


def write_plain_pickle(path):
    path.write_bytes(pickle.dumps(Stranger()))


def write_whole_model(path):
    torch.save(fresh_model(), path)


def write_number(path):
    torch.save(3, path)


def write_mixed(path):
    torch.save({"weight": torch.ones(1), "epoch": 3}, path)


def write_bad_safetensors(path):
    save_file({"weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:200])


def write_other_network(path):
    torch.save(create_model("cifar_resnet20", num_classes=10).state_dict(), path)


def write_other_channels(path):
    torch.save(fresh_model(in_channels=1).state_dict(), path)


def write_missing(path):
    state = fresh_model().state_dict()
    del state["bn1.weight"], state["linear.bias"]
    torch.save(state, path)


def write_with_history(path, *history):
    metadata = {"convswap": json.dumps({"history": history})}
    save_file(fresh_model().state_dict(), path, metadata=metadata)


def write_fused(path):
    write_with_history(path, {"kind": "swap", "unit": "circle"}, {"kind": "fuse"})


def write_swapped(path):
    write_with_history(path, {"kind": "swap", "unit": "circle"})


def write_damaged_metadata(path):
    save_file(fresh_model().state_dict(), path, metadata={"convswap": "{"})


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_not_torch, "damaged"),
        (write_empty, "damaged"),
        (write_truncated, "damaged"),
        (write_stranger, "Python objects besides tensors"),
        (write_whole_model, "Python objects besides tensors"),
        (write_plain_pickle, "damaged|Python objects"),
        (write_number, "found int"),
        (write_mixed, "epoch is not a tensor"),
        (write_bad_safetensors, "damaged"),
        (write_other_network, "unexpected layer1.1.conv1.weight.* in all"),
        (write_other_channels, r"conv1.weight has shape \(16, 1, 3, 3\) instead of \(16, 3, 3, 3\)"),
        (write_missing, "missing bn1.weight, missing linear.bias"),
        (write_fused, "fused model.*before convswap.fuse"),
        (write_swapped, "already swapped to circle.*convswap.load"),
        (write_damaged_metadata, "metadata is damaged"),
    ],
)
def test_bad_files(tmp_path, write, message):
    file = tmp_path / "given.weights"
    write(file)
    model = fresh_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(StoreError, match=message) as caught:
        load_weights(model, file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)  # nothing was half loaded


def test_history_that_leaves_weights_plain(tmp_path):
    write_with_history(tmp_path / "w.safetensors", {"kind": "swap", "unit": "conv"})
    assert load_weights(fresh_model(), tmp_path / "w.safetensors") == []


def test_tied_tensors_of_a_saved_model(tmp_path):
    def tied():
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        return nn.Sequential(first, second, nn.Linear(4, 2))

    model, other = tied(), tied()
    state = {name: value for name, value in model.state_dict().items() if name != "1.weight"}
    metadata = {"convswap": json.dumps({"history": [], "aliases": {"1.weight": "0.weight"}})}
    save_file(state, tmp_path / "w.safetensors", metadata=metadata)
    assert load_weights(other, tmp_path / "w.safetensors") == []
    assert_same(other, model)


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        load_weights(fresh_model(), tmp_path / "absent.pth")
    with pytest.raises(UsageError, match="is a folder"):
        load_weights(fresh_model(), tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["pth", "safetensors"]))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_any_bytes_are_one_clear_error(tmp_path, content, suffix):
    file = tmp_path / f"any.{suffix}"
    file.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        load_weights(nn.Linear(2, 2), file)
    assert "\n" not in str(caught.value)


def test_classifier_path():
    assert classifier_path(fresh_model()) == "linear"
    assert classifier_path(create_model("torchvision:squeezenet1_1", num_classes=3)) == "classifier.1"
    assert classifier_path(create_model("torchvision:resnet18", num_classes=3)) == "fc"
    assert classifier_path(nn.Sequential(nn.Conv2d(3, 4, 3))) is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("classes", [3, 7])
def test_a_classifier_of_other_features_is_another_network(tmp_path, bias, classes):
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(8, classes, bias=bias)).state_dict(), tmp_path / "w.pth")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=bias))
    with pytest.raises(StoreError, match=rf"1.weight has shape \({classes}, 8\) instead of \(3, 16\)"):
        load_weights(model, tmp_path / "w.pth")
