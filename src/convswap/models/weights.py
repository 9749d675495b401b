"""Starting a model from trained weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..errors import StoreError
from .state import read_state_dict


def load_weights(model: nn.Module, path: str | Path) -> list[str]:
    """Load a file of weights into a model, in place. Call this before the model is swapped.

    The file is a safetensors file or a state dict saved by torch (bare, or under `"state_dict"` or `"model"`). A
    leading `module.` is removed. Everything must fit, except that a classifier of another size (other classes) keeps
    its fresh weights.

    Returns:
        The names of the parameters that stay fresh: those of the classifier, or none.

    Raises:
        UsageError: there is no such file.
        StoreError: the file is damaged or holds a fused or swapped model, or its names or shapes do not fit.
    """
    given = read_state_dict(path)
    wanted = model.state_dict()
    fresh = _fresh_classifier(model, given, wanted)
    given = {name: value for name, value in given.items() if name not in fresh}

    # Older files and files of other tools lack this counter. BatchNorm then starts it at zero.
    missing = [n for n in wanted if n not in given and n not in fresh and not n.endswith("num_batches_tracked")]
    problems = [f"missing {name}" for name in missing]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in given
        if name in wanted and given[name].shape != wanted[name].shape
    ]
    if problems:
        more = f", ... ({len(problems)} in all)" if len(problems) > 6 else ""
        raise StoreError(f"weights file {str(path)!r} does not fit {_name(model)}: {', '.join(problems[:6])}{more}")
    model.load_state_dict(given, strict=False)  # checked strictly above, except for the names that may stay fresh
    return sorted(fresh)


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
    names = {name for name in wanted if path is not None and name.startswith(f"{path}.")}
    other = {name for name in names if name in given and given[name].shape != wanted[name].shape}
    return names if other and all(_only_outputs_differ(given[name], wanted[name]) for name in other) else set()


def _only_outputs_differ(given: Tensor, wanted: Tensor) -> bool:
    # Features of another width mean another network, not other classes. That stays an error.
    return given.ndim == wanted.ndim and given.shape[1:] == wanted.shape[1:] and given.shape[0] != wanted.shape[0]


def _name(model: nn.Module) -> str:
    constructor = getattr(model, "_convswap_constructor", None)
    return str(constructor["model"]) if constructor else type(model).__name__
