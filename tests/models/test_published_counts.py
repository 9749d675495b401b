"""Every network against its exact size and against what is published about it (`published/*.json`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from published_table import PAGE, UPDATE, Loaded, Published, Row, RowError, load, page
from torch import nn

import convswap
from convswap.models import create_model
from convswap.surgery.macs import count_macs

LOADED = load()
FEWEST_NETWORKS = 40


@dataclass(frozen=True)
class Size:
    """What a network really has."""

    parameters: int
    trainable: int
    macs: int


def build(row: Row, device: str) -> tuple[nn.Module, torch.Tensor]:
    """The row's network, swapped if it says so, and an image; without memory on the meta device."""
    image = torch.zeros(1, row.in_channels, *row.image_size, device=device)
    with torch.device(device):
        model = create_model(row.model, num_classes=row.num_classes, in_channels=row.in_channels, **row.arguments)
    if row.swap is not None:
        where, options = row.swap["where"], row.swap["options"]
        model = convswap.swap(model, row.swap["unit"], where=where, start="fresh", example_input=image, **options)
    return model, image


def measure(row: Row) -> Size:
    """Count on the meta device; a constructor or a swap that needs real numbers runs on the CPU instead."""
    if row.chain:
        model, image = build(row, "meta")
        plan = convswap.plan_remove_residuals(model.eval(), image)
        return Size(plan.parameters_after, plan.parameters_after, plan.macs_after)
    try:
        model, image = build(row, "meta")
    except Exception:  # whatever it is: if it is the row's fault, the CPU raises it again
        model, image = build(row, "cpu")
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return Size(sum(p.numel() for p in parameters), trainable, count_macs(model, image))


def problems(row: Row, size: Size) -> list[str]:
    """Everything in the row that is not so, in words."""
    found = []
    if size.parameters != row.parameters:
        found.append(f"parameters={row.parameters:,}, but there are {size.parameters:,}")
    if size.trainable != (size.parameters if row.trainable is None else row.trainable):
        stated = "null (all train)" if row.trainable is None else f"{row.trainable:,}"
        found.append(f"trainable={stated}, but there are {size.trainable:,}")
    if row.macs is not None and size.macs != row.macs:
        found.append(f"macs={row.macs:,}, but there are {size.macs:,}")
    unmet = row.unmet()
    if unmet and row.reason is None:
        found += [f"{line}; give a reason" for line in unmet]
    if not unmet and row.reason is not None:
        found.append(f"reason={row.reason!r}, but every published number is met: set it to null")
    return found


@pytest.mark.parametrize("loaded", [pytest.param(entry, id=f"{entry.file}: {entry.name}") for entry in LOADED])
def test_counts(loaded: Loaded) -> None:
    row = loaded.row()
    found = problems(row, measure(row))
    assert not found, f"{loaded.file}.json, {loaded.name}: " + "; ".join(found)


def test_enough_networks_have_a_published_size() -> None:
    rows = [entry.content for entry in LOADED if isinstance(entry.content, Row)]
    networks = {row.network for row in rows if row.published_parameters or row.published_macs}
    assert len(networks) >= FEWEST_NETWORKS


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(LOADED), f"{PAGE.name} is not current: run `{UPDATE}`"


GOOD: dict[str, Any] = {
    "model": "cifar_resnet20",
    "arguments": {},
    "num_classes": 10,
    "in_channels": 3,
    "image_size": [32, 32],
    "swap": None,
    "parameters": 269_722,
    "trainable": None,
    "macs": 40_551_040,
    "published_parameters": "0.27M",
    "published_macs": None,
    "source": "arXiv:1512.03385, table 6",
    "reason": None,
}
SIZE = Size(269_722, 269_722, 40_551_040)


@pytest.mark.parametrize(
    ("text", "count", "rounded"),
    [
        ("27.5M", 27_479_784, True),
        ("27.5M", 27_450_000, True),
        ("27.5M", 27_449_999, False),
        ("0.99M", 997_358, False),
        ("0.99M", 994_999, True),
        ("217,082", 217_082, True),
        ("217,082", 217_083, False),
        ("4.47G", 4_474_999_999, True),
        ("4.47 B", 4_475_000_001, False),
        ("144M", 144_400_000, True),
        ("12K", 12_500, True),
        ("62", 62, True),
    ],
)
def test_printed_numbers(text: str, count: int, rounded: bool) -> None:
    assert Published.parse(text).is_rounded(count) == rounded


