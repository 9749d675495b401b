"""ShakeDrop and Shake-Shake: outputs, gradients and expectations, against closed forms."""

from __future__ import annotations

import pytest
import torch
from regularizer_hosts import make_host, setting_for
from torch import nn

from convswap.errors import UsageError
from convswap.models import create_model
from convswap.regularizers import get_regularizer
from convswap.regularizers.internal.shake_drop import Shake, different_gradient
from convswap.regularizers.internal.shake_shake import Draw, ShakeBranch


def test_shake_shake_is_the_closed_form(shared) -> None:
    case = torch.load(shared / "golden" / "regularisation" / "case_shakeshake_closed_form.pt", weights_only=True)
    given = case["input"]
    first, second = (given[name].clone().requires_grad_() for name in ("x1", "x2"))
    draw = Draw("image")
    one, other = ShakeBranch(nn.Identity(), draw, first=True), ShakeBranch(nn.Identity(), draw, first=False)
    draw.draw = lambda x: _set(draw, given)  # type: ignore[method-assign]
    y = one.train(first) + other.train(second)
    y.backward(given["grad_out"])
    torch.testing.assert_close(y, case["output"]["train"])
    torch.testing.assert_close(first.grad, case["output"]["grad_x1"])
    torch.testing.assert_close(second.grad, case["output"]["grad_x2"])
    torch.testing.assert_close(one.evaluate(given["x1"]) + other.evaluate(given["x2"]), case["output"]["eval"])


def _set(draw: Draw, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    draw.forward, draw.backward = given["alpha"], given["beta"]
    return draw.forward, draw.backward


@pytest.mark.parametrize(("per", "distinct"), [("image", 6), ("batch", 1)])
def test_shake_shake_draws(per: str, distinct: int) -> None:
    torch.manual_seed(0)
    draw = Draw(per)
    one, other = ShakeBranch(nn.Identity(), draw, first=True), ShakeBranch(nn.Identity(), draw, first=False)
    x = torch.ones(6, 2, 3, 3)
    first = one.train(x)
    torch.testing.assert_close(first + other.train(x), x)
    assert len(first.unique()) == distinct
    with pytest.raises(RuntimeError, match="before the first"):
        other.train(x)


def test_a_gradient_of_its_own() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = different_gradient(x, torch.tensor(2.0), torch.tensor(-3.0))
    y.sum().backward()
    torch.testing.assert_close(y, 2 * x)
    assert torch.equal(x.grad, torch.full_like(x, -3))  # type: ignore[arg-type]


@pytest.mark.parametrize("gate", ["batch", "image"])
def test_shake_drop_has_the_factors_of_the_paper(gate: str) -> None:
    torch.manual_seed(0)
    hook = Shake(nn.Identity(), 0.6, gate)
    outputs, gradients = [], []
    for _ in range(3000):
        x = torch.ones(4, 1, 1, 1, requires_grad=True)
        y = hook.train(x)
        y.sum().backward()
        outputs.append(y.detach().flatten())
        gradients.append(x.grad.flatten())  # type: ignore[union-attr]
    forward, backward = torch.stack(outputs), torch.stack(gradients)
    kept = forward == 1  # b = 1: both factors are 1
    assert torch.equal(kept, backward == 1)
    assert bool((kept == kept[:, :1]).all()) == (gate == "batch")
    assert float(kept.float().mean()) == pytest.approx(0.6, abs=0.03)
    a, c = forward[~kept], backward[~kept]
    assert -1 <= float(a.min()) < -0.98
    assert 0.98 < float(a.max()) <= 1
    assert 0 <= float(c.min()) < 0.02
    assert 0.98 < float(c.max()) <= 1
    assert float(forward.mean()) == pytest.approx(0.6, abs=0.03), "E[b + a - b a] = p"
    assert float(hook.evaluate(torch.ones(()))) == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["shake_drop", "shake_shake"])
def test_the_network_keeps_what_evaluation_did(name: str) -> None:
    model, x = make_host(), torch.randn(5, 1, 8, 8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    before = model.eval()(x)
    attached = get_regularizer(name)().attach(model, setting_for())
    evaluated = model(x)
    assert not torch.allclose(evaluated, before)
    attached.progress(0.0)
    attached.detach()
    torch.testing.assert_close(model(x), evaluated)
    attached.detach()
    torch.testing.assert_close(model(x), evaluated)


@pytest.mark.parametrize("name", ["shake_drop", "shake_shake", "max_pool_dropout"])
def test_nothing_stays_if_no_training_began(name: str) -> None:
    model, x = make_host().eval(), torch.randn(5, 1, 8, 8)
    before = model(x)
    get_regularizer(name)().attach(model, setting_for()).detach()
    assert torch.equal(model(x), before)
    assert type(model.pool) is nn.MaxPool2d


def test_depth_decides_the_survival() -> None:
    model = make_host()
    get_regularizer("shake_drop")(0.4).attach(model, setting_for())  # type: ignore[call-arg]
    hooks = [h for m in model.modules() for h in m._forward_hooks.values()]
    assert [h.survival for h in hooks] == pytest.approx([0.7, 0.4])  # type: ignore[attr-defined]


def test_a_branch_without_batch_norm_is_refused() -> None:
    model = create_model("preactresvgg18", num_classes=3, in_channels=1)
    with pytest.raises(UsageError, match="without a BatchNorm at its end") as caught:
        get_regularizer("shake_drop")().attach(model, setting_for(size=32))
    assert "PreActResNet" in str(caught.value)
    assert "stochastic_depth" in str(caught.value)
