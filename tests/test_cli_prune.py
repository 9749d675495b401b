"""`convswap prune`, end to end on the embedded digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import convswap
from convswap.cli import main
from convswap.data import load_data
from convswap.train.calibration import calibration_batches

pytest.importorskip("torch_pruning")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_run_is_pruned_and_trained_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "train", "--model", "cifar_resnet8", "--data", "digits", "--epochs", "1", "--out", "run", "--quiet")
    argv = ["prune", "run", "--keep-macs", "0.5", "--beyond-cap", "--finetune", "1", "--images", "64", "--out", "half"]
    printed = run(capsys, *argv, "--quiet")
    assert "after arXiv:2206.03596" in printed
    assert "the network's cap" in printed
    assert "predictions changed" in printed
    assert "latency" in printed
    assert "after 1 epochs of fine-tuning" in printed
    narrow = convswap.load(folder / "half" / "pruned.safetensors")
    tuned = convswap.load(folder / "half" / "finetuned" / "model.safetensors")
    assert tuned.layer1[0].conv1.weight.shape == narrow.layer1[0].conv1.weight.shape
    assert tuned.layer1[0].conv1.out_channels < 16
    assert not torch.equal(tuned.layer1[0].conv1.weight, narrow.layer1[0].conv1.weight)
    assert narrow.convswap_card.mean == tuned.convswap_card.mean

    times = {path: path.stat().st_mtime_ns for path in (folder / "half").rglob("*") if path.is_file()}
    again = run(capsys, *argv, "--quiet")
    assert "after 1 epochs of fine-tuning" in again
    assert {path: path.stat().st_mtime_ns for path in times} == times
    other = [word if word != "0.5" else "0.6" for word in argv]
    assert "holds another pruning (another macs)" in refused(capsys, *other, "--quiet")


def test_a_model_by_name_with_its_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = convswap.create_model("cifar_resnet8", num_classes=10, in_channels=1)
    torch.save(model.state_dict(), folder / "w.th")
    argv = ["prune", "cifar_resnet8", "--weights", "w.th", "--data", "digits", "--criterion", "l1", "--out", "small"]
    printed = run(capsys, *argv, "--keep-parameters", "0.5", "--quiet")
    assert "prune by l1 (arXiv:1608.08710) to 50.0% of the parameters" in printed
    assert convswap.load(folder / "small" / "pruned.safetensors")(torch.randn(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cifar_resnet8", "--data", "digits", "--keep-macs", "0.5"], "--weights FILE or --pretrained"),
        (["cifar_resnet8", "--keep-macs", "0.5"], "missing option '--data'"),
        (["gone.safetensors", "--data", "digits", "--keep-macs", "0.5"], "does not exist"),
        (["m.safetensors", "--keep-macs", "0.5"], "data are not known"),
        (["m.safetensors", "--data", "digits", "--keep-macs", "half"], "--keep-macs half"),
        (["m.safetensors", "--data", "digits", "--keep-macs", "2"], "macs=2.0 is not allowed"),
        (["m.safetensors", "--data", "digits"], "0 targets"),
        (["m.safetensors", "--data", "digits", "--keep-macs", "0.5", "--criterion", "tailor"], "did you mean 'taylor'"),
        (["m.safetensors", "--pretrained", "--data", "digits", "--keep-macs", "0.5"], "brings its weights"),
    ],
)
def test_bad_lines(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    convswap.save(convswap.create_model("cifar_resnet8", num_classes=10, in_channels=1), folder / "m.safetensors")
    assert said in refused(capsys, "prune", *words, "--out", "out", "--quiet")
    assert not (folder / "out").exists()


def test_the_calibration_set_is_spread_over_the_training_images() -> None:
    data = load_data("digits")
    batches = calibration_batches(data, 100, batch_size=32)
    labels = torch.cat([labels for _, labels in batches])
    assert len(labels) == 100
    assert len(labels.unique()) == 10
    every = len(data.train) // 100
    assert torch.equal(labels, torch.as_tensor(data.train.labels)[: 100 * every : every].long())
