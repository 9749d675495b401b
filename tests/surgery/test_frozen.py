"""Frozen batch norms of several packages are folded, and modules that only look like one are left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import RepBlock
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

import convswap
from convswap.ops.batch_norm import batch_norm_affine
from convswap.surgery.frozen import as_batch_norm


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Values(nn.Module):
    """Four vectors with the names of a batch norm's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index, name in enumerate(("weight", "bias", "running_mean", "running_var")):
            values = torch.randn(channels, generator=torch.Generator().manual_seed(index))
            self.register_buffer(name, values.abs() + 0.5 if name == "running_var" else values)


class Functional(Values):
    """As in detectron2: epsilon is an attribute, and the work a call of `batch_norm`."""

    def __init__(self, channels: int, eps: float = 1e-3) -> None:
        super().__init__(channels)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Written(Values):
    """As in DETR: epsilon is written into the forward."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)


class Without(Values):
    """As in maskrcnn-benchmark: there is no epsilon."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * self.running_var.rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)


def torchvision_norm(channels: int) -> nn.Module:
    norm = FrozenBatchNorm2d(channels, eps=1e-2)
    norm.load_state_dict(Functional(channels).state_dict())
    return norm


KINDS = [torchvision_norm, Functional, Written, Without]


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_norm_is_folded(kind: type[nn.Module]) -> None:
    """0 of 2 were folded."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), kind(4), nn.ReLU(), nn.Conv2d(4, 4, 1), kind(4)).eval()
    plan = convswap.plan_fuse(model, image(2, 3, 8, 8))
    assert plan.steps == (["fold", "0", "1"], ["fold", "3", "4"])
    assert plan.difference < 1e-13
    fused = plan.apply()
    assert isinstance(fused[1], nn.Identity)
    assert type(model[1]) is type(kind(4))
    torch.testing.assert_close(fused(image(2, 3, 8, 8)), model(image(2, 3, 8, 8)), rtol=1e-4, atol=1e-5)


def test_what_is_not_folded_stays_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Written(4)).eval()
    plan = convswap.plan_fuse(model, image(2, 3, 8, 8))
    assert plan.skipped == (("2", "it follows relu, not a convolution"),)
    assert type(plan.apply()[2]) is Written


def test_a_shared_frozen_norm_is_left() -> None:
    norm = Written(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 4, 3), norm).eval()
    assert convswap.plan_fuse(model, image(2, 3, 9, 9)).steps == ()


def test_a_frozen_identity_branch_is_merged() -> None:
    block = RepBlock(8, 8)
    block.rbr_dense.bn, block.rbr_1x1.bn, block.rbr_identity = Written(8), Functional(8), torchvision_norm(8)
    plan = convswap.plan_fuse(block.eval(), image(2, 8, 9, 7))
    assert (plan.count("fold"), plan.count("merge")) == (2, 1)
    assert plan.difference < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_affine_map_is_that_of_the_module(kind: type[nn.Module], dtype: torch.dtype) -> None:
    module = kind(5).to(dtype)
    norm = as_batch_norm(module)
    assert norm is not None
    scale, shift = batch_norm_affine(norm)
    x = image(2, 5, 3, 3).double()
    torch.testing.assert_close(
        module.double()(x), x * scale[:, None, None] + shift[:, None, None], rtol=1e-12, atol=1e-12
    )


class Instance(Values):
    """Has the names, and normalises by the image."""

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x) * self.weight[:, None, None] + self.bias[:, None, None]


class More(Written):
    """Has one parameter more."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(()))


class Scalar(Values):
    """Has the names, with values of other shapes."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight = torch.ones(())


class Vector(Written):
    """Takes (N, C) only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(*x.shape[:2], 1, 1))[..., 0, 0]


@pytest.mark.parametrize("module", [Instance(4), More(4), Scalar(4), Vector(4), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)])
def test_what_only_looks_like_one_is_none(module: nn.Module) -> None:
    assert as_batch_norm(module.eval()) is None


def test_a_detectors_backbone_with_its_feature_pyramid() -> None:
    """0 of 20 were folded."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d)
    for module in backbone.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.load_state_dict(Functional(len(module.weight)).state_dict())
    plan = convswap.plan_fuse(backbone.eval(), image(1, 3, 64, 64))
    assert plan.count("fold") == 20
    assert plan.skipped == ()
