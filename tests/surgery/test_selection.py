"""The selection language."""

from __future__ import annotations

import pytest
from torch import nn

from convswap.errors import UsageError
from convswap.surgery import plan_swap, select
from convswap.units import get_unit, list_units


@pytest.fixture
def net() -> nn.Module:
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 7, stride=2),
            "layer1": nn.ModuleList([nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1)]),
            "layer2": nn.Sequential(nn.Conv2d(16, 16, (1, 7), groups=4), nn.ReLU(), nn.Conv2d(16, 4, 1)),
        }
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("all", ["stem", "layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.2"]),
        ("spatial", ["stem", "layer1.0", "layer1.1", "layer2.0"]),
        ("spatial & !first", ["layer1.0", "layer1.1", "layer2.0"]),
        ("pointwise & !last", ["layer1.2"]),
        ("depthwise", ["layer1.1"]),
        ("grouped", ["layer1.1", "layer2.0"]),
        ("dense & spatial", ["stem", "layer1.0"]),
        ("strided", ["stem"]),
        ("3x3", ["layer1.0", "layer1.1"]),
        ("1x7", ["layer2.0"]),
        ("layer[12].*", ["layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.2"]),
        ("layer2.*, stem", ["stem", "layer2.0", "layer2.2"]),
        ("! layer*", ["stem"]),
        ("first, last", ["stem", "layer2.2"]),
        ("output", ["layer2.2"]),
        ("pointwise & !output", ["layer1.2"]),
        ("nothing.*", []),
    ],
)
def test_strings(net: nn.Module, where: str, expected: list[str]) -> None:
    assert [path for path, _ in select(net, where)] == expected


def test_predicate(net: nn.Module) -> None:
    chosen = select(net, lambda path, conv: path.startswith("layer1") and conv.out_channels == 16)
    assert [path for path, _ in chosen] == ["layer1.2"]


@pytest.mark.parametrize("where", ["", " ", "3x3 &", "!,all", "&"])
def test_empty_conditions_are_errors(net: nn.Module, where: str) -> None:
    with pytest.raises(UsageError, match="empty condition"):
        select(net, where)


@pytest.mark.parametrize("where", ["3x3 & !frist", "spatail", "all, depthwize"])
def test_misspelt_conditions_are_errors(net: nn.Module, where: str) -> None:
    with pytest.raises(UsageError, match="did you mean"):
        select(net, where)


@pytest.mark.parametrize("unit", [name for name in list_units() if "!*" in get_unit(name).default_where])
def test_a_units_own_places_may_leave_out_what_is_not_there(net: nn.Module, unit: str) -> None:
    assert plan_swap(net, unit).replacements


@pytest.mark.parametrize("where", ["3x3 & !layer9.*", "!*.downsample*", "all & !! layerx?"])
def test_leaving_out_what_is_not_there_is_an_error(net: nn.Module, where: str) -> None:
    """Such a slip selected everything, without a word."""
    with pytest.raises(UsageError, match="leaves nothing out: no module of the model is called so; there are"):
        select(net, where)


def test_a_module_without_convolutions_may_be_left_out(net: nn.Module) -> None:
    net["head"] = nn.Linear(4, 2)
    assert len(select(net, "all & !hea*")) == 6


def test_a_convolution_is_no_output_before_a_linear_layer(net):
    net["head"] = nn.Linear(4, 2)
    assert select(net, "output") == []
    assert len(select(net, "!output")) == 6
    net["aux"] = nn.Conv2d(4, 4, 1)
    assert [path for path, _ in select(net, "output")] == ["aux"]


def test_one_channel_alone_is_not_depthwise() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=4))
    assert [path for path, _ in select(net, "depthwise")] == ["1", "2"]
    assert [path for path, _ in select(net, "dense")] == ["0"]


def test_kernel_sizes_are_rows_times_columns() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, (1, 7)), nn.Conv2d(4, 4, (7, 1)))
    assert [path for path, _ in select(net, "1x7")] == ["0"]
    assert [path for path, _ in select(net, "7x1")] == ["1"]
