"""Shift-based batch normalisation: every multiplication is one with a power of two (arXiv:1609.07061)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ..contract.precision import compute_dtype
from .quantizers import nearest_power_of_two


class _ShiftBatchNorm(nn.Module):
    """`y = AP2(gamma) C s + beta` with C = x - mean, s = AP2((mean(C AP2(C)) + eps)^-1/2).

    AP2 is the nearest power of two. Means are those of a batch (and its pixels) per channel while training; evaluation
    takes running averages of the mean and of the inverse deviation before it is rounded. gamma is kept as a real
    number. The backward pass is that of the authors' Torch7 code, with Q = AP2(C):

        gx = (gy - mean(gy) - Q mean(Q gy) s^2) s AP2(gamma),  ggamma = sum(AP2(C s) gy),  gbeta = sum(gy)

    and in evaluation gx = gy s AP2(gamma). The Torch7 code starts the running inverse deviation of its spatial form
    from 0. Here it starts from 1, as in its other form, so that an untrained network does not answer with constants.

    Args:
        num_features: channels C.
        eps: added to the variance.
        momentum: the share of the newest batch in the running averages.
        affine: whether there are gamma and beta.

    Raises:
        ValueError: `momentum` is not from 0 to 1 or `eps` not above 0; at the call, a batch with a single value per
            channel while training, or an input of the wrong shape.
    """

    dims: tuple[int, ...] = ()
    running_mean: Tensor
    running_inverse: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.125,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise UsageError(f"momentum={momentum!r} is not allowed; it must be a number from 0 to 1")
        if not eps > 0:
            raise UsageError(f"eps={eps!r} is not allowed; it must be a number above 0")
        self.num_features, self.eps, self.momentum, self.affine = num_features, eps, momentum, affine
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.ones(num_features, **place)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features, **place)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features, **place))
        self.register_buffer("running_inverse", torch.ones(num_features, **place))

    def reset_parameters(self) -> None:
        """gamma and the running inverse deviation 1, beta and the running mean 0."""
        with torch.no_grad():
            for tensor, value in (
                (self.weight, 1),
                (self.bias, 0),
                (self.running_mean, 0),
                (self.running_inverse, 1),
            ):
                if tensor is not None:
                    tensor.fill_(value)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C) or (N, C, ...) -> the same shape."""
        if input.dim() not in self.dims or input.shape[1] != self.num_features:
            raise UsageError(
                f"{type(self).__name__}({self.num_features}) got {tuple(input.shape)}; it takes "
                f"{' or '.join(f'{n}-dimensional' for n in self.dims)} inputs with {self.num_features} channels"
            )
        x = input.to(compute_dtype(input.dtype))
        shape = (1, -1, *[1] * (x.dim() - 2))
        if self.training:
            mean, inverse = self._batch_statistics(x.detach(), shape)
        else:
            mean, inverse = self.running_mean.to(x.dtype), self.running_inverse.to(x.dtype)
        one = x.new_ones(self.num_features)
        weight = one if self.weight is None else self.weight.to(x.dtype)
        bias = torch.zeros_like(one) if self.bias is None else self.bias.to(x.dtype)
        scale = nearest_power_of_two(inverse)
        arguments = (mean.view(shape), scale.view(shape), weight.view(shape), bias.view(shape))
        return cast(Tensor, _Normalize.apply(x, *arguments, self.training)).to(input.dtype)

    @torch.no_grad()
    def _batch_statistics(self, x: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if x.numel() == self.num_features:
            raise UsageError(f"training needs more than one value per channel, got an input of shape {tuple(x.shape)}")
        axes = [0, *range(2, x.dim())]
        mean = x.mean(axes)
        centred = x - mean.view(shape)
        inverse = torch.rsqrt((centred * nearest_power_of_two(centred)).mean(axes) + self.eps)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_inverse.lerp_(inverse.to(self.running_inverse.dtype), self.momentum)
        return mean, inverse

    def extra_repr(self) -> str:
        """The settings, as `nn.BatchNorm2d` prints them."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"


class ShiftBatchNorm1d(_ShiftBatchNorm):
    """Shift-based batch normalisation of (N, C) or (N, C, L)."""

    dims = (2, 3)

    def to_batch_norm(self) -> nn.BatchNorm1d:
        """An `nn.BatchNorm1d` that computes the same in evaluation."""
        return cast(nn.BatchNorm1d, _same_in_evaluation(self, nn.BatchNorm1d))


class ShiftBatchNorm2d(_ShiftBatchNorm):
    """Shift-based batch normalisation of (N, C, H, W)."""

    dims = (4,)

    def to_batch_norm(self) -> nn.BatchNorm2d:
        """An `nn.BatchNorm2d` that computes the same in evaluation."""
        return cast(nn.BatchNorm2d, _same_in_evaluation(self, nn.BatchNorm2d))


ShiftBatchNorm1d.__doc__ = f"{ShiftBatchNorm1d.__doc__}\n\n    {_ShiftBatchNorm.__doc__}"
ShiftBatchNorm2d.__doc__ = f"{ShiftBatchNorm2d.__doc__}\n\n    {_ShiftBatchNorm.__doc__}"


@torch.no_grad()
def _same_in_evaluation(norm: _ShiftBatchNorm, cls: type[nn.BatchNorm1d | nn.BatchNorm2d]) -> nn.Module:
    """A stock BatchNorm whose variance is s^-2, a power of four. Its eps must be above 0, but is negligible."""
    mean = norm.running_mean
    stock = cls(norm.num_features, eps=1e-30, momentum=norm.momentum, device=mean.device, dtype=mean.dtype)
    assert stock.running_mean is not None
    assert stock.running_var is not None
    stock.running_mean.copy_(mean)
    stock.running_var.copy_(nearest_power_of_two(norm.running_inverse) ** -2)
    if norm.weight is not None and norm.bias is not None:
        stock.weight.copy_(nearest_power_of_two(norm.weight))
        stock.bias.copy_(norm.bias)
        stock.requires_grad_(norm.weight.requires_grad)
    return stock.train(norm.training)


class _Normalize(torch.autograd.Function):
    """Normalise with given statistics; the backward pass is the class's formula, not the derivative."""

    @staticmethod
    def forward(x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, training: bool) -> Tensor:
        return (x - mean) * (scale * nearest_power_of_two(weight)) + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mean, scale, weight, _, ctx.training = inputs
        ctx.save_for_backward(x, mean, scale, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, mean, scale, weight = ctx.saved_tensors
        axes = [0, *range(2, x.dim())]
        centred = x - mean
        for_weight = (nearest_power_of_two(centred * scale) * grad).sum(axes, keepdim=True)
        for_bias = grad.sum(axes, keepdim=True)
        for_input = grad
        if ctx.training:
            rounded = nearest_power_of_two(centred)
            along = (rounded * grad).mean(axes, keepdim=True)
            for_input = grad - grad.mean(axes, keepdim=True) - rounded * (along * scale.square())
        for_input = for_input * (scale * nearest_power_of_two(weight))
        return for_input, None, None, for_weight, for_bias, None
