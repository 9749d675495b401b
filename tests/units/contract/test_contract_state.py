"""State dictionaries, copies, pickles, and modules born on the meta device."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from contract_cases import (
    CASES,
    Case,
    difference,
    each_convolution,
    each_unit,
    image,
    randomize_batch_norms,
    train_steps,
)
from torch import nn


def _lived_in(case: Case) -> Any:
    unit = case.home()
    train_steps(unit)
    randomize_batch_norms(unit)
    return unit.eval()


def _same_function(module: nn.Module, reference: nn.Module) -> bool:
    x = image(reference)
    return torch.equal(module(x), reference(x))


@each_unit
def test_state_dict_round_trip_is_strict(case: Case) -> None:
    unit = _lived_in(case)
    buffer = io.BytesIO()
    torch.save(unit.state_dict(), buffer)
    buffer.seek(0)
    other = case.home().eval()
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert _same_function(other, unit)
    assert case.home().train().state_dict().keys() == unit.state_dict().keys(), "the mode changes the keys"


@each_unit
def test_training_goes_on_alike_from_a_checkpoint(case: Case) -> None:
    """What a resumed run needs: the state holds all that the next training forwards depend on."""
    unit = _lived_in(case).train()
    other = case.home().train()
    other.load_state_dict(unit.state_dict())
    x = image(unit)
    for step in range(8):
        torch.manual_seed(step)
        expected = unit(x)
        torch.manual_seed(step)
        assert torch.equal(other(x), expected)


@each_convolution
def test_a_plain_checkpoint_loads_strictly_into_a_weight_unit(case: Case) -> None:
    if case.spec.kind != "weight":
        return
    for geometry in case.geometries():
        conv = nn.Conv2d(**geometry)
        unit = case.build(geometry)
        if case.spec.constant_weight:  # trained kernels would be dropped: said, not done in silence
            with pytest.raises(RuntimeError, match="weight holds other kernels"):
                unit.load_state_dict(conv.state_dict(), strict=True)
            continue
        unit.load_state_dict(conv.state_dict(), strict=True)
        assert torch.equal(unit.weight, conv.weight)


@each_unit
def test_deepcopy_and_pickle(case: Case) -> None:
    unit = _lived_in(case)
    x = image(unit)
    expected = unit(x)
    copies = [copy.deepcopy(unit), pickle.loads(pickle.dumps(unit))]
    for other in copies:
        assert type(other) is type(unit)
        assert torch.equal(other(x), expected)
        assert repr(other) == repr(unit)
        train_steps(other, steps=1)
    assert torch.equal(unit(x), expected), "a copy shares state with the original"


def _born_on_meta(case: Case) -> list[Any]:
    with torch.device("meta"):
        in_context = case.home()
    return [case.home(device="meta"), in_context, case.home().to("meta")]


@each_unit
def test_meta_device_costs_nothing_and_knows_its_shapes(case: Case) -> None:
    for unit in _born_on_meta(case):
        assert all(t.is_meta for t in (*unit.parameters(), *unit.buffers()))
        expected = case.home()(torch.zeros(2, unit.in_channels, 7, 6)).shape
        assert unit(torch.empty(2, unit.in_channels, 7, 6, device="meta")).shape == expected


@each_unit
def test_meta_then_to_empty_then_load(case: Case) -> None:
    unit = _lived_in(case)
    for other in _born_on_meta(case):
        other.to_empty(device="cpu").load_state_dict(unit.state_dict())
        assert _same_function(other.eval(), unit)


@each_unit
def test_meta_then_load_assign(case: Case) -> None:
    unit = _lived_in(case)
    for other in _born_on_meta(case):
        other.load_state_dict(copy.deepcopy(unit.state_dict()), assign=True)
        assert not any(t.is_meta for t in (*other.parameters(), *other.buffers()))
        assert _same_function(other.eval(), unit)
        train_steps(other, steps=1)


@each_unit
def test_loading_by_assignment_takes_the_given_precision(case: Case) -> None:
    unit = case.home(dtype=torch.float64).eval()
    other = case.home().eval()
    other.load_state_dict(copy.deepcopy(unit.state_dict()), assign=True)
    x = image(unit)
    assert difference(other(x), unit(x)) < 1e-14


@each_convolution
def test_building_in_inference_mode_spoils_no_cache(case: Case) -> None:
    """Constants kept for later units must not be inference tensors, meta tensors or of another default dtype."""
    for side in (9, 11):
        geometry = case.homes()[0] | {"kernel_size": side, "padding": side // 2}
        if case.refuses(nn.Conv2d(**geometry)) is not None:
            continue
        with torch.inference_mode(), torch.device("meta"):
            case.build(geometry)
        with torch.inference_mode():
            case.build(geometry)
        unit = case.build(geometry)
        train_steps(unit, steps=1)
        twin = case.from_conv(nn.Conv2d(**geometry))
        train_steps(twin, steps=1)


@each_convolution
def test_row_names_real_parameters(case: Case) -> None:
    """`no_weight_decay` names must exist for some options and start, else a recipe excludes nothing by a typo."""
    siblings = [other for other in CASES if other.spec is case.spec]
    conv = nn.Conv2d(**case.homes()[0])
    units = [unit for other in siblings for unit in (other.home(), other.from_conv(conv))]
    names = {name.rsplit(".", 1)[-1] for unit in units for name, _ in unit.named_parameters()}
    assert case.spec.no_weight_decay <= names
