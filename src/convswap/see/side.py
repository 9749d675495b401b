"""Several models side by side: the same measures of each, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import UsageError, described
from .atlas import Atlas, kernel_atlas
from .classes import StageClasses, classes_by_stage
from .field import ReceptiveField, receptive_field
from .kernels import LayerKernels, layer_kernels
from .layers import feature_maps, find_layers, pass_through
from .lowpass import LowPass, low_pass
from .reuse import Duplicates, Redundancy, channel_redundancy, duplicates_along
from .similarity import Similarity, layer_similarity

_SIMILAR, _FIELDS, _MAPS, _KERNELS = 16, 8, 4, 98
"""Layers compared by CKA; images of a receptive field and of kept maps; kernels on a sheet."""

T = TypeVar("T")


@dataclass(frozen=True)
class SideBySide:
    """What `compare_models` found. A model is missing from a measure that failed on it.

    Attributes:
        images: how many were passed.
        names: of the models.
        classes, low_pass, duplicates, redundancy: by model, as the functions of their types return them.
        atlases: by model, the sheets of its first and last strided or depthwise layer (of all layers, if it has none).
        fields: by model, the field of the last feature map, always by the rule of Luo et al.
        between: by model, the CKA of the first model (rows) with this one (columns).
        problems: what could not be measured, and why.
    """

    images: int
    names: tuple[str, ...]
    classes: dict[str, list[StageClasses]] = field(default_factory=dict)
    low_pass: dict[str, list[LowPass]] = field(default_factory=dict)
    atlases: dict[str, list[Atlas]] = field(default_factory=dict)
    fields: dict[str, ReceptiveField] = field(default_factory=dict)
    duplicates: dict[str, list[Duplicates]] = field(default_factory=dict)
    redundancy: dict[str, dict[str, Redundancy]] = field(default_factory=dict)
    between: dict[str, Similarity] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def compare_models(
    models: Mapping[str, nn.Module],
    images: Tensor,
    *,
    twins: Mapping[str, nn.Module] | None = None,
    tell: Callable[[str], None] | None = None,
) -> SideBySide:
    """The comparable measures of several models on the same images. The models are left as they were.

    Args:
        models: by the name to show; similarity is measured between the first and each other.
        images: (N, C, H, W), normalised as the models want them; 32 are enough. Fewer than 4 leave out the similarity.
        twins: models for which only the similarity with the first is measured. The first model trained from another
            seed, for example, shows how similar equal models are.
        tell: called with a short text before each step.

    Raises:
        ValueError: no models, or images that are not a batch.
    """
    if not models:
        raise UsageError("models={} is not allowed; give at least one")
    if images.dim() != 4 or not len(images):
        raise UsageError(f"images must be (N, C, H, W) with N of at least 1, got {tuple(images.shape)}")
    found = SideBySide(len(images), tuple(models))
    for name, model in models.items():
        if tell is not None:
            tell(f"kernels, receptive field and maps of {name}")
        _measure(found, name, model, images)
    (first, reference), *others = models.items()
    for name, model in (*(twins or {}).items(), *others):
        if tell is not None:
            tell(f"similarity of {first} and {name}")
        _put(found, found.between, name, "similarity", partial(_similarity, reference, model, images))
    return found


def _measure(found: SideBySide, name: str, model: nn.Module, images: Tensor) -> None:
    kernels = _attempt(found, name, "kernels", lambda: layer_kernels(model, images)) or []
    if kernels:
        _put(found, found.classes, name, "kernel classes", lambda: classes_by_stage(kernels))
        _put(found, found.low_pass, name, "low-pass numbers", lambda: low_pass(kernels))
        _put(
            found,
            found.atlases,
            name,
            "kernel atlas",
            lambda: [kernel_atlas(k, limit=_KERNELS) for k in _ends(kernels)],
        )
    _put(found, found.fields, name, "receptive field", lambda: _field(model, images))
    maps = _attempt(found, name, "feature maps", lambda: _maps(model, images)) or {}
    if maps:
        _put(found, found.duplicates, name, "repeated maps", lambda: duplicates_along(maps))
        _put(found, found.redundancy, name, "redundant channels", lambda: _redundancy(maps))


def _attempt(found: SideBySide, name: str, what: str, measure: Callable[[], T]) -> T | None:
    try:
        return measure()
    except Exception as error:  # any model may come: the page reports what fails and shows the rest
        found.problems.append(f"{name}: no {what}: {described(error)}")
        return None


def _put(found: SideBySide, where: dict[str, T], name: str, what: str, measure: Callable[[], T]) -> None:
    value = _attempt(found, name, what, measure)
    if value is not None:
        where[name] = value


def _ends(kernels: list[LayerKernels]) -> list[LayerKernels]:
    # Filters of a map of one pixel are numbers, with nothing to see.
    wide = [layer for layer in kernels if max(layer.weight.shape[-2:]) > 1]
    chosen = [layer for layer in wide if layer.depthwise or layer.strided] or wide
    return [chosen[0], chosen[-1]] if len(chosen) > 1 else chosen


def _field(model: nn.Module, images: Tensor) -> ReceptiveField:
    return receptive_field(model, images[:_FIELDS], gradient="absolute")


def _maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return feature_maps(model, images[:_MAPS], _mapped(model, images))


def _redundancy(maps: Mapping[str, Tensor]) -> dict[str, Redundancy]:
    return {name: channel_redundancy(m) for name, m in maps.items() if m.shape[1] > 1}


def _similarity(first: nn.Module, second: nn.Module, images: Tensor) -> Similarity:
    rows, columns = (_evenly(_mapped(model, images)) for model in (first, second))
    size = min(16, len(images))
    return layer_similarity(first, images, rows, other=second, other_layers=columns, batch_size=size)


def _mapped(model: nn.Module, images: Tensor) -> list[str]:
    """The convolutions and units that give a map of more than one pixel, in the order in which they run."""
    passed = pass_through(model, images[:1])
    names = {layer.name for layer in find_layers(model)}
    return [n for n, seen in passed.items() if n in names and len(seen.output) == 4 and min(seen.output[2:]) > 1]


def _evenly(names: list[str]) -> list[str]:
    return [names[i] for i in torch.linspace(0, len(names) - 1, min(_SIMILAR, len(names))).round().long().tolist()]
