"""All measures of one model in one call: `look(model, images)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .atlas import Atlas, kernel_atlas
from .attribution import Attribution, GradCam, attribute, grad_cam
from .classes import StageClasses, classes_by_stage
from .field import NoFieldError, ReceptiveField, receptive_field
from .kernels import LayerKernels, layer_kernels
from .layers import feature_maps, pass_through
from .lowpass import LowPass, evenly, low_pass, spread
from .mass import StageMass, mass_by_stage
from .reuse import Duplicates, Redundancy, channel_redundancy, duplicates_along
from .similarity import Similarity, layer_similarity
from .spectra import KernelSpectrum, MapSpectrum, kernel_spectrum, map_spectra

_SIMILAR, _FIELDS, _MAPS, _EXPLAINED = 16, 4, 4, 3
"""Layers compared by CKA and shown as fields; images whose maps are kept; images that are explained."""


@dataclass(frozen=True)
class Seen:
    """What `look` found in one model. Each part is returned by the function of its type.

    Attributes:
        name: the model's.
        images: how many images were passed.
        notes: what could not be seen, and why.
    """

    name: str
    images: int
    kernels: list[LayerKernels]
    atlases: list[Atlas]
    classes: list[StageClasses]
    low_pass: list[LowPass]
    spectra: dict[str, KernelSpectrum]
    masses: list[StageMass]
    fields: dict[str, ReceptiveField]
    map_spectra: dict[str, MapSpectrum]
    duplicates: list[Duplicates]
    redundancy: dict[str, Redundancy]
    similarity: Similarity | None
    attributions: list[Attribution]
    cam: GradCam | None
    notes: list[str] = field(default_factory=list)


def look(
    model: nn.Module,
    images: Tensor,
    *,
    name: str = "model",
    layers: Sequence[str] | None = None,
    limit: int = 2048,
    tell: Callable[[str], None] | None = None,
) -> Seen:
    """All measures of this room on one model, which is left as it was.

    Args:
        model: a classifier of images, or any model that makes feature maps.
        images: (N, C, H, W), normalised as the model wants them; 32 are enough. Fewer than 4 leave out the similarity.
        name: what to call it.
        layers: show the receptive fields of these; default: the last layer of each of the last stages.
        limit: at most this many kernels on a sheet.
        tell: called with a short text before each step.

    Raises:
        ValueError: images that are not a batch; a name that is not a layer.
    """
    if images.dim() != 4 or not len(images):
        raise UsageError(f"images must be (N, C, H, W) with N of at least 1, got {tuple(images.shape)}")
    say = tell or (lambda text: None)
    notes: list[str] = []
    say("reading kernels")
    kernels = layer_kernels(model, images)
    say("sorting kernels")
    atlases = [kernel_atlas(layer, limit=limit) for layer in kernels]
    classes = classes_by_stage(kernels, [atlas.classes for atlas in atlases])
    say("spectra and size of kernels")
    low, spectra, masses = low_pass(kernels), _spectra(kernels), mass_by_stage(kernels)
    passed = pass_through(model, images[:1])
    say("receptive fields")
    fields = _fields(model, images[:8], layers or _ends_of_stages(passed), notes)
    say("feature maps")
    mapped = [n for n, p in passed.items() if len(p.output) == 4 and min(p.output[2:]) > 1]
    maps = feature_maps(model, images[:_MAPS], mapped)
    some = _some(maps, _SIMILAR)
    map_spectra_, duplicates = map_spectra(some), duplicates_along(maps)
    redundancy = {n: channel_redundancy(m) for n, m in maps.items() if m.shape[1] > 1}
    say("similarity of layers")
    similarity = _similarity(model, images, list(some), notes)
    say("attributions")
    attributions, cam = _explain(model, images[:_EXPLAINED], notes)
    return Seen(
        name=name,
        images=len(images),
        kernels=kernels,
        atlases=atlases,
        classes=classes,
        low_pass=low,
        spectra=spectra,
        masses=masses,
        fields=fields,
        map_spectra=map_spectra_,
        duplicates=duplicates,
        redundancy=redundancy,
        similarity=similarity,
        attributions=attributions,
        cam=cam,
        notes=notes,
    )


def _spectra(kernels: Sequence[LayerKernels]) -> dict[str, KernelSpectrum]:
    spectra = {}
    for layer in kernels:
        wide = spread(evenly(layer.kernels, 8192), layer.dilation)
        if bool((wide != 0).any()):
            spectra[layer.name] = kernel_spectrum(wide, size=max(64, *wide.shape[-2:]))
    return spectra


def _ends_of_stages(passed: Mapping[str, object]) -> list[str]:
    """The last convolution of each of the last map sizes."""
    last: dict[tuple[int, ...], str] = {}
    for name, seen in passed.items():
        shape = seen.output  # type: ignore[attr-defined]
        if len(shape) == 4 and min(shape[2:]) > 1:
            last[shape[2:]] = name
    return sorted(last.values(), key=list(passed).index)[-_FIELDS:]


def _fields(model: nn.Module, images: Tensor, layers: Sequence[str], notes: list[str]) -> dict[str, ReceptiveField]:
    found = {}
    for layer in layers:
        try:
            # Convolutions are followed by norms that move zero, so the sign of their bare output means nothing.
            found[layer] = receptive_field(model, images, layer, gradient="absolute")
        except NoFieldError as reason:
            notes.append(f"no receptive field: {reason}")
    return found


def _some(maps: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    names = list(maps)
    if len(names) > count:
        names = [names[int(i)] for i in torch.linspace(0, len(names) - 1, count).round()]
    return {name: maps[name] for name in names}


def _similarity(model: nn.Module, images: Tensor, layers: list[str], notes: list[str]) -> Similarity | None:
    if len(images) < 4 or not layers:
        notes.append(f"no similarity of layers: {len(images)} images are fewer than 4")
        return None
    return layer_similarity(model, images, layers, batch_size=min(16, len(images)))


def _explain(model: nn.Module, images: Tensor, notes: list[str]) -> tuple[list[Attribution], GradCam | None]:
    """Attributions by every rule that is defined for the model. A note names the rules that are not."""
    try:
        plain = attribute(model, images, method="gradient")
    except (UsageError, RuntimeError) as reason:
        notes.append(f"no attributions: {reason}")
        return [], None
    found = []
    for method in ("guided", "deconvolution"):
        try:
            found.append(attribute(model, images, plain.target, method=method))
        except UsageError as reason:
            notes.append(str(reason))
    if found and found[0].untouched:
        left = ", ".join(f"{count} {name}" for name, count in found[0].untouched.items())
        notes.append(
            f"guided backpropagation and deconvolution apply to {found[0].rectifiers} rectifiers; the gradient of "
            f"other activations is the plain one: {left}"
        )
    return [*found, plain], grad_cam(model, images, plain.target)
