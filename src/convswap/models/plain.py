"""Starting a swapped model from weights that its host had before the swap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UsageError
from ..hooks import Hooks
from ..marks import KEY, name_of, writes_mark
from ..surgery.history import history_of
from ..surgery.sites import sites
from ..units.contract.start import FromConv
from ..units.contract.state import plain_shape, started_unit
from .state import unwrap_state_dict
from .weights import misfits, name_of_model

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def load_plain(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Load the state of a plain host into its swapped model, in place: as if the weights had been loaded first.

    Every unit starts from the convolution in its place, as `from_conv` does, and from the BatchNorm that the swap
    removed. A unit without a warm start keeps of them what `swap` would have kept. Everything else loads strictly.

    Args:
        model: a model changed by `swap`, or a host with units that its author put in.
        state: a state dict, or a training checkpoint that holds one under `"state_dict"` or `"model"`. A part of a
            network that bears marks is loaded as it is.

    Returns:
        The model.

    Raises:
        UsageError: a name or a shape does not fit, or a block unit stands where the state has a residual block. The
            model is then as it was.
        StoreError: `state` is no state dict.

    >>> host = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> from convswap.surgery import swap
    >>> swapped = load_plain(swap(host, "circle", where="all", start="fresh"), host.state_dict())
    >>> bool((swapped[0].effective_weight() - host[0].weight).abs().max() < 1e-6)
    True
    """
    given = unwrap_state_dict(state)
    removed = _removed_norms(model)
    for site in sites(model):
        for path in site.paths if writes_mark(site.module) else ():
            given = _started(site.module, path, given, removed.get(path, []))
    problems = misfits(given, model.state_dict())
    if problems:
        raise UsageError(f"the state does not fit {name_of_model(model)}: {problems}")
    model.load_state_dict(given, strict=False)  # checked strictly above, except for the counters of BatchNorm
    return model


def _started(unit: nn.Module, path: str, given: dict[str, Tensor], norms: list[str]) -> dict[str, Tensor]:
    """The state with a started unit's entries in the place of its convolution's and of the removed BatchNorms'."""
    prefix = f"{path}.".lstrip(".")
    own = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    if not own or KEY in own:
        return given
    if not isinstance(unit, FromConv):
        raise UsageError(
            f"{path} is {name_of(type(unit))}, which starts fresh whatever stood there; load the weights before the "
            "swap"
        )
    strangers = sorted(own.keys() - {"weight", "bias"})
    if strangers or "weight" not in own:
        found = f"holds {', '.join(strangers[:3])}" if strangers else "has no weight"
        raise UsageError(f"the state {found} at {path}, so it is not a plain convolution's; use model.load_state_dict")
    here, there = tuple(own["weight"].shape), plain_shape(unit)
    if here != there:
        raise UsageError(f"{prefix}weight has shape {here}, and the convolution there had {there}")
    new = started_unit(unit, own, deliberate=True)
    for norm in norms:
        learned = {part: given[f"{norm}.{part}"] for part in _NORM if f"{norm}.{part}" in given}
        if "running_mean" in learned:
            cast(Hooks, new).start_from_batch_norm(_norm(learned, new))
    gone = {prefix + name for name in own} | {f"{norm}.{part}" for norm in norms for part in _NORM}
    rest = {name: value for name, value in given.items() if name not in gone}
    return rest | {prefix + name: value for name, value in new.state_dict().items()}


def _norm(learned: dict[str, Tensor], unit: nn.Module) -> nn.Module:
    """The host's BatchNorm, with the eps that the swap gave to the unit's own."""
    eps = next((module.eps for module in unit.modules() if isinstance(module, _BatchNorm)), 1e-5)
    mean = learned["running_mean"]
    norm = nn.BatchNorm2d(len(mean), eps=eps, affine="weight" in learned, device=mean.device, dtype=mean.dtype)
    norm.load_state_dict(learned, strict=False)
    return norm.eval()


def _removed_norms(model: nn.Module) -> dict[str, list[str]]:
    """The paths from which each unit has taken a layer of the host, by the unit's path."""
    found: dict[str, list[str]] = {}
    for record in history_of(model):
        if record["kind"] == "swap":
            absorbed = record.get("absorbed", [[]] * len(record["paths"]))
            for paths, layers in zip(record["paths"], absorbed, strict=True):
                for path in paths:
                    found.setdefault(path, []).extend(layers or [])
    return found
