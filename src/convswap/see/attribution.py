"""Attribution: which pixels support a class, by guided backpropagation, deconvolution, plain gradients or Grad-CAM.

Guided backpropagation (Springenberg et al., the All-CNN paper, arXiv:1412.6806) passes a gradient through a rectifier
only where both the gradient and the rectifier's input are positive. The deconvolution variant (Zeiler and Fergus,
arXiv:1311.2901) asks only for a positive gradient. Grad-CAM: Selvaraju et al., arXiv:1610.02391.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError, check_choice
from ..surgery.modes import evaluating
from ..surgery.sites import refuse_wrappers
from .layers import get_layer, last_map
from .rectifiers import Rectifying

METHODS = ("guided", "deconvolution", "gradient")


@dataclass(frozen=True)
class Attribution:
    """The gradient of each image's class score by a rule.

    Attributes:
        method: `"guided"`, `"deconvolution"` or `"gradient"`.
        values: (N, C, H, W).
        target: (N,), the class asked for.
        rectifiers: how many rectifiers the rule was applied at; 0 for the plain gradient.
        untouched: calls by name of other activations. The rule does not cover them, so their gradient is the plain one.
    """

    method: str
    values: Tensor
    target: Tensor
    rectifiers: int
    untouched: Mapping[str, int] = field(default_factory=dict)


def attribute(
    model: nn.Module, images: Tensor, target: int | Tensor | None = None, *, method: str = "guided"
) -> Attribution:
    """The gradient of the score of a class with respect to images, by a rule for rectifiers.

    Args:
        model: a classifier; it runs in eval mode and is left as it was.
        images: (N, C, H, W).
        target: a class, one for each image, or None for the class the model predicts.
        method: `"guided"`, `"deconvolution"` or `"gradient"`.

    Raises:
        ValueError: a model without rectifiers, for which the first two are not defined (never a silent plain gradient);
            a target that is not a class; an output that is not (N, classes).
    """
    check_choice("method", method, METHODS)
    refuse_wrappers(model)
    inputs = images.detach().clone().requires_grad_()
    rule = Rectifying(method)
    with evaluating(model), torch.enable_grad():
        if method == "gradient":
            output = model(inputs * 1)  # a copy: the model may work in place
        else:
            with rule:
                output = model(inputs * 1)
        if method != "gradient" and rule.met == 0:
            others = ", ".join(rule.left) or "none"
            raise UsageError(
                f"{type(model).__name__} runs no rectifier (other activations: {others}): {method} is not defined for "
                "it; use method='gradient' or grad_cam"
            )
        chosen = _targets(output, target)
        (gradient,) = torch.autograd.grad(output.gather(1, chosen[:, None]).sum(), inputs)
    return Attribution(method, gradient.detach(), chosen, rule.met, dict(rule.left))


def _targets(output: Any, target: int | Tensor | None) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"the model gives {shape}; scores (N, classes) are needed")
    if target is None:
        return output.detach().argmax(1)
    chosen = torch.as_tensor(target, device=output.device).expand(len(output)).long()
    if int(chosen.min()) < 0 or int(chosen.max()) >= output.shape[1]:
        raise UsageError(f"target={target!r} is not allowed; classes are 0 to {output.shape[1] - 1}")
    return chosen


@dataclass(frozen=True)
class GradCam:
    """Where in a layer's map the evidence for a class lies.

    Attributes:
        layer: its path.
        maps: (N, h, w), in the layer's size.
        target: (N,), the class asked for.
    """

    layer: str
    maps: Tensor
    target: Tensor

    def at(self, size: tuple[int, int]) -> Tensor:
        """The maps at another size (bilinear), such as the images'."""
        return F.interpolate(self.maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def grad_cam(
    model: nn.Module, images: Tensor, target: int | Tensor | None = None, *, layer: str | None = None, relu: bool = True
) -> GradCam:
    """relu(sum_k a_k A_k) of a layer's output A, a_k the mean over pixels of the gradient of the class score.

    Args:
        model: a classifier; it runs in eval mode and is left as it was.
        images: (N, C, H, W).
        target: a class, one for each image, or None for the class the model predicts.
        layer: a module's path; default: the last that gives a feature map.
        relu: leave out evidence against the class.

    Raises:
        ValueError: an unknown layer, no feature map there, no gradient to it; a target that is not a class.
    """
    refuse_wrappers(model)
    layer = last_map(model, images) if layer is None else layer
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise UsageError(f"layer={layer!r} gives no feature map (N, C, H, W)")
        seen[:] = [output]
        return output.clone()  # later layers may work in place

    handle = get_layer(model, layer).register_forward_hook(note)
    try:
        with evaluating(model), torch.enable_grad():
            output = model(images.detach().clone().requires_grad_() * 1)
            chosen = _targets(output, target)
            if not seen:
                raise UsageError(f"layer={layer!r} is not run by {type(model).__name__}")
            score = output.gather(1, chosen[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, seen[0], allow_unused=True)
    finally:
        handle.remove()
    if gradient is None:
        raise UsageError(f"layer={layer!r}: the scores do not depend on its last output")
    maps = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1)
    return GradCam(layer, (maps.relu() if relu else maps).detach(), chosen)
