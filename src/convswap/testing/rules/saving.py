"""A trained unit in a model on disk, fused and not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from ...surgery import fuse, plan_swap
from ...surgery.history import constructor_of
from ..aids import image, lived_in, randomize_batch_norms, train_steps
from ..case import Case
from ..rule import CONVOLUTIONS, demand, rule

_HOST = "convswap.testing.hosts:small_host"


@rule()
def fused_form_follows_from_the_options_alone(case: Case) -> None:
    """The fused form of a trained unit must load into that of a new one: values must not change its structure."""
    unit = lived_in(case, dtype=torch.float64)
    fused = unit.fuse()
    new = case.home(dtype=torch.float64).eval().fuse()
    trained, fresh = (_structure(module) for module in (fused, new))
    demand(trained == fresh, f"fused after training it is {trained}, fused before {fresh}")
    new.load_state_dict(fused.state_dict(), strict=True)
    x = image(unit)
    demand(torch.equal(new(x), fused(x)), "a new fused form with the trained one's state dict is another function")


def _structure(module: nn.Module) -> dict[str, str]:
    return {path: f"{type(child).__name__}({child.extra_repr()})" for path, child in module.named_modules()}


@rule(CONVOLUTIONS)
def saves_and_loads_after_training(case: Case) -> None:
    """A model with the unit, trained for two steps, must come back equal from `save` and `load`, fused and not."""
    from ...models import create_model

    geometry = case.homes()[0]
    model = create_model(_HOST, num_classes=3, geometry=geometry)
    x = torch.randn(2, geometry["in_channels"], 9, 8)
    model = plan_swap(model, case.spec.name, where="0", example_input=x, **case.options).apply()
    trained = nn.Sequential(model)
    trained.in_channels = geometry["in_channels"]
    train_steps(trained, steps=2)
    randomize_batch_norms(model)
    model.eval()
    demand_saved(model, x, "the trained model")
    demand_saved(fuse(model, x), x, "the trained and fused model")


def demand_saved(model: nn.Module, x: torch.Tensor, what: str) -> None:
    """Raise unless a model computes the same after `convswap.save` and `convswap.load`."""
    from ...models import load, save
    from ..hosts import small_host

    built = constructor_of(model)
    own = built is not None and built["model"] == _HOST
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = save(model, Path(folder) / "model.safetensors")
        loaded = load(path, constructor=small_host if own else None)
        demand(torch.equal(loaded(x), model(x)), f"{what} is another function after save and load")
