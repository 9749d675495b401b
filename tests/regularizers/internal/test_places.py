"""What one pass over a black image says of a network: its values, narrow places, blocks and stages."""

from __future__ import annotations

import pytest
import torch
from regularizer_hosts import make_host, setting_for
from torch import Tensor, nn

from convswap.errors import UsageError
from convswap.models import create_model
from convswap.regularizers.internal.places import Places
from convswap.regularizers.internal.tape import Tape
from convswap.surgery.inputs import Inputs


def tape_of(model: nn.Module, size: int = 8) -> Tape:
    return Tape(model, Inputs((torch.zeros(1, 1, size, size),), {}))


def places_of(model: nn.Module, size: int = 8, channels: int = 1) -> Places:
    return Places(model, setting_for(size=size, channels=channels), "method")


class InPlace(nn.Module):
    """relu_(bn(conv(x))) added in place to a second convolution of x."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
        self.bn, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x)))
        y += self.other(x)
        return y


def test_values_that_are_overwritten_are_told_apart() -> None:
    tape = tape_of(InPlace())
    returned = {call.path: call.returned for call in tape.calls}
    assert len({returned[name] for name in ("conv", "bn", "act", "other")}) == 4
    nodes = tape.nodes
    assert tape.output is not None
    total = nodes[tape.output]
    assert total.is_sum
    assert set(total.sources) == {returned["act"], returned["other"]}
    assert nodes[returned["act"]].sources == (returned["bn"],)  # type: ignore[index]
    assert tape.readers(nodes[0]) == [returned["conv"], returned["other"]]


def test_narrow_places_are_those_that_everything_passes() -> None:
    model = make_host()
    tape = tape_of(model)
    narrow = {call.path for node in tape.narrows() for call in node.returned_by}
    assert {"stem", "pool", "blocks.0", "blocks.1", "blocks", "classifier"} <= narrow
    assert not [path for path in narrow if path.startswith("blocks.0.")]


def test_blocks_of_one_branch_and_of_two() -> None:
    places = places_of(make_host())
    blocks = {block.path: block for block in places.residuals}
    assert [len(blocks[f"blocks.{i}"].branches) for i in range(3)] == [1, 1, 2]
    assert all(block.identity for block in blocks.values())
    assert blocks["blocks.0"].branches[0].path == "blocks.0.branches.0"
    layers = [call.path for call in blocks["blocks.0"].branches[0].layers]
    assert layers == ["blocks.0.branches.0.0", "blocks.0.branches.0.3"]
    assert [block.path for block in places.blocks] == ["blocks.0", "blocks.1"]
    assert places.classifier.path == "classifier"


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("cifar_resnet8", ["layer1.0", "layer2.0", "layer3.0"]),
        ("mobilenetv3_small_100", ["blocks.0.0", "blocks.1.1", "blocks.3.1", "blocks.5.0"]),
        ("vgg11_bn", ["features.13", "features.20", "features.27"]),
    ],
)
def test_stages_of_known_networks(name: str, stages: list[str]) -> None:
    model = create_model(name, num_classes=3, in_channels=3)
    assert [stage.path for stage in places_of(model, 64, 3).stages] == stages


def test_gates_and_projections_are_no_branches() -> None:
    places = places_of(create_model("mobilenetv3_small_100", num_classes=3, in_channels=3), 64, 3)
    block = next(block for block in places.residuals if block.path == "blocks.2.1")
    names = [call.path.rpartition(".")[2] for call in block.branches[0].layers]
    assert names == ["conv_pw", "conv_dw", "conv_pwl"], "the convolutions of squeeze-and-excitation are not among them"
    places = places_of(create_model("resnet18", num_classes=3, in_channels=3), 64, 3)
    strided = next(block for block in places.residuals if block.path == "layer2.0")
    assert strided.branches[0].path == "layer2.0.bn2"
    assert strided.shortcut is not None
    assert strided.shortcut.path == "layer2.0.downsample"
    assert not strided.identity


def test_a_block_called_twice_has_no_place() -> None:
    host = make_host()
    twice = nn.Sequential(host.stem, host.blocks[0], host.blocks[0], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    places = places_of(twice)
    assert places.skipped == {} or places.residuals == []
    with pytest.raises(UsageError, match="calls it 2 times"):
        _ = places.blocks


def test_reading_leaves_no_trace() -> None:
    model = make_host().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    places_of(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
