"""The Hamiltonian and parabolic blocks against loops over pixels, the golden tensors, and their inverse."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from convswap.units import FusedHamiltonian, HamiltonianBlock

DOUBLE = {"dtype": torch.float64}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's names in ours."""
    ours = {}
    for key, value in state.items():
        path, _, leaf = key.rpartition(".")
        ours[f"{path}.{NORM.get(leaf, leaf.replace('kernel', 'weight'))}"] = value.double()
    return ours


def randomised(block: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return block.eval()


def push_by_loop(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`K^T relu(BN(K x + b)) + b`; the transpose sends back along every connection that K has."""
    weight, bias = conv.weight, conv.bias
    (n, channels, height, width) = x.shape
    inside = [
        (r, c, u, v)
        for r, c, u, v in itertools.product(range(height), range(width), range(3), range(3))
        if 0 <= r + u - 1 < height and 0 <= c + v - 1 < width
    ]
    z = bias[None, :, None, None].repeat(n, 1, height, width)
    for r, c, u, v in inside:
        z[:, :, r, c] += x[:, :, r + u - 1, c + v - 1] @ weight[:, :, u, v].T
    for k in range(channels):
        z[:, k] = (z[:, k] - norm.running_mean[k]) / (norm.running_var[k] + 1e-3).sqrt()
        z[:, k] = (z[:, k] * norm.weight[k] + norm.bias[k]).clamp(min=0)
    y = bias[None, :, None, None].repeat(n, 1, height, width)
    for r, c, u, v in inside:
        y[:, :, r + u - 1, c + v - 1] += z[:, :, r, c] @ weight[:, :, u, v]
    return y


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 3)])
def test_verlet_is_the_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = randomised(HamiltonianBlock(6, 6, step=0.3, **DOUBLE))
    x = torch.randn(2, 6, *size, **DOUBLE)
    y, z = x[:, :3], x[:, 3:]
    y = y + 0.3 * push_by_loop(block.conv1, block.bn1, z)
    z = z - 0.3 * push_by_loop(block.conv2, block.bn2, y)
    expected = torch.cat([y, z], 1)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(block.fuse()(x), expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_parabolic_is_the_formula() -> None:
    torch.manual_seed(0)
    block = randomised(HamiltonianBlock(5, 5, form="parabolic", step=0.3, **DOUBLE))
    x = torch.randn(2, 5, 4, 5, **DOUBLE)
    expected = x - 0.3 * push_by_loop(block.conv1, block.bn1, x)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(block.fuse()(x), expected, rtol=0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize(("case", "form"), [("case_hamiltonian", "verlet"), ("case_parabolic", "parabolic")])
def test_golden(golden, case: str, form: str) -> None:
    reference = golden("pide")[case]
    channels = reference["config"]["channels"]
    block = HamiltonianBlock(channels, channels, form=form, step=reference["config"]["h"], **DOUBLE)
    missing, unexpected = block.load_state_dict(renamed(reference["state_dict"]), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    for module in (block.eval(), block.fuse()):
        torch.testing.assert_close(module(reference["input"].double()), reference["output"].double(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_step_can_be_undone() -> None:
    """Leapfrog is reversible: [y', z'] gives [y, z] back by the same pushes in the opposite order."""
    torch.manual_seed(0)
    block = randomised(HamiltonianBlock(8, 8, step=0.5, **DOUBLE))
    x = torch.randn(2, 8, 6, 7, **DOUBLE)
    y, z = block(x).chunk(2, 1)
    z = z + 0.5 * push_by_loop(block.conv2, block.bn2, y)
    y = y - 0.5 * push_by_loop(block.conv1, block.bn1, z)
    torch.testing.assert_close(torch.cat([y, z], 1), x, rtol=0, atol=1e-10)


def test_the_transpose_is_the_adjoint() -> None:
    """<K z, r> = <z, K^T r> on a map whose sides differ and are odd."""
    block = HamiltonianBlock(4, 4, **DOUBLE)
    z, r = torch.randn(2, 1, 2, 5, 7, **DOUBLE)
    forward = nn.functional.conv2d(z, block.conv1.weight, padding=1)
    back = nn.functional.conv_transpose2d(r, block.conv1.weight, padding=1)
    torch.testing.assert_close((forward * r).sum(), (z * back).sum())


def test_counts_and_starts_as_the_official_code() -> None:
    assert sum(p.numel() for p in HamiltonianBlock(32, 32).parameters()) == 4.5 * 32**2 + 3 * 32
    block = HamiltonianBlock(128, 128, form="parabolic")
    assert sum(p.numel() for p in block.parameters()) == 9 * 128**2 + 3 * 128
    assert abs(float(block.conv1.weight.detach().std()) - (2 / (9 * 128)) ** 0.5) < 1e-3
    assert not block.conv1.bias.any()
    assert (block.bn1.eps, block.bn1.momentum) == (1e-3, 0.01)


def test_fused_holds_no_batch_norm_and_the_unscaled_transpose() -> None:
    block = randomised(HamiltonianBlock(4, 4))
    fused = block.fuse()
    assert isinstance(fused, FusedHamiltonian)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert torch.equal(fused.pushes[0][2].weight, block.conv1.weight)
    assert not torch.equal(fused.pushes[0][0].weight, block.conv1.weight)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"in_channels": 5, "out_channels": 5}, "even number, not 5; or form='parabolic'"),
        ({"out_channels": 8}, "4->8"),
        ({"stride": 2}, "stride 1, not 2"),
        ({"form": "euler"}, "form='euler'.*'verlet', 'parabolic'"),
        ({"step": 0}, "step=0 is not allowed; give a positive number"),
        ({"step": float("nan")}, "step=nan"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HamiltonianBlock(**({"in_channels": 4, "out_channels": 4} | arguments))
