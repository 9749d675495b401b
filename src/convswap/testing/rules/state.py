"""State dictionaries, copies and pickles."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from typing import Any

import torch
from torch import nn

from ..aids import demand_close, image, lived_in, train_steps
from ..case import Case
from ..rule import CONVOLUTIONS, demand, rule
from .constructor import raised


@rule()
def state_dict_holds_all(case: Case) -> None:
    """A state dict must load strictly into a new unit and make it the same function; the mode changes no key."""
    unit = lived_in(case)
    buffer = io.BytesIO()
    torch.save(unit.state_dict(), buffer)
    buffer.seek(0)
    other = case.home().eval()
    other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    x = image(unit)
    demand(torch.equal(other(x), unit(x)), "a new unit with the same state dict is another function")
    demand(case.home().train().state_dict().keys() == unit.state_dict().keys(), "the mode changes the keys")


@rule()
def training_goes_on_alike_from_a_state_dict(case: Case) -> None:
    """The state dict must hold all that the next training passes depend on, counters of random draws included."""
    unit = lived_in(case).train()
    other = case.home().train()
    other.load_state_dict(unit.state_dict())
    x = image(unit)
    for step in range(8):
        torch.manual_seed(step)
        expected = unit(x)
        torch.manual_seed(step)
        demand(torch.equal(other(x), expected), f"training pass {step} after loading differs")


@rule(("weight",))
def plain_checkpoint_loads_strictly(case: Case) -> None:
    """An `nn.Conv2d`'s state dict must load strictly into a weight unit, or be refused where kernels are constant."""
    for geometry in case.geometries():
        conv, unit = nn.Conv2d(**geometry), case.build(geometry)
        if case.spec.constant_weight:  # trained kernels would be dropped, which must not happen silently
            load = partial(unit.load_state_dict, conv.state_dict(), strict=True)
            raised("loading trained kernels", RuntimeError, load, "weight holds other kernels")
            continue
        unit.load_state_dict(conv.state_dict(), strict=True)
        demand(torch.equal(unit.weight, conv.weight), "the loaded weight differs")


@rule()
def deepcopy_and_pickle_give_independent_equals(case: Case) -> None:
    """`deepcopy` and pickling must give the same function in a unit that shares nothing with the original."""
    unit = lived_in(case)
    x = image(unit)
    expected = unit(x)
    for how, other in (("deepcopy", copy.deepcopy(unit)), ("pickle", pickle.loads(pickle.dumps(unit)))):
        demand(type(other) is type(unit), f"{how} gives a {type(other).__name__}")
        demand(torch.equal(other(x), expected), f"{how} gives another function")
        demand(repr(other) == repr(unit), f"{how} gives another repr")
        train_steps(other, steps=1)
        demand(torch.equal(unit(x), expected), f"{how} shares state with the original")


@rule()
def loading_by_assignment_takes_the_given_precision(case: Case) -> None:
    """`load_state_dict(assign=True)` must bring the precision of the given tensors, constants included."""
    unit = case.home(dtype=torch.float64).eval()
    other = case.home().eval()
    other.load_state_dict(copy.deepcopy(unit.state_dict()), assign=True)
    x = image(unit)
    demand_close(other(x), unit(x), 1e-14, "the output after assigning float64 values")


@rule(CONVOLUTIONS)
def building_in_inference_mode_spoils_no_cache(case: Case) -> None:
    """Constants kept for later units must not be inference tensors, meta tensors or of another default dtype."""
    for side in (9, 11):
        geometry: dict[str, Any] = case.homes()[0] | {"kernel_size": side, "padding": side // 2}
        if case.refuses(nn.Conv2d(**geometry)) is not None:
            continue
        with torch.inference_mode(), torch.device("meta"):
            case.build(geometry)
        with torch.inference_mode():
            case.build(geometry)
        train_steps(case.build(geometry), steps=1)
        train_steps(case.from_conv(nn.Conv2d(**geometry)), steps=1)