@pytest.mark.parametrize("text", ["", "M", "1.5.2M", "~27M", "27.5m", "2,17M", "1,000.5", "-3M", "27.5 MB"])
def test_numbers_that_are_not_printed_so(text: str) -> None:
    with pytest.raises(RowError, match="is not a printed number"):
        Published.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": "270k"}, "parameters='270k' must be a whole number"),
        ({"parameters": None}, "parameters=None must be a whole number"),
        ({"macs": 0}, "macs=0 must be a whole number"),
        ({"num_classes": True}, "num_classes=True must be a whole number"),
        ({"image_size": 32}, r"image_size=32 must be \[height, width\]"),
        ({"swap": {"unit": "ghost"}}, "must be null or"),
        ({"published_parameters": 270_000}, "published_parameters=270000 must be a text"),
        ({"published_macs": "41 mega"}, "'41 mega' is not a printed number"),
        ({"source": " "}, "source=' ' must be a text"),
        ({"arguments": []}, r"arguments=\[\] must be an object"),
        ({"reason": ""}, "reason='' must be null or a text"),
        ({"why": "so"}, "unknown keys: why"),
        ({"chain": "yes"}, "chain='yes' must be true or false"),
        ({"chain": True, "swap": {"unit": "ghost", "where": None, "options": {}}}, "chain=True must be true or false"),
    ],
)
def test_a_bad_row_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        Row.read(GOOD | changes)


def test_a_row_without_a_key_names_it() -> None:
    with pytest.raises(RowError, match="keys missing: macs, source"):
        Row.read({key: value for key, value in GOOD.items() if key not in ("macs", "source")})


def test_a_broken_row_or_file_breaks_only_itself(tmp_path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD | {"parameters": -1}, 7, GOOD]))
    (tmp_path / "b.json").write_text('[{"model": ')
    (tmp_path / "c.json").write_text("{}")
    entries = load(tmp_path)
    assert [entry.name for entry in entries] == [
        "cifar_resnet20",
        "row 2",
        "row 3",
        "cifar_resnet20 (2)",
        "row 1",
        "row 1",
    ]
    assert [isinstance(entry.content, Row) for entry in entries] == [True, False, False, True, False, False]
    for entry, message in zip(entries[1:], ["a.json: parameters=-1", "a.json: a row is an object"], strict=False):
        with pytest.raises(RowError, match=message):
            entry.row()
    for entry, message in zip(entries[4:], ["b.json cannot be read", "c.json must hold a list"], strict=True):
        with pytest.raises(RowError, match=message):
            entry.row()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": 269_721, "published_parameters": None}, "parameters=269,721, but there are 269,722"),
        ({"trainable": 5}, "trainable=5, but there are 269,722"),
        ({"macs": 41_000_000}, "macs=41,000,000, but there are 40,551,040"),
        ({"published_parameters": "0.28M"}, "published_parameters='0.28M', but there are 269,722; give a reason"),
        ({"published_macs": "42M"}, "published_macs='42M', but there are 40,551,040; give a reason"),
        ({"published_macs": "41M", "macs": None}, "macs is null"),
        ({"reason": "another classifier"}, "every published number is met: set it to null"),
    ],
)
def test_every_disagreement_is_found(changes: dict[str, Any], message: str) -> None:
    found = problems(Row.read(GOOD | changes), SIZE)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"macs": None},
        {"published_macs": "40.9M"},  # within 1 %
        {"published_macs": "0.04G"},  # printed with one digit
        {"published_parameters": "0.28M", "reason": "the paper counts another classifier"},
    ],
)
def test_a_true_row_has_no_problem(changes: dict[str, Any]) -> None:
    assert problems(Row.read(GOOD | changes), SIZE) == []


def test_frozen_values_may_be_left_out_of_a_published_number() -> None:
    row = Row.read(GOOD | {"trainable": 264_999, "published_parameters": "0.26M"})
    assert problems(row, replace(SIZE, trainable=264_999)) == []
    assert problems(row, SIZE) == ["trainable=264,999, but there are 269,722"]


def test_a_swapped_network_is_counted_on_the_meta_device() -> None:
    row = Row.read(
        GOOD | {"swap": {"unit": "ic", "where": "3x3 & !first", "options": {}}, "published_parameters": None}
    )
    on_meta, image = build(row, "meta")
    on_cpu, _ = build(row, "cpu")
    assert image.is_meta
    assert all(p.is_meta for p in on_meta.parameters())
    assert measure(row).parameters == sum(p.numel() for p in on_cpu.parameters()) > row.parameters


def test_the_page_shows_reasons_and_both_counts() -> None:
    row = Row.read(GOOD | {"trainable": 9, "published_parameters": "1M", "reason": "a | b"})
    text = page([Loaded("resnet", "x", row), Loaded("resnet", "row 2", RowError("broken"))])
    assert "| `cifar_resnet20` | 3x32x32, 10 classes | 269,722 (9 train) | 40,551,040 | 1M; not met: a \\| b |" in text
    assert "There are 1 networks" in text
