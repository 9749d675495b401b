"""Circle kernels: K^2 weights on concentric circles instead of on the square lattice (arXiv:2107.02451)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import check_choice
from ..contract.registry import register_unit
from ..contract.weight import WeightUnit
from . import geometry


@register_unit(
    "circle",
    paper="arXiv:2107.02451",
    year=2021,
    summary="weights on concentric circles, read by bilinear interpolation",
    warm_start="exact",
    fusion="conv",
    variants=(
        {"angles": "arctan"},
        {"ring": "floor"},
        {"radius": 1.2},
        {"radius": "learnable"},
    ),
    no_weight_decay=("radius_logit",),
)
class CircleConv2d(WeightUnit):
    """A convolution whose K^2 weights are applied on concentric circles: `effective_weight() = w T`.

    Weight i of ring r (0, 1, .., (K-1)/2) is applied at distance r from the centre, at its ring's angle. Positions
    between lattice pixels are read bilinearly. That reading is a fixed K^2 x K^2 matrix T (`circle_geometry`), so
    the layer is one ordinary convolution with weight `w T`, with w stored as (out, in/groups, K, K). With a
    dilation the interpolation is between the dilated taps. Each row of T sums to 1: `sum(w T) = sum(w)`.

    What to expect: for K = 3, 5 and 7 the default T is invertible (condition numbers 2.5, 8.6, 377), so the layer
    spans **exactly the functions of the square kernel**. It differs in its initialisation, in the
    preconditioning of the gradient (by T T^T) and in what weight decay penalises. The receptive field is a disc
    only from K = 9 on, where T is singular and the corner pixels are not read.

    Starting from a trained convolution solves `w T = W` in float64: exact where T is invertible, least squares
    where it is not (`warm_start_for` says which). The official code starts all weights at zero, which leaves
    stacked circle layers dead for good; here they start as those of `nn.Conv2d`.

    Inferred by us: every spatial convolution except the stem is replaced (`default_where`). Everything about the
    learnable radius, which only the abstract of the paper's first version mentions.

    Args:
        angles: `"even"`, points evenly spaced on their ring (the paper's text), or `"arctan"`, each point in its
            lattice direction (the official search space). The same for K = 3.
        ring: `"max"`, the ring of the square lattice, or `"floor"`, the floor of the Euclidean distance as in
            the official code, where the corners of K = 7 get radius 4. The same for K = 3 and 5.
        radius: a factor from 0 to sqrt(2) on every ring's radius, or `"learnable"`: one factor per ring, starting
            at 1 and kept inside (0, sqrt(2)) by `sqrt(2) * sigmoid(radius_logit)`, not weight decayed. Positions
            are clamped to the window. At K = 3 the family is center (0), diamond (0.7071), circle (1) and
            square (sqrt(2)).

    The other arguments are those of `nn.Conv2d`; the kernel must be square, odd and at least 3x3.

    Raises:
        ValueError: an option or the kernel size is not allowed.
    """

    matrix: Tensor
    powers: Tensor
    base: Tensor
    step: Tensor

    def setup(self, *, angles: str = "even", ring: str = "max", radius: float | str = 1.0) -> None:
        """Check the options and build the unit; see the class."""
        check_choice("angles", angles, geometry.ANGLES)
        check_choice("ring", ring, geometry.RINGS)
        self.size = geometry.check_size(self.kernel_size)
        self.angles = angles
        self.ring = ring
        self.radius = radius if radius == "learnable" else geometry.check_factor("radius", radius)
        if radius == "learnable":
            rings = geometry.rays(self.size, angles, ring)[1].shape[0]
            self.radius_logit = nn.Parameter(torch.empty(rings, **self.place))
            self.reset_radius()
        self.register_constants()

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why a circle cannot stand there (its kernel is not square, not odd or 1x1), or None."""
        return geometry.refused_kernel(conv)

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"]:
        """`"exact"` where T is invertible (K = 3, 5, 7 by default), `"approximate"` where it is not (K >= 9)."""
        radius = options.get("radius", 1.0)
        factor = 1.0 if radius == "learnable" else geometry.check_factor("radius", radius)
        return _start(conv.kernel_size[0], options.get("angles", "even"), options.get("ring", "max"), factor)

    def constants(self) -> dict[str, Tensor]:
        """T (`matrix`); with a learnable radius, the matrices from which the ring factors form T."""
        if self.radius != "learnable":
            return {"matrix": geometry.sampling_matrix(self.size, self.angles, self.ring, float(self.radius))}
        if self.size == 3:
            return {"powers": geometry.corner_polynomial()}
        base, step = geometry.rays(self.size, self.angles, self.ring)
        return {"base": base, "step": step}

    def reset_parameters(self) -> None:
        """Draw the weight and bias as `nn.Conv2d` does; a learnable radius returns to 1."""
        super().reset_parameters()
        if "radius_logit" in self._parameters:  # not yet there when nn.Conv2d's constructor calls this
            self.reset_radius()

    def reset_radius(self) -> None:
        """Put every ring of a learnable radius back to the factor 1, the circle."""
        nn.init.constant_(self.radius_logit, -math.log(geometry.LARGEST_FACTOR - 1))

    def ring_factors(self) -> Tensor:
        """The factor of each learnable ring's radius, (rings,), in at least float32; differentiable."""
        logit = self.radius_logit.to(torch.promote_types(self.radius_logit.dtype, torch.float32))
        return geometry.LARGEST_FACTOR * logit.sigmoid()

    def sampling_matrix(self) -> Tensor:
        """T (K^2, K^2) at the current radius; `T[i, j]` is what weight i reads of lattice pixel j."""
        if self.radius != "learnable":
            return self.matrix
        factors = self.ring_factors()
        if self.size == 3:
            corner = factors / math.sqrt(2.0)
            monomials = torch.cat([torch.ones_like(corner), corner, corner * corner])
            return (monomials @ self.powers.flatten(1)).reshape(9, 9)
        position = self.base + (factors @ self.step.flatten(1)).reshape(self.base.shape)
        return geometry.bilinear(position, self.size)

    def effective_weight(self) -> Tensor:
        """The equal square kernel `w T`: (out_channels, in_channels/groups, K, K)."""
        return geometry.transformed(self.weight, self.sampling_matrix())

    def start_from(self, conv: nn.Conv2d) -> None:
        """Solve `w T = W` in float64 at the current radius; least squares where T is singular."""
        self.copy_initial(conv)
        if not self.weight.is_meta:
            self.weight.copy_(geometry.solve_right(conv.weight, self._exact_matrix()))

    def _exact_matrix(self) -> Tensor:
        if self.radius != "learnable":
            return self.constants()["matrix"]
        logit = self.radius_logit.detach().to("cpu", torch.float64)
        return geometry.matrix_at(geometry.LARGEST_FACTOR * logit.sigmoid(), self.size, self.angles, self.ring)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, accepting the official code's state if it means the same circle."""
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        official = prefix + "w_transform_matrix"
        if official in unexpected_keys:
            unexpected_keys.remove(official)
            theirs = state_dict[official].to("cpu", torch.float64)
            ours = self._exact_matrix()
            if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=0.0, atol=1e-6):
                error_msgs.append(
                    f"{official} belongs to another circle than angles={self.angles!r}, ring={self.ring!r}, "
                    f"radius={self.radius!r}; the official search space is angles='arctan', ring='floor'"
                )


@lru_cache
def _start(size: int, angles: str, ring: str, factor: float) -> Literal["exact", "approximate"]:
    return "exact" if geometry.is_invertible(geometry.sampling_matrix(size, angles, ring, factor)) else "approximate"
