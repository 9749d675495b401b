"""The nonlocal block: a residual block whose step is an integral operator over the whole image (arXiv:2108.02430)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, check_choice, check_whole
from ..contract.block import BlockUnit, Place
from ..contract.precision import compute_dtype
from ..contract.registry import register_unit
from ..support.folding import fold_pairs
from .hamiltonian import KERAS_NORM, check_positive, draw_conv, refuse_change
from .kernels import KERNELS, Operator, make_operator

_ALWAYS_ROWS = ("laplacian_row", "gaussian")


class _NonlocalForward(nn.Module):
    """The forward pass of the block and its fused form, which differ only in the BatchNorms of their stages."""

    theta: nn.Conv2d
    phi: nn.Conv2d
    stages: nn.ModuleList
    kernel: str
    s: float
    scale: float
    step: float
    subsample: int
    rows: bool

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        operator = self.operator(x_NCHW)
        u_NCHW = x_NCHW
        for stage in self.stages:
            # Every stage starts at the input again.
            u_NCHW = torch.add(x_NCHW, stage(self.integrate(operator, u_NCHW)), alpha=self.step)
        return u_NCHW

    def operator(self, x_NCHW: Tensor) -> Operator:
        """The integral operator that the embeddings of these images define, in at least float32."""
        theta, phi = self.theta(x_NCHW), self._pool(self.phi(x_NCHW))
        dtype = compute_dtype(x_NCHW.dtype)
        with _no_autocast(x_NCHW):
            return make_operator(
                self.kernel,
                theta.flatten(2).to(dtype),
                phi.flatten(2).to(dtype),
                s=self.s,
                scale=self.scale,
                rows=self.rows,
            )

    def integrate(self, operator: Operator, u_NCHW: Tensor) -> Tensor:
        """L(u), (N, C, H, W), in the layout of u."""
        dtype = compute_dtype(u_NCHW.dtype)
        pooled = self._pool(u_NCHW).flatten(2).to(dtype)
        last = u_NCHW.is_contiguous(memory_format=torch.channels_last) and not u_NCHW.is_contiguous()
        with _no_autocast(u_NCHW):
            y_NCn = operator(u_NCHW.flatten(2).to(dtype), pooled, last)
        return y_NCn.to(u_NCHW.dtype).unflatten(2, u_NCHW.shape[2:])

    def _pool(self, x_NCHW: Tensor) -> Tensor:
        # A map smaller than the window is one pooled pixel in that direction.
        window = [min(self.subsample, side) for side in x_NCHW.shape[2:]]
        return x_NCHW if self.subsample == 1 else F.max_pool2d(x_NCHW, window)


@register_unit(
    "pide",
    replaces="block",
    paper="arXiv:2108.02430",
    year=2022,
    summary="an integral operator over all pixels, its kernel of learned embeddings, as a residual step",
    warm_start="none",
    fusion="cheaper",
    default_where="same & *.2, same & *.b3",
    placement="inferred",
    train_eval="batch_norm",
    # Not `laplacian_row`: if its signed row sums cancel, no digit is right in bf16. Its own tests cover it.
    variants=(
        {"kernel": "gaussian"},
        {"kernel": "fractional"},
        {"kernel": "fractional", "s": 0.25, "normalization": "rows"},
        {"kernel": "inverse_fractional", "subsample": 1},
        {"kernel": "log", "iterations": 3},
        {"subsample": 4, "step": 0.5, "iterations": 1},
    ),
)
class PIDEBlock(_NonlocalForward, BlockUnit):
    """`u_0 = x; u_t = x + h relu(BN_t(W_t L(u_{t-1})))`, t = 1 .. `iterations`: (N, C, H, W) -> (N, C, H, W).

    L integrates over all pixels j with the kernel w_ij of the embeddings `theta = conv1x1(x)` and `phi = conv1x1(x)`
    of C/2 channels, which are formed once. P is a max-pool of p = `subsample` over phi and the integrated field (the
    outputs keep the full resolution), and m is the number of pooled pixels. lambda = `scale`, and r_ij = |theta_i -
    phi_j| is the distance *of embeddings*, not of pixels:

    - `"laplacian"`: w = lambda theta_i . phi_j, `L(u)_i = (1/m) sum_j w_ij (P(u)_j - u_i)`: nonlocal diffusion.
      It is factorised exactly: time and memory grow linearly with the pixels, and no n x m matrix is formed;
    - `"laplacian_row"`: divided by `sum_j w_ij` rather than m. That sum is of signed numbers and may nearly vanish;
    - `"gaussian"`: w = exp(lambda theta_i . phi_j), divided by the row's sum: attention minus the identity;
    - `"fractional"`: w = lambda c / r^(2+2s), `L(u)_i = (1/m) sum_j w_ij (u_i - P(u)_j)`: (-Laplace)^s;
    - `"inverse_fractional"`: w = lambda c' / r^(2-2s), `L(u)_i = (1/m) sum_j w_ij P(u)_j`: (-Laplace)^-s, Riesz;
    - `"log"`: w = lambda (-2 ln r - gamma) / (4 pi), the same sum: Green's function of the Laplacian in the plane.

    All except the first two form n x m matrices: 1024 x 256 for 32 pixels and p = 2. Distances below 0.01 count as 0.01
    (in the official code only an exact 0 is treated specially). Under autocast the embeddings and W_t run in low
    precision, L in float32. Maps smaller than p are pooled to one pixel. Parameters: `3 C^2 + 7 C` with `bias` and two
    iterations.

    In the paper the block stands behind the second block of each stage. The nearest replacement is the third block of
    each stage, the default (paths that end in `.2`, or in `.b3` for RegNets). This is our reading. In networks with two
    blocks per stage give `where="same & *.1"`. `fuse()` folds BN_t into W_t; the kernel depends on the input.

    Args:
        in_channels, out_channels, stride: the place: equal channels and stride 1.
        kernel: see above.
        s: order of the fractional kernels, between 0 and 1.
        scale: lambda, positive.
        step: h, positive; `block.step` may be set later.
        subsample: p, the side of the pooling window; 1: no pooling. The paper: 2 for CIFAR, 4 for STL-10.
        normalization: `"pixels"` (divide by m) or `"rows"` (by the row's sum). None: the kernel's own, which is rows
            for `laplacian_row` and `gaussian` (they allow no other), else pixels. lambda cancels under rows.
        iterations: how many stages.
        bias: give each W_t a bias, and with the Gaussian also phi, as the official code does. It has no effect in
            training, because BN or the softmax cancels it.

    Raises:
        ValueError: the channels differ, the stride is not 1, or an option is not allowed.
    """

    def setup(
        self,
        *,
        kernel: str = "laplacian",
        s: float = 0.5,
        scale: float = 0.1,
        step: float = 0.06,
        subsample: int = 2,
        normalization: str | None = None,
        iterations: int = 2,
        bias: bool = False,
    ) -> None:
        """Check the options and build the unit; see the class."""
        ends = (self.in_channels, self.out_channels, self.stride)
        reason = refuse_change(*ends)
        if reason is not None:
            raise UsageError("in_channels={}, out_channels={}, stride={}: {}".format(*ends, reason))
        check_choice("kernel", kernel, KERNELS)
        check_choice("bias", bias, (True, False))
        check_positive("s", s, most=1)
        check_positive("scale", scale)
        check_positive("step", step)
        check_whole("subsample", subsample)
        check_whole("iterations", iterations)
        self.kernel, self.s, self.scale, self.step = kernel, float(s), float(scale), float(step)
        self.subsample, self.rows = subsample, _divides_by_rows(kernel, normalization)
        place = self.place
        channels, embedded = self.in_channels, max(1, self.in_channels // 2)
        self.theta = draw_conv(channels, embedded, 1, **place)
        self.phi = draw_conv(channels, embedded, 1, bias=bias or kernel != "gaussian", **place)
        self.stages = nn.ModuleList(
            nn.Sequential(
                draw_conv(channels, channels, 1, bias=bias, **place),
                nn.BatchNorm2d(channels, **KERAS_NORM, **place),
                nn.ReLU(inplace=True),
            )
            for _ in range(iterations)
        )

    @property
    def step(self) -> float:
        """h, the step's size; it may be set later."""
        return self.options["step"]

    @step.setter
    def step(self, size: float) -> None:
        self.options["step"] = float(size)

    @classmethod
    def supports(cls, place: Place, **options: Any) -> str | None:
        """Why the block cannot stand there (channels that change, a stride), or None."""
        return refuse_change(place.in_channels, place.out_channels, place.stride)

    def fuse(self) -> FusedPIDE:
        """The inference form: every BN_t folded into W_t, equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        return FusedPIDE(self)


class FusedPIDE(_NonlocalForward):
    """The inference form of `PIDEBlock`, without BatchNorms."""

    def __init__(self, block: PIDEBlock) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = block.in_channels, block.out_channels, block.stride
        self.kernel, self.s, self.scale, self.step = block.kernel, block.s, block.scale, block.step
        self.subsample, self.rows = block.subsample, block.rows
        self.theta, self.phi = fold_pairs(block.theta), fold_pairs(block.phi)
        self.stages = fold_pairs(block.stages)
        self.train(block.training)


def _no_autocast(x: Tensor) -> Any:
    """Sums over all pixels that then cancel, and inverse powers of distances, need full precision."""
    return torch.autocast(x.device.type if x.device.type != "meta" else "cpu", enabled=False)


def _divides_by_rows(kernel: str, normalization: str | None) -> bool:
    if normalization is None:
        return kernel in _ALWAYS_ROWS
    check_choice("normalization", normalization, ("pixels", "rows"))
    if normalization == "pixels" and kernel in _ALWAYS_ROWS:
        raise UsageError(f"normalization='pixels' is not allowed with kernel={kernel!r}; give 'rows' or None")
    return normalization == "rows"
