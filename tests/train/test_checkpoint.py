from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from convswap import files
from convswap.errors import StoreError, TrainingError
from convswap.files import write_atomically
from convswap.train import fit
from convswap.train.interrupts import deferred_interrupt

from .conftest import make_data, make_model, make_recipe


class Stop(Exception):
    """A crash after an epoch."""


def run(directory, *, model=None, recipe=None, seed=3, stop_after=None, data=None, **arguments):
    """Train, and crash after an epoch if asked to; returns model and result."""
    model = make_model() if model is None else model

    def crash(row) -> None:
        if row["epoch"] == stop_after:
            raise Stop

    recipe = make_recipe(epochs=4, crop_padding=1) if recipe is None else recipe
    data = make_data() if data is None else data
    result = fit(
        model, data, recipe, seed=seed, directory=directory, progress=False, device="cpu", on_epoch=crash, **arguments
    )
    return model, result


def scores(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_training_ends_bit_identical(tmp_path, stop_after, precision) -> None:
    recipe = make_recipe(epochs=4, crop_padding=1, precision=precision)
    whole, expected = run(tmp_path / "whole", recipe=recipe)
    with pytest.raises(Stop):
        run(tmp_path / "broken", recipe=recipe, stop_after=stop_after)
    other = make_model(seed=9)  # whatever the model held before, the checkpoint counts
    resumed, result = run(tmp_path / "broken", recipe=recipe, model=other)
    assert result.resumed_after == stop_after
    assert_same(whole, resumed)
    assert scores(result.history) == scores(expected.history)
    lines = [json.loads(line) for line in (tmp_path / "broken/metrics.jsonl").read_text().splitlines()]
    assert lines == result.history


def test_a_directory_changes_nothing_in_the_training(tmp_path) -> None:
    assert_same(run(None)[0], run(tmp_path)[0])


def test_a_finished_training_is_not_run_again(tmp_path) -> None:
    first, result = run(tmp_path)
    second, again = run(tmp_path, model=make_model(seed=9))
    assert_same(first, second)
    assert again.history == result.history
    assert again.resumed_after == 4
    assert again.test_accuracy == result.test_accuracy


def test_starting_again_on_request(tmp_path) -> None:
    run(tmp_path, seed=1)
    _, result = run(tmp_path, seed=2, resume=False)
    assert result.resumed_after == 0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_metrics_are_cut_to_the_resumed_epoch(tmp_path) -> None:
    with pytest.raises(Stop):
        run(tmp_path, stop_after=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_lo')  # killed in the middle of a line
    run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "its seed is 3, not 4"),
        ({"recipe": make_recipe(epochs=4, learning_rate=0.2)}, "learning_rate=0.1, not 0.2"),
        ({"data": replace(make_data(), fingerprint="e" * 64)}, "fingerprint ffffffffffff, not eeeeeeeeeeee"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, r"Conv2d.*Flatten"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, changes, message) -> None:
    with pytest.raises(Stop):
        run(tmp_path, recipe=make_recipe(epochs=4), stop_after=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError, match=message) as caught:
        run(tmp_path, **{"recipe": make_recipe(epochs=4), **changes})
    assert str(tmp_path / "checkpoint.pt") in str(caught.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_unit_with_the_same_tensors_is_another_model(tmp_path) -> None:
    from convswap.units import PlainConv2d

    with pytest.raises(Stop):
        run(tmp_path, stop_after=1)
    model = make_model()
    model[3] = PlainConv2d.from_conv(model[3])
    assert list(model.state_dict()) == list(make_model().state_dict())
    with pytest.raises(TrainingError, match="PlainConv2d"):
        run(tmp_path, model=model)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage) -> None:
    with pytest.raises(Stop):
        run(tmp_path, stop_after=1)
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":  # one bit in the first weights
        weight = torch.load(path, weights_only=True)["model"]["0.weight"].contiguous().numpy().tobytes()
        content[content.index(weight) + 8] ^= 1
    path.write_bytes({"cut": content[:-200], "empty": b"", "text": b"hello", "flipped": content}[damage])
    with pytest.raises(StoreError, match=r"checkpoint\.pt is damaged .*delete it to start again"):
        run(tmp_path)


def test_a_foreign_file_is_no_checkpoint(tmp_path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    with pytest.raises(StoreError, match="not a checkpoint of this version"):
        run(tmp_path)


def test_nothing_in_a_checkpoint_is_executed(tmp_path) -> None:
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"format": 1, "model": Harmful()}, tmp_path / "checkpoint.pt")
    with pytest.raises(StoreError):
        run(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "full", stop_after=2)
    before = (tmp_path / "full/checkpoint.pt").read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", lambda p, mode: _Full(open(p, mode), after=100), raising=False)  # noqa: SIM115
        with pytest.raises(StoreError, match="the disk is full: could not write"):
            run(tmp_path / "full")
    assert (tmp_path / "full/checkpoint.pt").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["checkpoint.pt", "metrics.jsonl"]
    resumed, result = run(tmp_path / "full")
    assert result.resumed_after == 2
    assert_same(whole, resumed)


class _Full:
    """A file on a disk with room for metrics but not for a checkpoint."""

    def __init__(self, file, after: int) -> None:
        self.file, self.after = file, after

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def write(self, content) -> None:
        if len(content) > 1000:
            self.file.write(content[: self.after])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.file.write(content)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not write"):
        run(tmp_path / "file" / "run")


def test_ctrl_c_waits_for_the_checkpoint(tmp_path, monkeypatch) -> None:
    real = files.os.replace

    def interrupted(*paths) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(*paths)

    with monkeypatch.context() as patch:
        calls = []

        def save(*args, **kwargs):
            from convswap.train.checkpoint import save_checkpoint

            patch.setattr(files.os, "replace", interrupted)
            calls.append(save_checkpoint(*args, **kwargs))

        patch.setattr("convswap.train.loop.save_checkpoint", save)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
        assert len(calls) == 1
    _, result = run(tmp_path)
    assert result.resumed_after == 1


def test_ctrl_c_in_an_epoch_keeps_the_epochs_before(tmp_path) -> None:
    model = make_model()
    steps = 0

    def interrupt(*_) -> None:
        nonlocal steps
        steps += model.training
        if steps == 8:
            steps += 1
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, model=model)
    handle.remove()
    resumed, result = run(tmp_path, model=model)
    assert result.resumed_after == 2
    assert_same(run(None)[0], resumed)


def test_deferred_interrupts_reach_the_handler_afterwards() -> None:
    done = []

    def interrupted() -> None:
        with deferred_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_writing_is_all_or_nothing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def crash(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
