"""The stochastic mixture of centre, diamond, circle and square kernels (arXiv:2107.02451, first versions' code)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..contract.registry import register_unit
from ..contract.weight import WeightUnit
from ..support.draws import Draws
from . import geometry

FACTORS = {"center": 0.0, "diamond": math.sqrt(0.5), "circle": 1.0}  # of every ring's radius; square is T = I


@register_unit(
    "circle_mix",
    paper="arXiv:2107.02451",
    year=2021,
    summary="each training step draws centre, diamond, circle or square; evaluation uses their mean",
    warm_start="exact",
    fusion="conv",
    train_eval="stochastic",
    variants=({"probabilities": (0.1, 0.2, 0.3, 0.4)},),
)
class CircleMixConv2d(Draws, WeightUnit):
    """One weight, read by a sampling matrix T drawn per training forward; evaluation reads by the expected T.

    Training: `effective_weight() = w T_k` with k drawn from `probabilities` over (center, diamond, circle,
    square). Evaluation and `fuse()`: `w sum_k p_k T_k`. T is that of the `circle` unit with every ring's radius
    times 0, 0.7071 and 1, and T = I for the square; w is (out, in/groups, K, K). At K = 3 these are the official
    four matrices. For K > 3 the family is ours: the official matrices for 5 and 7 are not circles.

    Inferred: that this mixture, found in the official code, is the paper's "kernel boosting" (`circle_square` is
    the other reading), and its placement. As with `circle`, in evaluation K = 3, 5 and 7 span exactly the
    functions of the square kernel at the default probabilities.

    The draw is a hash of the persistent buffer `draw_state` = (seed, count), see `convswap.units.support.draws`:
    a resumed run repeats the same draws and DDP ranks agree. The count rises with each training forward, so each call
    of `effective_weight()` in training mode draws too.

    After `fuse`, batch statistics collected under the mixture differ from those of the mean kernel that remains:
    for white input and 50/50 circle and square the variance is 0.854 in training and 0.816 after (0.844 and 0.702
    for four times 25 %). Recalibrate the following BatchNorm on training images before use.

    Starting from a trained convolution solves for the expected matrix: exact in evaluation where that is
    invertible (it is by default, for every K), least squares otherwise.

    Args:
        probabilities: four numbers >= 0 that sum to 1, for center, diamond, circle and square.

    The other arguments are those of `nn.Conv2d`; the kernel must be square, odd and at least 3x3.

    Raises:
        ValueError: an option or the kernel size is not allowed.
    """

    matrices: Tensor
    expected: Tensor

    def setup(self, *, probabilities: Sequence[float] = (0.0, 0.0, 0.5, 0.5)) -> None:
        """Check the options and build the unit; see the class."""
        checked = _checked(probabilities)
        self.size = geometry.check_size(self.kernel_size)
        self.probabilities = checked
        self.register_draws(self.weight.device)
        self.register_constants()

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why a circle cannot stand there (its kernel is not square, not odd or 1x1), or None."""
        return geometry.refused_kernel(conv)

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"]:
        """`"exact"` where the expected matrix is invertible (always, by default), else `"approximate"`."""
        probabilities = _checked(options.get("probabilities", (0.0, 0.0, 0.5, 0.5)))
        return "exact" if _invertible(conv.kernel_size[0], probabilities) else "approximate"

    def constants(self) -> dict[str, Tensor]:
        """The four matrices T_k and their mean."""
        return {
            "matrices": _matrices(self.size),
            "expected": _expected(self.size, self.probabilities),
        }

    def reset_parameters(self) -> None:
        """Draw the weight and bias as `nn.Conv2d` does, and a new seed."""
        super().reset_parameters()
        self.reset_draws()

    def draw(self) -> Tensor:
        """The index of this forward's matrix, an int64 tensor (1,). Advances the count, except in a recomputation."""
        hashed = self.draw_key()
        # compare integers: 32 random bits against the cumulative probabilities, scaled
        index = torch.zeros_like(hashed)
        total = 0.0
        for probability in self.probabilities[:-1]:
            total += probability
            index = index + (hashed >= round(total * 2**32)).to(torch.int64)
        return index.reshape(1)

    def effective_weight(self) -> Tensor:
        """A drawn `w T_k` in training, `w E[T]` in evaluation: (out_channels, in_channels/groups, K, K)."""
        matrix = self.matrices.index_select(0, self.draw()).squeeze(0) if self.training else self.expected
        return geometry.transformed(self.weight, matrix)

    def fuse(self) -> nn.Conv2d:
        """A plain `nn.Conv2d` of the expected weight. Recalibrate the following BatchNorm (see the class)."""
        fused = super(CircleMixConv2d, copy.deepcopy(self).eval()).fuse()
        return fused.train(self.training)

    def start_from(self, conv: nn.Conv2d) -> None:
        """Solve `w E[T] = W` in float64; least squares where the expected matrix is singular."""
        self.copy_initial(conv)
        if not self.weight.is_meta:
            self.weight.copy_(geometry.solve_right(conv.weight, _expected(self.size, self.probabilities)))


def _checked(probabilities: Sequence[float]) -> tuple[float, ...]:
    try:
        values = tuple(float(p) for p in probabilities)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 4 or not all(0 <= p <= 1 for p in values) or abs(sum(values) - 1) > 1e-6:
        raise UsageError(
            f"probabilities={probabilities!r} is not allowed; give four numbers >= 0 that sum to 1, "
            "for center, diamond, circle and square"
        )
    return values


@lru_cache
def _matrices(size: int) -> Tensor:
    with torch.inference_mode(False):
        square = torch.eye(size * size, dtype=torch.float64, device="cpu")
        return torch.stack([geometry.sampling_matrix(size, factor=f) for f in FACTORS.values()] + [square])


@lru_cache
def _expected(size: int, probabilities: tuple[float, ...]) -> Tensor:
    with torch.inference_mode(False):
        weights = torch.tensor(probabilities, dtype=torch.float64, device="cpu")
        return (weights[:, None, None] * _matrices(size)).sum(0)


@lru_cache
def _invertible(size: int, probabilities: tuple[float, ...]) -> bool:
    return geometry.is_invertible(_expected(size, probabilities))
