from __future__ import annotations

import copy
import math

import pytest
import torch

from convswap.train import ShiftAdaMax
from convswap.units import nearest_power_of_two


def ap2(value: float) -> float:
    return 0.0 if value == 0 else math.copysign(2.0 ** round(math.log2(abs(value))), value)


def test_it_takes_the_steps_of_the_torch7_code(golden) -> None:
    case = golden("qnn")["case_shift_adamax"]
    config = case["config"]
    parameter = torch.nn.Parameter(case["params"][0].clone())
    betas = (config["beta1"], config["beta2"])
    optimizer = ShiftAdaMax([parameter], lr=config["lr"], betas=betas, eps=config["eps"], rounded_state=True)
    for gradient, expected in zip(case["grads"], case["params"][1:], strict=True):
        parameter.grad = gradient.clone()
        optimizer.step()
        parameter.data.clamp_(-1, 1)  # the Torch7 optimizer clips, here a module's `constrain_` does
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-12)
    state = optimizer.state[parameter]
    torch.testing.assert_close(state["mean"], case["m"], rtol=0, atol=1e-12)
    torch.testing.assert_close(state["largest"], case["v"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rounded", [False, True])
def test_it_is_the_formula_element_by_element(rounded) -> None:
    lr, (b1, b2), eps, decay = 3e-3, (0.875, 0.99), 2**-27, 0.01
    start = torch.randn(4, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = ShiftAdaMax([parameter], lr=lr, betas=(b1, b2), weight_decay=decay, rounded_state=rounded)
    p, m, v = start.tolist(), [0.0] * 4, [0.0] * 4
    for t in range(1, 6):
        gradient = torch.randn(4, dtype=torch.float64) * (t != 3)
        parameter.grad = gradient.clone()
        optimizer.step()
        for i in range(4):
            g = float(gradient[i]) + decay * p[i]
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = max(b2 * v[i], abs(g))
            divisor = ap2(v[i]) + eps
            v[i] = divisor if rounded else v[i]
            p[i] -= ap2(lr / (1 - b1**t)) * m[i] / divisor
        torch.testing.assert_close(parameter.detach(), torch.tensor(p, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_zero_gradient_moves_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    ShiftAdaMax([parameter]).step()
    assert torch.equal(parameter.detach(), torch.ones(3))


def test_state_goes_through_a_state_dict() -> None:
    def run(steps: int, parameter: torch.nn.Parameter, optimizer: ShiftAdaMax, first: int = 0) -> None:
        for step in range(first, first + steps):
            parameter.grad = torch.sin(torch.arange(3.0) + step)
            optimizer.step()

    one = torch.nn.Parameter(torch.zeros(3))
    first = ShiftAdaMax([one], lr=0.01)
    run(3, one, first)
    other = torch.nn.Parameter(one.detach().clone())
    second = ShiftAdaMax([other], lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(2, one, first, first=3)
    run(2, other, second, first=3)
    assert torch.equal(one, other)


def test_a_closure_is_called_with_gradients_on() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = ShiftAdaMax([parameter], lr=0.125)

    def closure() -> float:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return float(loss)

    assert optimizer.step(closure) == 2.0
    assert float(parameter.detach().abs().max()) < 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"lr": -1.0}, "lr=-1.0"), ({"eps": 0.0}, "eps=0.0.*above 0"), ({"betas": (1.0, 0.9)}, "betas=.*below 1"),
     ({"weight_decay": float("nan")}, "weight_decay=nan")],
)  # fmt: skip
def test_wrong_options_are_named(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftAdaMax([torch.nn.Parameter(torch.ones(1))], **wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_nearest_power_of_two(dtype) -> None:
    values = torch.tensor([0.0, 1.0, -1.0, 1.41, 1.42, -2.9, 0.3, 1e-4, -3e4], dtype=dtype)
    found = nearest_power_of_two(values)
    assert found.dtype == dtype
    assert found.tolist() == [ap2(float(v)) for v in values]
    assert str(found[0].item()) == "0.0"
