"""State dictionaries, copies and pickles."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from ...marks import KEY, as_tensor, marks_in, read
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


def _bears_a_mark(case: Case) -> bool:
    # The state of the plain convolution as a unit is a plain convolution's.
    return case.spec.name != "conv"


@rule(only=_bears_a_mark)
def state_says_what_it_is_of(case: Case) -> None:
    """The state must bear the unit's mark through safetensors, a cast and an average, and load bit by bit."""
    unit = lived_in(case)
    state = unit.state_dict()
    mark = marks_in(state).get("")
    demand(mark is not None, f"the state has no mark; leave {KEY} to the base")
    demand(mark == unit.mark(), f"the mark says {mark}")
    other = case.home().eval()
    other.load_state_dict(load(save({name: value.clone() for name, value in state.items()})), strict=True)
    x = image(unit)
    demand(torch.equal(other(x), unit(x)), "a new unit with the state from a safetensors file is another function")
    for how, changed in (("a cast", state[KEY].bfloat16()), ("an average", (state[KEY].double() * 3) / 3)):
        demand(read(changed) == mark, f"{how} of the state dict destroys the mark")


@rule(only=_bears_a_mark)
def state_of_another_unit_is_refused(case: Case) -> None:
    """A state of another unit, or of this one with another option, must be refused, and nothing of it loaded."""
    unit = lived_in(case)
    others = {"another unit": {"unit": "another_unit", "options": {}}}
    for name in unit.options:
        changed = {**unit.mark()["options"], name: "another value"}
        others[f"another {name}"] = {"unit": unit.mark()["unit"], "options": changed}
    kept = {name: value.clone() for name, value in unit.state_dict().items()}
    for what, mark in others.items():
        state = {name: value + 1 for name, value in kept.items()} | {KEY: as_tensor(mark, torch.device("cpu"))}
        raised(f"loading the state of {what}", RuntimeError, partial(unit.load_state_dict, state), "the state given is")
        missing = set(unit.load_state_dict(state, strict=False).missing_keys)
        demand(missing == kept.keys() - {n for n in kept if n.endswith(KEY)}, f"strict=False misses only {missing}")
        left = all(torch.equal(value, kept[name]) for name, value in unit.state_dict().items())
        demand(left, f"the refused state of {what} was loaded in part")


@rule(CONVOLUTIONS)
def plain_state_starts_the_unit(case: Case) -> None:
    """An `nn.Conv2d`'s state dict must start the unit as `from_conv` does, or be refused where it keeps nothing."""
    for geometry in case.geometries():
        conv, unit = nn.Conv2d(**geometry).eval(), lived_in(case, geometry)
        load_plain = partial(unit.load_state_dict, conv.state_dict(), strict=True)
        if case.spec.constant_weight:  # trained kernels would be dropped, which must not happen silently
            raised("loading trained kernels", RuntimeError, load_plain, "weight holds other kernels")
            continue
        kind = case.cls.warm_start_for(conv, **unit.options) or case.spec.warm_start
        if kind == "none" or case.cls.absorbs_batch_norm:
            raised("loading a plain state", RuntimeError, load_plain, "load it before the swap")
            continue
        with torch.random.fork_rng(devices=[]):
            started = case.cls.from_conv(conv, **unit.options)
        load_plain()
        x = image(conv, size=(11, 10))
        demand(torch.equal(unit(x), started(x)), f"the function is not that of from_conv in {geometry}")


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
