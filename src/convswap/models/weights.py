"""Starting a model from trained weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from ..errors import StoreError, UsageError
from ..marks import KEY, Marked, difference, marks_in, with_marks, writes_mark
from ..surgery.history import history_of
from .state import read_state_dict


def load_weights(model: nn.Module, path: str | Path) -> list[str]:
    """Load a file of weights into a model, in place. Call this before the model is swapped.

    The file is a safetensors file or a state dict saved by torch (bare, or under `"state_dict"` or `"model"`). A
    leading `module.` is removed. Everything must fit, except that a classifier of another size (other classes) keeps
    its fresh weights.

    Returns:
        The names of the parameters that stay fresh: those of the classifier, or none.

    Raises:
        UsageError: there is no such file, or the model is swapped already and the file is not.
        StoreError: the file is damaged or holds a fused or swapped model, or its names or shapes do not fit.
    """
    given = _of_this_model(model, read_state_dict(path), path)
    wanted = model.state_dict()
    fresh = _fresh_classifier(model, given, wanted)
    given = {name: value for name, value in given.items() if name not in fresh}
    problems = misfits(given, wanted, fresh)
    if problems:
        raise StoreError(f"weights file {str(path)!r} does not fit {name_of_model(model)}: {problems}")
    model.load_state_dict(given, strict=False)  # checked strictly above, except for the names that may stay fresh
    return sorted(fresh)


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], fresh: Collection[str] = ()) -> str:
    """In what a state dict differs from the one a model needs (marks aside), in one line. Empty if it fits.

    Args:
        given, wanted: the tensors by name.
        fresh: names that may be missing.
    """
    given, wanted = ({n: t for n, t in state.items() if not n.endswith(KEY)} for state in (given, wanted))
    # Older files and files of other tools lack this counter. BatchNorm then starts it at zero.
    missing = [n for n in wanted if n not in given and n not in fresh and not n.endswith("num_batches_tracked")]
    problems = [f"missing {name}" for name in missing]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in given
        if name in wanted and given[name].shape != wanted[name].shape
    ]
    return ", ".join(problems[:6]) + (f", ... ({len(problems)} in all)" if len(problems) > 6 else "")


def _of_this_model(model: nn.Module, given: dict[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The state with the marks of the model's own units, unless its marks, or a swap of the model, speak against it."""
    units = {name: module for name, module in model.named_modules(remove_duplicate=False) if writes_mark(module)}
    marks = marks_in(given)
    for place, mark in marks.items():
        if place not in units:
            raise StoreError(
                f"weights file {str(path)!r} holds a {mark['unit']} unit at {place}, whose weights mean another "
                "function in a plain convolution; swap the model first and use model.load_state_dict, or give the "
                "weights from before the swap"
            )
        reason = difference(given[f"{place}.{KEY}".lstrip(".")], cast(Marked, units[place]).mark())
        if reason is not None:
            raise StoreError(f"weights file {str(path)!r} does not fit {name_of_model(model)}: {place}: {reason}")
    if marks or not units:
        return given
    if history_of(model):
        raise UsageError(
            f"weights={str(path)!r} holds the weights of a plain model, but {name_of_model(model)} is swapped already; "
            "load them before the swap, or with convswap.load_plain(model, state)"
        )
    return with_marks(model, given)  # a network by name: published weights of its units bear no marks


def classifier_path(model: nn.Module) -> str | None:
    """The module path of the layer that makes the logits, or None if no layer is recognised.

    timm models declare this layer. In other models it is the last linear layer, or the last 1x1 convolution if there
    are no linear layers (SqueezeNet).
    """
    ask = getattr(model, "get_classifier", None)
    if callable(ask):
        classifier = ask()
        for path, module in model.named_modules():
            if module is classifier and not isinstance(module, nn.Identity):
                return path
    linears = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if linears:
        return linears[-1]
    convs = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    return convs[-1] if convs else None


def _fresh_classifier(model: nn.Module, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> set[str]:
    """The parameters of the classifier if the file's classifier has another number of outputs, else nothing."""
    path = classifier_path(model)
    names = {n for n in wanted if path is not None and n.startswith(f"{path}.") and not n.endswith(KEY)}
    other = {name for name in names if name in given and given[name].shape != wanted[name].shape}
    return names if other and all(_only_outputs_differ(given[name], wanted[name]) for name in other) else set()


def _only_outputs_differ(given: Tensor, wanted: Tensor) -> bool:
    # Features of another width mean another network, not other classes. That stays an error.
    return given.ndim == wanted.ndim and given.shape[1:] == wanted.shape[1:] and given.shape[0] != wanted.shape[0]


def name_of_model(model: nn.Module) -> str:
    """The name by which `create_model` made the model, else that of its class."""
    constructor = getattr(model, "_convswap_constructor", None)
    return str(constructor["model"]) if constructor else type(model).__name__
