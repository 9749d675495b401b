"""Packed modules in ONNX: signs and Conv, the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convswap.ops.binary_conv import PackedBinaryChain, PackedBinaryConv2d, onnx_translations

pytest.importorskip("onnxscript")
runtime: Any = pytest.importorskip("onnxruntime")


def convs() -> list[PackedBinaryConv2d]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(70).eval()
    norm.weight.data.normal_()
    norm.running_mean.normal_()  # type: ignore[union-attr]
    return [
        PackedBinaryConv2d.from_weight(
            torch.randn(40, 70, 3, 3), torch.rand(40), torch.randn(40), stride=2, padding=1, norm=norm, relu=True
        ),
        PackedBinaryConv2d.from_weight(torch.randn(64, 40, 3, 3), padding="same", dilation=2),
        PackedBinaryConv2d.from_weight(torch.randn(16, 32, 1, 1), torch.rand(16), groups=2),
        PackedBinaryConv2d.from_weight(
            torch.randn(40, 70, 3, 3), torch.rand(40), torch.randn(40), padding=1, norm=norm, input_scale="K"
        ),
    ]


class Words(nn.Module):
    """Something else reads the words: they are formed in the graph, and unpacked in it."""

    def __init__(self, conv: PackedBinaryConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        words = torch.ops.convswap.binary_pack(x, conv.threshold, conv.flip, 1)
        return conv.convolve(words.flip(1), like=x)


@pytest.mark.parametrize("kind", ["conv", "K", "chain", "sequence", "words"])
def test_runs_elsewhere(kind: str, tmp_path: Path) -> None:
    first, second, third, with_map = convs()
    modules: dict[str, nn.Module] = {
        "conv": first, "K": with_map, "chain": PackedBinaryChain([first, second]),
        "sequence": nn.Sequential(first, second, third), "words": Words(first),
    }  # fmt: skip
    module = modules[kind].eval()
    program = torch.onnx.export(
        module,
        (torch.randn(2, 70, 9, 8),),
        dynamo=True,
        custom_translation_table=onnx_translations(),
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    operations = {node.op_type for node in program.model.graph}
    assert "Conv" in operations
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    x = torch.randn(3, 70, 9, 8)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), module(x), rtol=1e-5, atol=1e-4)


def test_one_bit_a_weight_in_the_file(tmp_path: Path) -> None:
    conv = PackedBinaryConv2d.from_weight(torch.randn(64, 64, 3, 3), padding=1)
    program = torch.onnx.export(
        conv,
        (torch.randn(1, 64, 5, 5),),
        dynamo=True,
        optimize=False,
        custom_translation_table=onnx_translations(),
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    bits = 64 * 64 * 9 // 8
    assert bits < (tmp_path / "model.onnx").stat().st_size < bits + 40_000  # and the graph; float32 is 147,456
