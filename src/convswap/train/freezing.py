"""Layers that a training leaves as they are: their weights, and the statistics of their BatchNorms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..errors import UsageError
from ..surgery.selection import select_modules
from ..surgery.sites import Site
from .layers import modules_and_units


def frozen_layers(model: nn.Module, selection: str) -> list[nn.Module]:
    """The modules that a selection freezes. An empty selection freezes none.

    It is written as for `--where`: wildcards on the paths, `,` between alternatives, `&` for both, `!` for not, and the
    words `all`, `first` and `last`. It selects layers: units, modules with parameters or buffers of their own, and
    modules with no others inside. A module around layers that are all frozen is frozen, too.

    Raises:
        UsageError: the selection is misspelt, an alternative of it matches no layer with weights or statistics, or a
            weight also belongs to a layer that it leaves out.
    """
    if not selection:
        return []
    layers = _layers(model)
    names = _alternatives(layers, selection)
    chosen = [site.module for site in layers if site.path in names]
    frozen = {id(part) for layer in chosen for part in layer.modules()}
    _refuse_shared(layers, frozen, selection)
    return [module for module in model.modules() if all(id(part) in frozen for part in module.modules() if _ends(part))]


def _layers(model: nn.Module) -> list[Site]:
    """Units as a whole, and otherwise modules with no others inside or with tensors of their own."""
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    found = [module for module, is_unit in modules_and_units(model) if is_unit or _ends(module)]
    return [Site(tuple(paths[id(module)]), module) for module in found]


def _ends(module: nn.Module) -> bool:
    return _holds(module, recurse=False) or next(module.children(), None) is None


def _holds(module: nn.Module, *, recurse: bool) -> bool:
    """Has the module parameters or buffers?"""
    return any(True for found in (module.parameters(recurse), module.buffers(recurse)) for _ in found)


def _alternatives(layers: Sequence[Site], selection: str) -> set[str]:
    """The paths of the layers that any alternative selects."""
    chosen: set[str] = set()
    for part in selection.split(","):
        try:
            found = select_modules(layers, part.strip())
        except UsageError as error:
            raise UsageError(f"freeze={selection!r}: {error}") from error
        if not any(_holds(site.module, recurse=True) for site in found):
            held = [site.path or "(the model)" for site in layers if _holds(site.module, recurse=True)]
            raise UsageError(
                f"freeze={selection!r}: {part.strip()!r} matches none of the model's {len(held)} layers with weights "
                f"({', '.join(held[:4])}, ...); write a wildcard on these paths, such as 'layer1.*'"
            )
        chosen |= {site.path for site in found}
    return chosen


def _refuse_shared(layers: Sequence[Site], frozen: set[int], selection: str) -> None:
    mine = {id(p) for site in layers if id(site.module) in frozen for p in site.module.parameters()}
    for site in layers:
        if id(site.module) not in frozen and any(id(p) in mine for p in site.module.parameters()):
            raise UsageError(
                f"freeze={selection!r} freezes a weight that {site.path or 'the model'} shares and would train; "
                "name both layers, or neither"
            )


@contextmanager
def frozen(model: nn.Module, selection: str) -> Iterator[list[nn.Module]]:
    """Take the gradients of some layers away within the block, and give them back. Yields the frozen modules.

    Training must keep them in eval mode (`keep_still`). Then BatchNorm uses and keeps its running statistics, and
    dropout inside them does nothing.
    """
    modules = frozen_layers(model, selection)
    parameters = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield modules
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module in modules:
            module.training = model.training


def keep_still(modules: Sequence[nn.Module]) -> None:
    """Put frozen modules into eval mode again, after the `train()` of the network around them."""
    for module in modules:
        module.training = False
