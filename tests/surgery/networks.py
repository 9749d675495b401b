"""Small networks with the structures that surgery tools are known to get wrong."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random batch-norm statistics and affine parameters, some gammas negative; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            size = module.running_mean.shape
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            if module.affine:
                module.weight.data.copy_(torch.randn(size, generator=generator))
                module.bias.data.copy_(torch.randn(size, generator=generator) * 0.3)
    return model.eval()


def conv_bn(
    inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, stride: int = 1, **kwargs: object
) -> nn.Sequential:
    """Convolution and batch norm, padded to keep the size."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(k // 2 for k in sizes)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, sizes, stride, padding, bias=False, **kwargs), nn.BatchNorm2d(outputs)
    )


class Plain(nn.Module):
    """Three convolutions with batch norms, defined in another order than they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm2 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(6, affine=False)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.head(F.relu(self.norm2(self.conv2(x))))


class SharedConvolution(nn.Module):
    """One convolution called twice, followed by two different batch norms: must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.again = self.conv
        self.norm1 = nn.BatchNorm2d(3)
        self.norm2 = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.again(F.relu(self.norm1(self.conv(x)))))


class TwoReaders(nn.Module):
    """The convolution's output is read by the batch norm and by a skip connection: must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class PreActivation(nn.Module):
    """Batch norm before the convolution: zero padding forbids the fold."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x)))


class RepBlock(nn.Module):
    """The RepVGG block with the official names and no method of its own."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, groups: int = 1, identity: bool = True, squeeze: bool = False
    ) -> None:
        super().__init__()
        self.rbr_dense = nn.Sequential()
        self.rbr_dense.add_module("conv", nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False))
        self.rbr_dense.add_module("bn", nn.BatchNorm2d(outputs))
        self.rbr_1x1 = nn.Sequential()
        self.rbr_1x1.add_module("conv", nn.Conv2d(inputs, outputs, 1, stride, 0, groups=groups, bias=False))
        self.rbr_1x1.add_module("bn", nn.BatchNorm2d(outputs))
        self.rbr_identity = nn.BatchNorm2d(inputs) if identity else None
        self.se = SqueezeExcite(outputs) if squeeze else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(self.se(y if self.rbr_identity is None else y + self.rbr_identity(x)))


class SqueezeExcite(nn.Module):
    """Channel attention as in RepVGG."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 16, 1), nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class AsymmetricBlock(nn.Module):
    """The ACNet block with the official names."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.square_conv, self.square_bn = conv_bn(inputs, outputs, 3)
        self.ver_conv, self.ver_bn = conv_bn(inputs, outputs, (3, 1))
        self.hor_conv, self.hor_bn = conv_bn(inputs, outputs, (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        square = self.square_bn(self.square_conv(x))
        return square + self.ver_bn(self.ver_conv(x)) + self.hor_bn(self.hor_conv(x))


class Functional(nn.Module):
    """One convolution module and one function call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.kernel = nn.Parameter(torch.randn(2, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(x), self.kernel)


class DataDependent(nn.Module):
    """Control flow that torch.export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y * 2 if y.sum().item() > 0 else y


class LyingBlock(nn.Module):
    """Offers `reparameterize()`, which changes the function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.merged = False

    def reparameterize(self) -> None:
        """Forget a branch."""
        self.merged = True

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if self.merged else self.a(x) + self.b(x) ** 2
