"""Growth over depth where it is known in closed form, and of the real blocks."""

import math

import pytest
import torch
from torch import nn

from convswap.measure.propagation import DEPTHS, Propagation, propagation_stability
from convswap.models import create_model
from convswap.units import HamiltonianBlock, PIDEBlock


class Linear(nn.Module):
    """`x + h A x`: an Euler step of x' = A x."""

    def __init__(self, matrix, step=0.1):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(matrix))
        self.step = step

    def forward(self, x):
        return x + self.step * x @ self.matrix.T


class Leapfrog(nn.Module):
    """The leapfrog step of the harmonic oscillator y' = z, z' = -y."""

    def __init__(self):
        super().__init__()
        self.step = 0.1

    def forward(self, x):
        y, z = x.unbind(-1)
        y = y + self.step * z
        return torch.stack([y, z - self.step * y], -1)


X = torch.randn(64, 2, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("rate", [-0.5, 0.7])
def test_a_scalar_equation_grows_geometrically(rate):
    block = Linear([[rate, 0.0], [0.0, rate]])
    rows = propagation_stability(block, X, step_sizes=(0.1, 1), depths=(1, 5, 20))
    assert [(row.step, row.depth) for row in rows] == [(h, d) for h in (0.1, 1.0) for d in (1, 5, 20)]
    for row in rows:
        known = abs(1 + row.step * rate) ** row.depth
        assert row.norm_growth == pytest.approx(known, rel=1e-6)
        assert row.perturbation_growth == pytest.approx(known, rel=1e-6)
    assert block.step == 0.1
    assert block.matrix.dtype == torch.float32


def test_euler_lets_a_rotation_grow_and_leapfrog_does_not():
    rotation = Linear([[0.0, 1.0], [-1.0, 0.0]])
    for row in propagation_stability(rotation, X):
        known = (1 + row.step**2) ** (row.depth / 2)
        assert row.norm_growth == pytest.approx(known, rel=1e-6)
        assert row.perturbation_growth == pytest.approx(known, rel=1e-6)
    # Leapfrog keeps y^2 + z^2 + h y z, so |x|^2 within (1 + h/2) / (1 - h/2) of its start, for h < 2.
    for row in propagation_stability(Leapfrog(), X, depths=range(1, 200)):
        bound = math.sqrt((1 + row.step / 2) / (1 - row.step / 2)) * (1 + 1e-9)
        assert 1 / bound <= row.norm_growth <= bound
        assert 1 / bound <= row.perturbation_growth <= bound
    unstable = propagation_stability(Leapfrog(), X, step_sizes=[2.5], depths=[100, 2000])
    assert unstable[0].norm_growth > 1e20
    assert unstable[1] == Propagation(2.5, 2000, math.inf, math.inf)


def test_in_a_network_the_modules_with_a_step_are_the_depth():
    net = nn.Sequential(nn.Linear(2, 2), Linear([[1.0, 0.0], [0.0, 1.0]]), Linear([[3.0, 0.0], [0.0, 3.0]]))
    rows = propagation_stability(net, X, step_sizes=[0.5])
    assert [row.depth for row in rows] == [1, 2]
    assert [row.norm_growth for row in rows] == pytest.approx([1.5, 1.5 * 2.5], rel=1e-6)
    as_it_is = propagation_stability(net, X, step_sizes=None)
    assert [row.norm_growth for row in as_it_is] == pytest.approx([1.1, 1.1 * 1.3], rel=1e-6)
    assert [row.step for row in as_it_is] == [None, None]
    (only,) = propagation_stability(net, X, step_sizes=[0.5], layers=["2"])
    assert only.norm_growth == pytest.approx(2.5, rel=1e-6)


def test_networks_of_this_package():
    x = torch.randn(2, 3, 16, 16)
    model = create_model("pide_cifar6", num_classes=3)
    rows = propagation_stability(model, x, step_sizes=[0.03, 1.0])
    assert [row.depth for row in rows] == [*range(1, 22)] * 2
    assert rows[20].norm_growth < rows[41].norm_growth
    assert {block.step for block in model.modules() if isinstance(block, HamiltonianBlock | PIDEBlock)} == {0.06}
    assert model.training
    resnet = create_model("cifar_resnet8", num_classes=3)
    layers = ["layer1.0", "layer2.0", "layer3.0"]
    rows = propagation_stability(resnet, x, step_sizes=None, layers=layers)
    assert [row.depth for row in rows] == [1, 2, 3]


def test_small_steps_keep_hamiltonian_blocks_near_the_identity():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    rows = propagation_stability(HamiltonianBlock(8, 8), x, step_sizes=[0.001], depths=[1, 10])
    assert all(abs(row.norm_growth - 1) < 0.02 for row in rows)
    assert [row.depth for row in propagation_stability(PIDEBlock(8, 8), x, step_sizes=[0.1])] == list(DEPTHS)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Leapfrog()

    def forward(self, x):
        return x


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("model", "x", "arguments", "words"),
    [
        (nn.Identity(), X, {}, "no module has a `step`.*step_sizes=None"),
        (Leapfrog(), X, {"step_sizes": [0]}, r"step_sizes=\[0\]"),
        (Leapfrog(), X, {"step_sizes": []}, "step_sizes="),
        (Leapfrog(), X, {"depths": [0]}, r"depths=\[0\]"),
        (Leapfrog(), X, {"step_sizes": 0.1}, r"step_sizes=0\.1 is not allowed; give positive numbers"),
        (Leapfrog(), X, {"depths": 3}, "depths=3 is not allowed; give whole numbers"),
        (Leapfrog(), X, {"perturbation": 0}, "perturbation=0"),
        (Leapfrog(), X, {"perturbation": "small"}, "perturbation='small' is not allowed; give a positive number"),
        (Leapfrog(), X, {"perturbation": True}, "perturbation=True"),
        (Leapfrog(), X.tolist(), {}, "x=list is not allowed; give a tensor"),
        (Leapfrog(), X / 0, {}, "signal before the first block is not finite"),
        (Leapfrog(), 0 * X, {}, "signal before the first block is 0"),
        (nn.Linear(2, 3), X, {"step_sizes": None}, r"Linear makes \(64, 3\).*layers="),
        (Pair(), X, {"step_sizes": None}, "makes tuple"),
        (nn.Sequential(Leapfrog()), X, {"depths": [2]}, "the network has 1 watched"),
        (nn.Sequential(Leapfrog()), X, {"layers": ["7"]}, "no such module"),
        (nn.Sequential(Leapfrog()), X, {"layers": "0"}, "layers='0'"),
        (nn.Sequential(Pair()), X, {"layers": ["0"], "step_sizes": None}, "does not map one tensor to one tensor"),
        (Unused(), X, {}, "none of the 1 watched modules runs"),
    ],
)
def test_wrong_arguments_are_named(model, x, arguments, words):
    with pytest.raises(ValueError, match=words):
        propagation_stability(model, x, **arguments)


def test_another_seed_moves_the_signal_another_way():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())
    x = torch.randn(2, 2, 6, 6)
    growth = [
        propagation_stability(block, x, step_sizes=None, depths=[2], seed=seed)[0].perturbation_growth
        for seed in (0, 0, 1)
    ]
    assert growth[0] == growth[1] != growth[2]
