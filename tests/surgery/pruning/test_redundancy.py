"""Gradient redundancy on planted redundancy, and its parts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convswap.surgery.pruning import plan_prune
from convswap.surgery.pruning.calibration import outgoing_gradients
from convswap.surgery.pruning.redundancy import effective_rank, redundancy_of, removal_order

pytest.importorskip("torch_pruning")


def planted():
    """Six independent filters, a duplicate of the first, 2.5 times the second, and a dead one."""
    torch.manual_seed(1)
    first, second = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 5, 3, padding=1)
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            tensor[6] = tensor[0]
            tensor[7] = 2.5 * tensor[1]
            tensor[8] = 0
    layers = [first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)]
    return nn.Sequential(*layers).double().eval()


def batches(images=64):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(images, 3, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (images,), generator=generator)
    return [(x[:40], y[:40]), (x[40:], y[40:])]


def test_planted_redundancy_has_rank_six():
    plan = plan_prune(planted(), batches(), macs="cap", tau=1e-10, where="0")
    (layer,) = plan.layers
    assert (layer.channels, layer.rank, layer.kept) == (9, 6, 6)
    assert layer.redundancy == pytest.approx(1 / 3)


def test_pruning_to_the_rank_keeps_the_outputs():
    model = planted()
    plan = plan_prune(model, batches(), macs="cap", tau=1e-10, where="0")
    assert plan.compensated == 1
    x = torch.randn(10, 3, 8, 8, dtype=torch.float64)
    assert (plan.apply()(x) - model(x)).abs().max() < 1e-9
    kept = set(plan.narrow[0][2])
    assert 8 not in kept
    assert len(kept & {0, 6}) == 1
    assert len(kept & {1, 7}) == 1
    cut = plan_prune(model, batches(), macs="cap", tau=1e-10, where="0", compensate=False)
    assert (cut.apply()(x) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"padding": "same"}])
def test_outgoing_gradients_are_those_of_single_images(groups, options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=groups, **options).double()
    x = torch.randn(3, 4, 9, 9, dtype=torch.float64)
    single = []
    for image in x:
        y = conv(image[None])
        (g,) = torch.autograd.grad((y**3).sum(), conv.weight)
        single.append(g.reshape(groups, 6 // groups, 4 // groups, 9))
    stacked = torch.stack(single)  # (N, groups, O / groups, C / groups, kernel)
    expected = torch.einsum("ngock,ngodk->gcd", stacked, stacked)
    columns = outgoing_gradients(conv, x, 3 * conv(x).detach() ** 2)
    found = columns.reshape(groups, 4 // groups, -1)
    torch.testing.assert_close(found @ found.transpose(1, 2), expected)


def test_outgoing_gradients_of_a_linear_layer():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    for shape in ((4, 5), (4, 7, 5)):
        x = torch.randn(*shape, dtype=torch.float64)
        grads = [torch.autograd.grad((layer(one) ** 2).sum(), layer.weight)[0] for one in x]
        expected = torch.einsum("noc,nod->cd", torch.stack(grads), torch.stack(grads))
        columns = outgoing_gradients(layer, x, 2 * layer(x).detach())
        torch.testing.assert_close(columns @ columns.T, expected)


def test_the_rank_leaves_out_tau():
    values = torch.tensor([0.0, 1.0, 9.0, 90.0])
    assert [effective_rank(values, tau) for tau in (0.0, 0.005, 0.02, 0.2)] == [3, 3, 2, 1]
    assert effective_rank(torch.zeros(4), 0.0) == 1
    assert redundancy_of(torch.diag(values), 5, 0.0).errors == pytest.approx((0.0, 0.1, 0.9, 9.0))


def test_the_order_is_that_of_the_residuals():
    torch.manual_seed(0)
    columns = F.normalize(torch.randn(40, 7, dtype=torch.float64), dim=0)
    gram = columns.T @ columns
    there, expected = list(range(7)), []
    for _ in range(4):
        residuals = {}
        for c in there:
            others = columns[:, [o for o in there if o != c]]
            solution = torch.linalg.lstsq(others, columns[:, c : c + 1]).solution
            residuals[c] = float((others @ solution - columns[:, c : c + 1]).norm())
        worst = min(residuals, key=residuals.get)
        expected.append(worst)
        there.remove(worst)
    assert removal_order(gram, 4) == expected
