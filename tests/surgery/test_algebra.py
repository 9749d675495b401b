"""The identities of fusing, each against the operations it replaces, and the official blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import AsymmetricBlock, RepBlock
from torch import Tensor, nn

import convswap
from convswap.errors import FusionError
from convswap.ops.batch_norm import batch_norm_affine
from convswap.surgery import algebra

Golden = Callable[[str], dict[str, Any]]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@given(kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), dilation=st.integers(1, 3), stride=st.integers(1, 3))
def test_embedding_a_kernel_is_exact_where_it_is_allowed(kernel: tuple[int, int], dilation: int, stride: int) -> None:
    spread = [dilation * (k - 1) + 1 for k in kernel]
    target = tuple(s + 2 for s in spread)
    weight, x = random(2, 3, *kernel), random(1, 3, 16, 17, seed=1)
    large = algebra.embed_kernel(weight, (0, 1), (dilation, dilation), target, (1, 2))
    small = F.conv2d(x, weight, stride=stride, padding=(0, 1), dilation=dilation)
    close(F.conv2d(x, large, stride=stride, padding=(1, 2)), small)


def test_embedding_where_sizes_differ_is_refused() -> None:
    with pytest.raises(FusionError, match="2x2 kernel with padding"):
        algebra.embed_kernel(random(1, 1, 2, 2), (1, 1), (1, 1), (7, 7), (3, 3))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_identity_and_average_pool(groups: int) -> None:
    x = random(2, 4, 7, 6)
    close(F.conv2d(x, algebra.identity_kernel(4, groups, (3, 3), like=x), padding=1, groups=groups), x)
    pooled = F.avg_pool2d(x, 3, stride=2, padding=1)
    kernel = algebra.average_pool_kernel(4, groups, (3, 3), like=x)
    close(F.conv2d(x, kernel, stride=2, padding=1, groups=groups), pooled)
    with pytest.raises(FusionError, match="odd kernel"):
        algebra.identity_kernel(4, groups, (2, 3), like=x)


@pytest.mark.parametrize("groups", [1, 2])
def test_sequences(groups: int) -> None:
    x = random(2, 4, 7, 6)
    pointwise, kernel = (random(6, 4 // groups, 1, 1), random(6)), (random(8, 6 // groups, 3, 3), random(8))
    weight, bias = algebra.pointwise_then_kernel(pointwise, kernel, groups)
    middle = F.conv2d(x, *pointwise, groups=groups)
    expected = F.conv2d(algebra.pad_with_bias(middle, pointwise[1], 1), *kernel, groups=groups)
    close(F.conv2d(x, weight, bias, padding=1, groups=groups), expected)
    plain = F.conv2d(middle, *kernel, padding=1, groups=groups)
    assert (plain - expected).abs().max() > 0.1  # zero padding of the middle is another function at the border

    first, second = (random(6, 4 // groups, 3, 3), random(6)), (random(8, 6 // groups, 1, 1), random(8))
    weight, bias = algebra.kernel_then_pointwise(first, second, groups)
    expected = F.conv2d(F.conv2d(x, *first, padding=1, groups=groups), *second, groups=groups)
    close(F.conv2d(x, weight, bias, padding=1, groups=groups), expected)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(affine: bool) -> None:
    norm = nn.BatchNorm2d(4, eps=0.1, affine=affine).double().eval()
    norm.running_mean.copy_(random(4))
    norm.running_var.copy_(random(4, seed=1).exp())
    weight, bias, x = random(4, 3, 3, 3), random(4), random(2, 3, 6, 6)
    for b in (bias, None):
        fused = algebra.scale_outputs(weight, b, *batch_norm_affine(norm))
        close(F.conv2d(x, *fused), norm(F.conv2d(x, weight, b)))
    with pytest.raises(FusionError, match="track_running_stats=False"):
        batch_norm_affine(nn.BatchNorm2d(4, track_running_stats=False))


@pytest.mark.parametrize("case", ["case_repvgg_identity", "case_repvgg_s2_g2", "case_repvgg_se", "case_acb3_p1"])
def test_official_blocks_fuse_to_their_official_kernels(case: str, golden: Golden) -> None:
    data = golden("reparam")[case]
    config = data["config"]
    if config["cls"] == "RepVGGBlock":
        same = "rbr_identity.weight" in data["state_dict"]
        arguments = (config["in_channels"], config["out_channels"], config["stride"], config["groups"], same)
        block: nn.Module = RepBlock(*arguments, squeeze=config["use_se"])
    else:
        block = AsymmetricBlock(config["in_channels"], config["out_channels"])
    block.double().load_state_dict(data["state_dict"])
    block.eval()
    close(block(data["input"]), data["output"])
    plan = convswap.plan_fuse(block, data["input"])
    fused = plan.apply()
    assert plan.count("merge") == 1
    close(fused(data["input"]), data["output"])
    kernels = [m for m in fused.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(kernels) == 1
    close(kernels[0].weight, data["equivalent_kernel"])
    close(kernels[0].bias, data["equivalent_bias"])


def test_asymmetric_block_with_cropped_branches(golden: Golden) -> None:
    """Padding 0: the official block crops the inputs of its 1-d branches, which their own padding of -1 says."""
    data = golden("reparam")["case_acb3_p0_crop"]
    state = data["state_dict"]
    parts = [
        algebra.embed_kernel(folded(state, f"{name}_conv", f"{name}_bn")[0], padding, (1, 1), (3, 3), (0, 0))
        for name, padding in (("square", (0, 0)), ("ver", (0, -1)), ("hor", (-1, 0)))
    ]
    biases = [folded(state, f"{name}_conv", f"{name}_bn")[1] for name in ("square", "ver", "hor")]
    weight, bias = algebra.add_branches(list(zip(parts, biases, strict=True)))
    close(weight, data["equivalent_kernel"])
    close(bias, data["equivalent_bias"])
    close(F.conv2d(data["input"], weight, bias), data["output"])


@pytest.mark.parametrize("case", ["case_dbb_dense3", "case_dbb_internal2x", "case_dbb_depthwise3"])
def test_diverse_branch_block(case: str, golden: Golden) -> None:
    data = golden("reparam")[case]
    state, groups = data["state_dict"], data["config"].get("groups", 1)
    channels, size = data["config"]["in_channels"], (3, 3)
    like = data["input"]
    origin = folded(state, "dbb_origin.conv", "dbb_origin.bn")
    branches = [origin]
    if "dbb_1x1.conv.weight" in state:
        weight, bias = folded(state, "dbb_1x1.conv", "dbb_1x1.bn")
        branches.append((algebra.embed_kernel(weight, (0, 0), (1, 1), size, (1, 1)), bias))
    if "dbb_1x1_kxk.idconv1.weight" in state:
        first = state["dbb_1x1_kxk.idconv1.weight"] + algebra.identity_kernel(channels, groups, like=like)
    else:
        first = state["dbb_1x1_kxk.conv1.weight"]
    inner = algebra.scale_outputs(first, None, *affine(state, "dbb_1x1_kxk.bn1.bn"))
    branches.append(algebra.pointwise_then_kernel(inner, folded(state, "dbb_1x1_kxk.conv2", "dbb_1x1_kxk.bn2"), groups))
    average = algebra.average_pool_kernel(data["config"]["out_channels"], groups, size, like=like)
    pooled = algebra.scale_outputs(average, None, *affine(state, "dbb_avg.avgbn"))
    if "dbb_avg.conv.weight" in state:
        pooled = algebra.pointwise_then_kernel(folded(state, "dbb_avg.conv", "dbb_avg.bn.bn"), pooled, groups)
    branches.append(pooled)
    weight, bias = algebra.add_branches(branches)
    torch.testing.assert_close(weight, data["equivalent_kernel"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bias, data["equivalent_bias"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        F.conv2d(like, weight, bias, padding=1, groups=groups), data["output"], rtol=1e-9, atol=1e-9
    )


def affine(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    norm = nn.BatchNorm2d(len(state[f"{name}.weight"])).double().eval()
    norm.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
    scale, shift = batch_norm_affine(norm)
    return scale.detach(), shift.detach()


def folded(state: dict[str, Tensor], conv: str, norm: str) -> algebra.Kernel:
    return algebra.scale_outputs(state[f"{conv}.weight"], state.get(f"{conv}.bias"), *affine(state, norm))
