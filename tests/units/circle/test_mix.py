"""The stochastic mixture: golden outputs, the frequency and the determinism of its draws, checkpointing."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.utils.checkpoint import checkpoint

from convswap.units import CircleMixConv2d, with_marks
from convswap.units.circle.geometry import sampling_matrix

GOLDEN = Path(__file__).parents[2] / "golden" / "circle"
ALL = (0.1, 0.2, 0.3, 0.4)


def golden(name: str) -> dict:
    return torch.load(GOLDEN / f"{name}.pt", weights_only=True)


def load_official(case: dict) -> CircleMixConv2d:
    config = dict(case["config"])
    probabilities = config.pop("probs")
    for other in ("cls", "numpy_seed"):
        config.pop(other, None)
    unit = CircleMixConv2d(**config, probabilities=(*probabilities, 1 - sum(probabilities)), dtype=torch.float64)
    state = {key: value for key, value in case["state_dict"].items() if key in ("weight", "bias")}
    unit.load_state_dict(with_marks(unit, state))  # unmarked, it would be a plain convolution's
    return unit


def test_golden_matrices_are_center_diamond_circle_square():
    matrices = golden("matrices")
    ours = CircleMixConv2d(1, 1, 3, dtype=torch.float64).matrices
    for index, name in enumerate(("center", "diamond", "circle", "square")):
        torch.testing.assert_close(ours[index], matrices[f"mix3_{name}"].double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("radius", [0.0, math.sqrt(0.5), 1.0, math.sqrt(2)])
def test_the_four_matrices_are_one_family(radius):
    index = [0.0, math.sqrt(0.5), 1.0, math.sqrt(2)].index(radius)
    a = radius / math.sqrt(2)
    corner = CircleMixConv2d(1, 1, 3, dtype=torch.float64).matrices[index][0]
    expected = [a * a, a * (1 - a), 0, a * (1 - a), (1 - a) ** 2, 0, 0, 0, 0]
    torch.testing.assert_close(corner, torch.tensor(expected, dtype=torch.float64))


def test_golden_evaluation_uses_the_expected_kernel():
    case = golden("case_mix3_eval")
    unit = load_official(case).eval()
    x = case["input"].requires_grad_()
    y = unit(x)
    (y * case["grad_out"]).sum().backward()
    close = {"rtol": 0.0, "atol": 1e-6}
    torch.testing.assert_close(y, case["output"], **close)
    torch.testing.assert_close(unit.effective_weight(), case["equivalent_weight"], **close)
    torch.testing.assert_close(unit.weight.grad, case["grad_weight"], **close)
    torch.testing.assert_close(x.grad, case["grad_input"], **close)
    torch.testing.assert_close(unit.fuse()(x), case["output"], **close)


def test_golden_training_outputs_for_their_draws(monkeypatch):
    case = golden("case_mix3_train")
    unit = load_official(case).train()
    for index, expected in zip(case["train_draws"], case["train_outputs"], strict=True):
        monkeypatch.setattr(unit, "draw", lambda index=index: torch.tensor([index]))
        torch.testing.assert_close(unit(case["input"]), expected, rtol=0, atol=1e-6)


def test_each_training_forward_draws_one_of_the_matrices():
    torch.manual_seed(0)
    unit = CircleMixConv2d(2, 3, 5, padding=2, probabilities=ALL, dtype=torch.float64)
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64)
    four = [sampling_matrix(5, factor=f) for f in (0.0, math.sqrt(0.5), 1.0)] + [torch.eye(25, dtype=torch.float64)]
    expected = [
        conv2d(x, (unit.weight.reshape(-1, 25) @ t).reshape(unit.weight.shape), unit.bias, padding=2) for t in four
    ]
    seen = set()
    for _ in range(60):
        y = unit(x)
        matches = [k for k in range(4) if torch.allclose(y, expected[k], rtol=1e-12, atol=1e-12)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {0, 1, 2, 3}
    mean = sum(p * y for p, y in zip(ALL, expected, strict=True))
    torch.testing.assert_close(unit.eval()(x), mean)
    assert unit.draw_state[1] == 60  # evaluation draws nothing


@pytest.mark.parametrize("probabilities", [(0, 0, 0.5, 0.5), ALL, (0, 1, 0, 0)])
def test_draws_have_their_probabilities_and_look_independent(probabilities):
    torch.manual_seed(5)
    first, second = (CircleMixConv2d(1, 1, 3, probabilities=probabilities) for _ in range(2))
    n = 4000
    a = torch.tensor([first.draw().item() for _ in range(n)])
    b = torch.tensor([second.draw().item() for _ in range(n)])
    p = torch.tensor(probabilities, dtype=torch.float64)
    frequency = torch.bincount(a, minlength=4) / n
    assert ((frequency - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()
    chance = p.square().sum()
    bound = 4 * (chance * (1 - chance) / n).sqrt() + 1e-12
    assert ((a == b).double().mean() - chance).abs() <= bound  # layers
    assert ((a[1:] == a[:-1]).double().mean() - chance).abs() <= bound  # steps


def test_a_resumed_run_repeats_the_draws_and_a_copy_goes_on_alike():
    unit = CircleMixConv2d(1, 1, 3, probabilities=ALL)
    for _ in range(7):
        unit.draw()
    saved, twin = copy.deepcopy(unit.state_dict()), copy.deepcopy(unit)
    rest = [unit.draw().item() for _ in range(50)]
    resumed = CircleMixConv2d(1, 1, 3, probabilities=ALL)
    resumed.load_state_dict(saved)
    assert [resumed.draw().item() for _ in range(50)] == rest
    assert [twin.draw().item() for _ in range(50)] == rest


def test_the_global_generators_decide_the_seed_and_nothing_else():
    torch.manual_seed(1)
    unit = CircleMixConv2d(1, 1, 3)
    torch.manual_seed(1)
    assert torch.equal(unit.draw_state, CircleMixConv2d(1, 1, 3).draw_state)
    before = torch.get_rng_state()
    unit(torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_recomputes_with_the_same_draw(use_reentrant):
    torch.manual_seed(2)
    plain = nn.Sequential(
        CircleMixConv2d(2, 4, 3, padding=1, probabilities=ALL),
        nn.Tanh(),
        CircleMixConv2d(4, 3, 5, padding=2, probabilities=ALL),
    ).double()
    checkpointed = copy.deepcopy(plain)
    for _ in range(12):
        x = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
        plain(x).square().sum().backward()
        checkpoint(checkpointed, x, use_reentrant=use_reentrant).square().sum().backward()
        for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
        assert torch.equal(plain[0].draw_state, checkpointed[0].draw_state)


def test_compiled_training_draws_as_eager_does():
    eager = CircleMixConv2d(2, 3, 3, padding=1, probabilities=ALL)
    compiled_unit = copy.deepcopy(eager)
    compiled = torch.compile(compiled_unit, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 2, 5, 5)
    for _ in range(8):
        torch.testing.assert_close(compiled(x), eager(x))
    assert torch.equal(eager.draw_state, compiled_unit.draw_state)


def test_exports_in_evaluation():
    unit = CircleMixConv2d(2, 3, 3, padding=1).eval()
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(torch.export.export(unit, (x,)).module()(x), unit(x))


@pytest.mark.parametrize("probabilities", [(0, 0, 0.5, 0.5), ALL])
@pytest.mark.parametrize("size", [3, 5, 7, 9, 11])
def test_warm_start_is_exact_in_evaluation(size, probabilities):
    conv = nn.Conv2d(2, 4, size, 2, 1, groups=2, dtype=torch.float64)
    assert CircleMixConv2d.warm_start_for(conv, probabilities=probabilities) == "exact"
    unit = CircleMixConv2d.from_conv(conv.eval(), probabilities=probabilities)
    x = torch.randn(1, 2, 13, 12, dtype=torch.float64)
    torch.testing.assert_close(unit(x), conv(x), rtol=0, atol=1e-11)


def test_singular_mixtures_are_declared():
    conv = nn.Conv2d(2, 2, 3)
    assert CircleMixConv2d.warm_start_for(conv, probabilities=(1, 0, 0, 0)) == "approximate"
    assert CircleMixConv2d.warm_start_for(nn.Conv2d(2, 2, 9), probabilities=(0, 0, 1, 0)) == "approximate"


@pytest.mark.parametrize(
    ("probabilities", "trained", "fused"), [((0, 0, 0.5, 0.5), 0.854, 0.816), ((0.25,) * 4, 0.844, 0.702)]
)
def test_variance_before_and_after_fusing(probabilities, trained, fused):
    unit = CircleMixConv2d(1, 1, 3, probabilities=probabilities, dtype=torch.float64)
    variances = unit.matrices.square().sum((1, 2)) / 9
    assert (variances * torch.tensor(probabilities)).sum().item() == pytest.approx(trained, abs=1e-3)
    assert unit.expected.square().sum().item() / 9 == pytest.approx(fused, abs=1e-3)


def test_fuse_from_training_mode_leaves_the_draws_alone():
    unit = CircleMixConv2d(2, 3, 3)
    state = unit.draw_state.clone()
    fused = unit.fuse()
    assert type(fused) is nn.Conv2d
    assert fused.training
    assert torch.equal(unit.draw_state, state)
    x = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(fused(x), unit.eval()(x))


def test_plain_checkpoints_load_strictly_also_onto_meta_modules():
    plain = nn.Conv2d(2, 3, 3)
    unit = CircleMixConv2d(2, 3, 3)
    state = unit.draw_state.clone()
    unit.load_state_dict(plain.state_dict())
    assert torch.equal(unit.draw_state, state)
    with torch.device("meta"):
        late = CircleMixConv2d(2, 3, 3)
    late.load_state_dict(plain.state_dict(), assign=True)
    assert late.draw_state[1] == 0
    late(torch.randn(1, 2, 5, 5))
    with torch.device("meta"):
        emptied = CircleMixConv2d(2, 3, 3)
    emptied.to_empty(device="cpu")
    assert emptied.draw_state[1] == 0
    seed = emptied.draw_state[0].item()
    emptied.reset_parameters()
    assert emptied.draw_state[0] != seed


@pytest.mark.parametrize("value", [(0.5, 0.5), (0, 0, 0.7, 0.7), (-0.5, 0.5, 0.5, 0.5), "half", (math.nan,) * 4, 3])
def test_bad_probabilities_are_named(value):
    with pytest.raises(ValueError, match="probabilities="):
        CircleMixConv2d(1, 1, 3, probabilities=value)


def test_unsupported_kernels_are_named():
    with pytest.raises(ValueError, match="no ring"):
        CircleMixConv2d(1, 1, 1)
    assert "2x2" in (CircleMixConv2d.supports(nn.Conv2d(1, 1, 2)) or "")
