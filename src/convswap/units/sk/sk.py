"""The selective kernel unit: branches of different kernels, mixed per channel by a softmax (arXiv:1903.06586)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError, check_choice, check_whole
from ..contract.feature import FeatureUnit
from ..contract.registry import register_unit
from ..support.folding import fold_conv_norm
from ..support.padding import margins
from .attention import BranchAttention, FusedSelectiveKernel, select_kernels

_MINOR = 0.1  # scale of the other dilated branches after a warm start: small, but not dead


@register_unit(
    "sk",
    paper="arXiv:1903.06586",
    year=2019,
    summary="several kernel sizes side by side, mixed per channel by an attention over their sum",
    warm_start="approximate",
    fusion="cheaper",
    default_where="3x3 & !first",
    placement="paper",
    train_eval="batch_norm",
    variants=(
        {"branches": 3},
        {"branches": 1},
        {"kernels": "true"},
        {"relu": False},
        {"kernels": "true", "relu": False},
        {"reduction": 2, "min_channels": 3},
    ),
)
class SelectiveKernelConv2d(FeatureUnit):
    """SK[M, G, r]: `V = sum_i a_i U_i`, with `U_i = ReLU(BN(conv_i(x)))` and `a = softmax_i(W2 ReLU(BN(W1 S)))`.

    x is (N, in, H, W), every U_i and V are (N, out, H', W'). S (N, out) is the spatial mean of `sum_i U_i`. W1 maps it
    to d = max(out / r, L) channels, and W2 maps those to M * out, read branch-major as (N, M, out). The softmax runs
    over the M branches. Convolution i = 1..M has the host's kernel with i times its dilation (`kernels="dilated"`, the
    paper: a 3x3 kernel of dilation 2 stands for 5x5), or a kernel that is 2 (i - 1) pixels larger (`"true"`). Its
    padding grows with it, so that all outputs have the host's size. Branch 1 has the host's own geometry. With another
    padding mode than zeros the host's padding is filled once for all branches; beyond it a larger branch reads 0.

    In the paper the unit replaces the grouped 3x3 convolution, its BatchNorm and its ReLU in ResNeXt's bottleneck.
    Nothing stands between V and the 1x1 convolution that follows. So `swap` removes the host's BatchNorm
    (`absorbs_batch_norm`). The host's ReLU, which V passes unchanged, stays. If no ReLU follows the host, as before the
    addition of a basic residual block, V >= 0 would let the stream only grow. `swap` then sets `relu=False`, and
    U_i = BN(conv_i(x)) is signed, as the host's output was. That case is ours, not the paper's.

    Training normalises the (N, d, 1, 1) vector over the batch, so a batch of 1 cannot train and a small one is noisy.
    Under autocast the attention runs in its parameters' precision. With `branches=1` there is no attention.

    Starting from a convolution (`from_conv`), branch 1 takes its weight and the attention is close to even, so V is
    about ReLU(conv(x)). The negative half is lost, which makes the start **approximate**. Dilated: branch 1 is scaled
    by M, and the others start as the same filter, dilated, at a tenth of the host's scale. True kernels: each branch
    starts as the host's kernel within zeros, so that V is ReLU(conv(x)) whatever the attention (which gets its first
    gradient in the second step). Without ReLU that start is **exact**. With `branch_groups` other than the host's
    groups no weight is kept: `"none"`. `start_from_batch_norm` takes over the BatchNorm that followed the convolution,
    so that V starts as the output of conv-BN-ReLU.

    `fuse()` gives a `FusedSelectiveKernel`: BatchNorms folded into the branches and W1. The softmax depends on the
    input, so the branches cannot be merged. As one undilated 5x5 convolution they would cost 25/18 of the two 3x3.

    Args:
        bias: a bias added to V. The convolutions have none, as BatchNorm follows; the paper's hosts have none either.
        branches: M, at least 1.
        kernels: `"dilated"` or `"true"`, see above.
        branch_groups: groups G of each branch's convolution; None: the host's `groups`.
        reduction: r, at least 1.
        min_channels: L, the least d, at least 1.
        relu: whether the branches end in a ReLU (the paper).

    The other arguments are those of `nn.Conv2d`.

    Raises:
        ValueError: an option is not allowed; a kernel side is even (its dilated forms have no centre); a 1x1 kernel
            is to be dilated; `branch_groups` does not divide the channels; the training batch is 1 (in `forward`).
    """

    absorbs_batch_norm = True
    relu_follows_host = True

    def setup(
        self,
        *,
        branches: int = 2,
        kernels: str = "dilated",
        branch_groups: int | None = None,
        reduction: int = 16,
        min_channels: int = 32,
        relu: bool = True,
    ) -> None:
        """Check the options and build the unit; see the class."""
        _check_options(branches, kernels, branch_groups, reduction, min_channels, relu)
        reason = _refusal(self, branches, kernels, branch_groups)
        if reason is not None:
            raise UsageError(f"{type(self).__name__}: {reason}")
        place = self.place
        self.kernels, self.relu = kernels, relu
        self.branch_groups = self.groups if branch_groups is None else branch_groups
        around = margins(self.kernel_size, self.dilation, self.padding)
        self.margin = around if self.padding_mode != "zeros" and any(around) else ()
        self.branches = nn.ModuleList(self._branch(i, place) for i in range(branches))
        attention_channels = max(self.out_channels // reduction, min_channels)
        self.attention = (
            BranchAttention(self.out_channels, branches, attention_channels, **place) if branches > 1 else None
        )
        self.bias = nn.Parameter(torch.empty(self.out_channels, **place)) if self.geometry.bias else None
        self.reset_parameters()

    def _branch(self, index: int, place: dict[str, Any]) -> nn.Sequential:
        """Convolution, BatchNorm and (with `relu`) ReLU of branch `index`, counted from 0."""
        larger = self.kernels == "true"
        kernel = tuple(k + 2 * index if larger else k for k in self.kernel_size)
        dilation = tuple(d if larger else d * (index + 1) for d in self.dilation)
        left, _, top, _ = margins(self.kernel_size, self.dilation, self.padding)
        host = (top, left)  # "same" is symmetric, as the kernel is odd
        grown = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        first = tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        padding = tuple((0 if self.margin else p) + g - f for p, g, f in zip(host, grown, first, strict=True))
        ends, groups = (self.in_channels, self.out_channels), self.branch_groups
        shape: Any = (*ends, kernel, self.stride, padding, dilation, groups, False)
        layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(*shape, **place))
        layers["norm"] = nn.BatchNorm2d(self.out_channels, **place)
        if self.relu:
            layers["relu"] = nn.ReLU(inplace=True)
        return nn.Sequential(layers)

    @property
    def weight(self) -> Tensor:
        """The weight of branch 1, (out, in/G, kH, kW)."""
        return self._parts(0)[0].weight

    def _parts(self, index: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        branch = cast(Any, self.branches[index])
        return branch.conv, branch.norm

    def reset_parameters(self) -> None:
        """Convolutions N(0, 2/fan_in), W1 and W2 N(0, 0.01^2), BatchNorms 1 and 0, bias 0 (the official solver)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if self.attention is not None:
            nn.init.normal_(self.attention.reduce.weight, std=0.01)
            nn.init.normal_(self.attention.select.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        """Why the unit cannot stand there: an even kernel, a 1x1 kernel to dilate, groups that do not divide."""
        branches, kernels = options.get("branches", 2), options.get("kernels", "dilated")
        branch_groups = options.get("branch_groups")
        _check_options(branches, kernels, branch_groups)
        return _refusal(conv, branches, kernels, branch_groups)

    @classmethod
    def warm_start_for(cls, conv: nn.Conv2d, **options: Any) -> Literal["exact", "approximate", "none"]:
        """`"none"` with groups of its own, `"exact"` with true kernels and without ReLU, else `"approximate"`."""
        if options.get("branch_groups") not in (None, conv.groups):
            return "none"
        linear = options.get("relu") is False
        return (
            "exact" if linear and (options.get("kernels") == "true" or options.get("branches") == 1) else "approximate"
        )

    def copy_initial(self, conv: nn.Conv2d) -> None:
        """Copy the host's bias, and its weight into branch 1 where the groups agree."""
        if conv.weight.shape == self.weight.shape:
            self.weight.copy_(conv.weight)
        if conv.bias is not None and self.bias is not None:
            self.bias.copy_(conv.bias)

    def start_from(self, conv: nn.Conv2d) -> None:
        """Start near `conv`: see the class. Runs under `no_grad`."""
        self.copy_initial(conv)
        if conv.weight.shape != self.weight.shape:
            return
        for index, share in enumerate(self._shares()):
            inner, norm = self._parts(index)
            _embed(conv.weight, inner.weight)
            norm.weight.copy_(share * torch.sqrt(cast(Tensor, norm.running_var) + norm.eps))

    def _shares(self) -> list[float]:
        """The scale of each branch's start, chosen so that an even attention gives the host's function."""
        count = len(self.branches)
        return [1.0] * count if self.kernels == "true" else [float(count)] + [_MINOR] * (count - 1)

    @torch.no_grad()
    def start_from_batch_norm(self, norm: nn.Module) -> None:
        """After `from_conv`: take over the BatchNorm that followed the convolution and that this unit replaces.

        Every branch gets its statistics and its affine map (scaled as the branch is). A bias of the convolution moves
        into the statistics. A BatchNorm without running statistics has no effect.
        """
        mean, variance = norm.running_mean, norm.running_var
        if not isinstance(mean, Tensor) or not isinstance(variance, Tensor) or self.branch_groups != self.groups:
            return
        scale = norm.weight if isinstance(norm.weight, Tensor) else torch.ones_like(mean)
        shift = norm.bias if isinstance(norm.bias, Tensor) else torch.zeros_like(mean)
        for index, share in enumerate(self._shares()):
            own = self._parts(index)[1]
            cast(Tensor, own.running_mean).copy_(mean if self.bias is None else mean - self.bias)
            cast(Tensor, own.running_var).copy_(variance)
            own.eps = float(cast(float, norm.eps))
            own.weight.copy_(share * scale)
            own.bias.copy_(share * shift)
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """(N, in, H, W), or (in, H, W), -> (N, out, H', W').

        Raises:
            ValueError: a training batch of 1.
        """
        return select_kernels(self, input)

    def fuse(self) -> FusedSelectiveKernel:
        """The inference form: every BatchNorm folded, in float64; equal in evaluation.

        Raises:
            FusionError: a BatchNorm keeps no running statistics.
        """
        convs = [fold_conv_norm(*self._parts(index)) for index in range(len(self.branches))]
        return FusedSelectiveKernel(self, convs, self.attention, self.bias, self.relu).train(self.training)


def _check_options(
    branches: object,
    kernels: object,
    branch_groups: object,
    reduction: object = 16,
    min_channels: object = 32,
    relu: object = True,
) -> None:
    counts = {"branches": branches, "reduction": reduction, "min_channels": min_channels}
    if branch_groups is not None:
        counts["branch_groups"] = branch_groups
    for option, value in counts.items():
        alternative = " or None (the convolution's groups)" if option == "branch_groups" else ""
        check_whole(option, value, hint=alternative)
    check_choice("kernels", kernels, ("dilated", "true"))
    check_choice("relu", relu, (True, False))


def _refusal(host: FeatureUnit | nn.Conv2d, branches: int, kernels: str, branch_groups: int | None) -> str | None:
    if any(k % 2 == 0 for k in host.kernel_size):
        kh, kw = host.kernel_size
        return f"a {kh}x{kw} kernel has no centre pixel to grow around; selective kernels need odd sides"
    if kernels == "dilated" and branches > 1 and max(host.kernel_size) == 1:
        return "a 1x1 kernel is the same at every dilation; kernels='true' gives 1x1, 3x3, .."
    groups = host.groups if branch_groups is None else branch_groups
    if host.in_channels % groups or host.out_channels % groups:
        return (
            f"branch_groups={groups} does not divide the {host.in_channels} input and {host.out_channels} output "
            "channels"
        )
    return None


def _embed(kernel: Tensor, target: Tensor) -> None:
    """Write a kernel into the centre of one of the same or a larger size, zero elsewhere."""
    top, left = ((target.shape[a] - kernel.shape[a]) // 2 for a in (2, 3))
    target.zero_()
    target[:, :, top : top + kernel.shape[2], left : left + kernel.shape[3]] = kernel
