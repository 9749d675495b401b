"""Manifold mixup: what is mixed, where, and which loss."""

from __future__ import annotations

import pytest
import torch
from regularizer_hosts import make_host, setting_for
from torch import Tensor, nn
from torch.nn import functional as F

from convswap.errors import TrainingError, UsageError
from convswap.regularizers import Objective, Outcome, get_regularizer
from convswap.regularizers.contract import Forward
from convswap.regularizers.internal.manifold_mixup import binary_loss, mix


class Plain(Objective):
    done = -1.0
    gone = False

    def loss(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return F.cross_entropy(logits, targets, reduction=reduction)

    def step(self, forward: Forward, images: Tensor, targets: Tensor) -> Outcome:
        logits = forward(images)
        return Outcome(self.loss(logits, targets), logits, targets)

    def progress(self, done: float) -> None:
        self.done = done

    def detach(self) -> None:
        self.gone = True


def test_mixing_is_its_formula() -> None:
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    y = mix(x, torch.tensor(0.3), torch.tensor([2, 0, 1]))
    torch.testing.assert_close(y, 0.3 * x + 0.7 * torch.stack([x[2], x[0], x[1]]), rtol=1e-6, atol=1e-7)


def test_the_authors_loss_is_a_binary_cross_entropy() -> None:
    logits, weights = torch.randn(4, 3), torch.rand(4, 3)
    p = logits.softmax(1)
    expected = -(weights * p.log() + (1 - weights) * (1 - p).log()).mean()
    torch.testing.assert_close(binary_loss(logits, weights), expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary"])
def test_a_step_is_that_of_the_paper(loss: str) -> None:
    """Draw the same numbers, mix by hand in the middle of the network, and compare logits, loss and gradients."""
    model, hand = make_host().double().train(), make_host().double().train()
    setting = setting_for()
    images, labels = torch.randn(6, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = get_regularizer("manifold_mixup")(loss=loss).objective(Plain(), model, setting)  # type: ignore[call-arg]
    assert objective.paths == ["blocks.2"]  # type: ignore[attr-defined]
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        depth = int(torch.randint(2, ()))
        share = torch.distributions.Beta(*torch.tensor([2.0, 2.0]).double()).sample().float().double()
        order = torch.randperm(6)
        seen.add(depth)

        def mixed(x: Tensor, share: Tensor = share, order: Tensor = order) -> Tensor:
            return share * x + (1 - share) * x[order]

        hand.zero_grad()
        h = hand.blocks(hand.pool(hand.stem(mixed(images) if depth == 0 else images)))
        logits = hand.classifier((mixed(h) if depth else h).mean((2, 3)))
        weights = mixed(F.one_hot(labels, 3).double())
        expected = F.cross_entropy(logits, weights) if loss == "cross_entropy" else binary_loss(logits, weights.float())
        expected.backward()
        model.zero_grad()
        torch.manual_seed(seed)
        outcome = objective.step(model, images, labels)
        outcome.loss.backward()
        torch.testing.assert_close(outcome.logits, logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(outcome.loss.double(), expected.double(), rtol=1e-5, atol=1e-6)
        assert torch.equal(outcome.labels, weights.argmax(1))
        for parameter, other in zip(model.parameters(), hand.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert seen == {0, 1}
    evaluated = model.eval()(images)
    objective.detach()
    assert torch.equal(model(images), evaluated), "evaluation is the identity, also after a mixed step"
    assert not any(m._forward_hooks for m in model.modules())


def test_the_inner_objective_is_told() -> None:
    inner = Plain()
    objective = get_regularizer("manifold_mixup")().objective(inner, make_host(), setting_for())
    objective.progress(0.25)
    assert inner.done == 0.25
    objective.detach()
    assert inner.gone


def test_mixed_targets_are_mixed_again() -> None:
    model = make_host().train()
    objective = get_regularizer("manifold_mixup")().objective(Plain(), model, setting_for())
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]])
    assert torch.isfinite(objective.step(model, torch.randn(2, 1, 8, 8), soft).loss)
    objective.detach()


def test_a_stage_that_training_does_not_call_is_noticed() -> None:
    model = make_host().train()
    objective = get_regularizer("manifold_mixup")().objective(Plain(), model, setting_for())
    other = make_host().train()
    torch.manual_seed(next(seed for seed in range(20) if torch.manual_seed(seed) and torch.randint(2, ())))
    with pytest.raises(TrainingError, match=r"does not call blocks\.2 while it trains"):
        objective.step(other, torch.ones(2, 1, 8, 8), torch.tensor([0, 1]))


def test_networks_without_stages_are_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UsageError, match="Sequential has no stage of two convolutions"):
        get_regularizer("manifold_mixup")().objective(Plain(), flat, setting_for())


@pytest.mark.parametrize("options", [{"alpha": 0}, {"deepest": 0}, {"loss": "hinge"}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        get_regularizer("manifold_mixup")(**options)
