"""`convswap remove-residuals`: the plan alone, the saved chain, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import convswap
from convswap.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(["remove-residuals", *argv]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_without_out_it_is_a_plan_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "cifar_resnet8", "--where", "layer[23].*")
    assert "layer2.0     16->32 block s2  16->48 3x3 s2 48->32 3x3" in printed
    assert "why: " in printed
    assert "note: 1 additions of feature maps remain" in printed
    plan = json.loads(run(capsys, "cifar_resnet8", "--json", "--classes", "7", "--image-size", "16"))
    assert [block["path"] for block in plan["blocks"]] == ["layer1.0", "layer2.0", "layer3.0"]
    assert plan["macs_after"] > 1.5 * plan["macs_before"]
    assert not list(folder.iterdir())


def test_a_saved_model_becomes_a_saved_chain_and_fuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = convswap.create_model("cifar_resnet8", num_classes=4, in_channels=1).eval()
    convswap.save(model, "mine.safetensors")
    printed = run(capsys, "mine.safetensors", "--image-size", "16", "--out", "chain.safetensors")
    assert "largest relative difference in float64" in printed
    assert "network without these residual connections: chain.safetensors" in printed
    chain, image = convswap.load("chain.safetensors"), torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(chain(image), model(image), rtol=1e-4, atol=1e-4)
    assert main(["fuse", "chain.safetensors", "--image-size", "16", "--no-latency"]) == 0
    assert "fused model: chain-fused.safetensors" in capsys.readouterr().out


REFUSED = {
    "no blocks": (["torchvision:vgg11_bn", "--image-size", "64"], "the model has no residual blocks"),
    "unknown model": (["cifar_resnet21"], "cifar_resnet20"),
    "nothing there": (["runs/none"], "RUN runs/none: does not exist and is no model"),
    "where": (["cifar_resnet8", "--where", "layer7.*"], "matches none of the model's 3 residual blocks"),
    "misspelt where": (["cifar_resnet8", "--where", "smae"], "did you mean 'same'"),
    "out is a folder": (["cifar_resnet8", "--out", "."], "--out .: is a folder; name a file"),
    "no weights there": (["cifar_resnet8", "--weights", "none.th"], "--weights none.th: does not exist"),
    "weights of a file": (["a.safetensors", "--pretrained"], "are for a named model; a.safetensors has its own"),
    "the original": (["a.safetensors", "--out", "a.safetensors"], "is the original, which is kept"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, reason = REFUSED[name]
    convswap.save(convswap.create_model("cifar_resnet8", num_classes=4), "a.safetensors")
    error = run(capsys, *argv, code=2)
    assert reason in error
    assert error.count("\n") == 1
