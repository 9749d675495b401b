"""YOLO with units: a trainer that swaps the network it has built, and a `fuse()` that keeps the function.

ultralytics builds its network anew when training starts, so a network that was swapped before is thrown away. Its own
`fuse()`, which `predict`, `val` and `export` call, folds BatchNorms into what it takes for plain convolutions.

ultralytics is AGPL-3.0. It is no dependency of convswap: this module needs it to be installed already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks
from ultralytics.nn.modules import Detect
from ultralytics.utils import LOGGER

from ..errors import SurgeryError, UsageError
from ..surgery.applying import perform_swap
from ..surgery.fusing import plan_fuse
from ..surgery.history import append_history, history_of
from ..surgery.selection import Where
from ..surgery.sites import is_unit
from ..surgery.swapping import plan_swap

__all__ = ["adapt", "unit_trainer"]

_PREFIX = "Unit"
_classes: dict[type, type] = {}


def unit_trainer(
    yolo: Any, unit: str, *, where: Where | None = None, start: Literal["warm", "fresh"] = "warm", **options: Any
) -> type[BaseTrainer]:
    """A trainer for `yolo.train(trainer=...)` that puts units into the network that ultralytics has built.

    Weights are transferred by ultralytics, into plain convolutions, and the units then start from them. A checkpoint
    that already has these units is continued: its surgery is repeated, and its weights are loaded into the units.

    Args:
        yolo: a `YOLO` (its task decides the trainer), or a trainer class.
        unit: registry name.
        where: which convolutions; by default the unit's own places.
        start: `"warm"` or `"fresh"`.
        options: options of the unit.

    Returns:
        A subclass of the trainer. During training its attribute `plan` says what was replaced. It raises `UsageError`
        where a checkpoint holds other units, and `SurgeryError` where units got lost before the first step.
    """
    base = yolo if isinstance(yolo, type) else yolo.task_map[yolo.task]["trainer"]
    if not issubclass(base, BaseTrainer):
        raise UsageError(f"yolo={yolo!r} is not allowed; give a YOLO, or a class of trainers")
    asked = {"unit": unit, "where": where, "start": start, "options": options}
    return cast(type[BaseTrainer], type(f"{_PREFIX}{base.__name__}", (_SwapsItsModel, base), {"asked": asked}))


class _SwapsItsModel:
    """Mixin before a trainer of ultralytics."""

    asked: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast(Any, self).add_callback("on_train_start", _check_nothing_lost)

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """The network that ultralytics builds, with units."""
        build = cast(Any, super()).get_model
        if weights is not None and any(map(is_unit, weights.modules())):
            model = _continued(build(cfg, None, verbose), weights, self.asked)
        else:
            model = build(cfg, weights, verbose)
            model.eval()
            unit, rest = self.asked["unit"], {key: self.asked[key] for key in ("where", "start")}
            self.plan = plan_swap(model, unit, example_input=_example(model), **rest, **self.asked["options"])
            self.plan.apply(inplace=True)
            found, left = len(self.plan.replacements), len(self.plan.skipped)
            LOGGER.info(f"convswap: {found} convolutions are now {unit}, {left} selected ones stay")
        adapt(model)
        self.expected = sum(map(is_unit, model.modules()))
        return model.train()


def _continued(model: nn.Module, weights: nn.Module, asked: dict[str, Any]) -> nn.Module:
    """A plain network with the surgery of a checkpoint repeated, and its weights.

    Raises:
        UsageError: the checkpoint is fused, its surgery is unknown, or it holds other units than those asked for.
        SurgeryError: weights of a unit were not transferred.
    """
    records = history_of(weights)
    units = {(record.get("unit"), str(record.get("options"))) for record in records}
    if units != {(asked["unit"], str(asked["options"]))} or any(record["kind"] != "swap" for record in records):
        held = ", ".join(f"{unit} {options}" for unit, options in sorted(units, key=str)) or "units of unknown origin"
        raise UsageError(
            f"the checkpoint holds {held}, and unit={asked['unit']!r} with options {asked['options']} was asked for; "
            "ask for the units that it holds (unfused), or start from a plain checkpoint"
        )
    for record in records:
        model = perform_swap(model, record)[0]
        append_history(model, record)
    cast(Any, model).load(weights)
    mine, theirs = model.state_dict(), weights.state_dict()
    for path, unit in model.named_modules():
        if is_unit(unit):
            for name in (f"{path}.{key}" for key in unit.state_dict()):
                if isinstance(theirs.get(name), Tensor) and not torch.equal(mine[name], theirs[name].to(mine[name])):
                    raise SurgeryError(f"{name} of the checkpoint was not transferred, shapes differ: train from yaml")
    return model


def _check_nothing_lost(trainer: Any) -> None:
    """Called before the first step: the network, its moving average and the optimizer hold the units."""
    model = getattr(trainer.model, "module", trainer.model)
    for name, holder in (("model", model), ("moving average", trainer.ema and trainer.ema.ema)):
        found = trainer.expected if holder is None else sum(map(is_unit, holder.modules()))
        if found != trainer.expected:
            raise SurgeryError(f"the trainer's {name} has {found} of {trainer.expected} units; something rebuilt it")
    held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    for path, unit in model.named_modules():
        if is_unit(unit) and any(p.requires_grad and id(p) not in held for p in unit.parameters()):
            raise SurgeryError(f"the trainer's optimizer does not hold the parameters of {path}; it would not train")


def adapt(model: nn.Module) -> nn.Module:
    """Let an ultralytics network that was swapped or fused by convswap be used by `predict`, `val` and `export`.

    They call `model.fuse()`. The network gets a class of its own, derived from the one it has, whose `fuse()` is
    convswap's: exact for every unit. It changes the network in place and returns it.
    """
    if not isinstance(model, _FusesUnits):
        model.__class__ = _unit_class(type(model))
    model.__dict__.pop("fuse", None)  # the guard that a swap puts before a host's own fuse(), which now is ours
    return model


class _FusesUnits:
    """Mixin before a network of ultralytics."""

    def fuse(self, verbose: bool = True, imgsz: Any = 640) -> nn.Module:
        """Fuse in place, units included; nothing is left to do a second time."""
        model = cast(Any, self)
        if self.is_fused():
            return model
        if not any(map(is_unit, model.modules())):
            return cast(Any, super()).fuse(verbose=verbose, imgsz=imgsz)
        model.__dict__["fuse"] = None  # else convswap would call this very method to merge the network as one block
        try:
            plan = plan_fuse(model.eval(), _example(model))
        finally:
            del model.__dict__["fuse"]
        plan.apply(inplace=True)
        model.__dict__.pop("fuse", None)
        for head in model.modules():
            if isinstance(head, Detect):
                head.fuse()  # ultralytics' own: drops the branch of an end-to-end head that only training uses
        if verbose:
            LOGGER.info(f"convswap: {str(plan).splitlines()[0]}")
        return model

    def is_fused(self) -> bool:
        """Did convswap fuse this network, or has it nothing to fuse?"""
        done = any(record["kind"] == "fuse" for record in history_of(cast(nn.Module, self)))
        return done or cast(Any, super()).is_fused()


def _unit_class(base: type) -> type:
    """The class of networks with units, always the same one. Pickle finds it by its name, see `__getattr__`."""
    if base not in _classes:
        _classes[base] = type(f"{_PREFIX}{base.__name__}", (_FusesUnits, base), {"__module__": __name__})
    return _classes[base]


def __getattr__(name: str) -> type:
    base = getattr(tasks, name.removeprefix(_PREFIX), None) if name.startswith(_PREFIX) else None
    if isinstance(base, type) and issubclass(base, nn.Module):
        return _unit_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _example(model: nn.Module) -> Tensor:
    """One random image, four strides wide, as the network's first convolution takes it."""
    weights: Sequence[Tensor] = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) or is_unit(m)]  # type: ignore[misc]
    strides = getattr(model, "stride", torch.tensor([32.0]))
    side = max(64, 2 * int(torch.as_tensor(strides).max()))
    channels = cast(Any, model).yaml.get("channels", 3)
    image = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    return image.to(weights[0])
