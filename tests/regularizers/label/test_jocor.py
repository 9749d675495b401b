"""JoCoR and mutual learning: the losses, written out image by image, and the second network."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_training import make_data, make_model, make_recipe
from torch import nn

from convswap.errors import UsageError
from convswap.regularizers import Objective, parse_regularizers
from convswap.regularizers.label.jocor import jocor_loss
from convswap.regularizers.label.twins import relative_entropy, second_network
from convswap.train import Recipe, fit, regularized
from convswap.train.objective import build_objective
from convswap.train.regularization import Regularization, setting_of

FIRST, SECOND = torch.randn(2, 10, 3, dtype=torch.float64).unbind()
LABELS = torch.arange(10) % 3


def softmax(row: torch.Tensor) -> list[float]:
    values = [math.exp(value) for value in row.tolist()]
    return [value / sum(values) for value in values]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def objective_of(text: str, model: nn.Module | None = None) -> Objective:
    recipe = regularized(Recipe(label_smoothing=0.0), [text])
    setting = setting_of(make_data(), recipe)
    return build_objective(recipe, parse_regularizers(recipe.regularize), model or make_model(), setting)


@pytest.mark.parametrize(("agree", "forget", "done"), [(0.9, 0.2, 1.0), (0.5, 0.45, 0.02), (0.0, 0.99, 0.9)])
def test_jocor_is_its_formula(agree: float, forget: float, done: float) -> None:
    objective = objective_of(f"jocor:agree={agree}:forget={forget}:ramp=0.04")
    objective.second = lambda images: SECOND  # type: ignore[attr-defined]
    objective.progress(done)
    loss, logits, labels = objective.step(lambda images: FIRST, FIRST, LABELS)
    values = []
    for one, two, label in zip(FIRST, SECOND, LABELS.tolist(), strict=True):
        p, q = softmax(one), softmax(two)
        entropy = -math.log(p[label]) - math.log(q[label])
        values.append((1 - agree) * entropy + agree * (kl(p, q) + kl(q, p)))
    now = forget * min(1, done / 0.04)
    kept = sorted(values)[: max(1, int((1 - now) * 10))]
    assert float(loss) == pytest.approx(sum(kept) / len(kept))
    assert logits is FIRST
    assert labels is LABELS


def test_forgotten_images_have_no_gradient() -> None:
    one = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    jocor_loss(one, torch.zeros(3), agree=0.0, forget=0.4).backward()
    assert one.grad is not None
    assert one.grad.tolist() == [0.0, 1.0, 0.0]


def test_mutual_learning_is_its_formula() -> None:
    first, second = (x.clone().requires_grad_() for x in (FIRST, SECOND))
    objective = objective_of("mutual_learning:0.7")
    objective.second = lambda images: second  # type: ignore[attr-defined]
    loss = objective.step(lambda images: first, first, LABELS).loss
    want = 0.0
    for one, two, label in zip(FIRST, SECOND, LABELS.tolist(), strict=True):
        p, q = softmax(one), softmax(two)
        want += (-math.log(p[label]) - math.log(q[label]) + 0.7 * (kl(p, q) + kl(q, p))) / 10
    assert float(loss.detach()) == pytest.approx(want)
    loss.backward()
    for own, other in ((first, second), (second, first)):
        alone = own.detach().clone().requires_grad_()
        mine = nn.functional.cross_entropy(alone, LABELS)
        (mine + 0.7 * relative_entropy(other.detach(), alone).mean()).backward()
        torch.testing.assert_close(own.grad, alone.grad)


def test_the_second_network_starts_elsewhere_and_the_first_stays() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    second = second_network(model, "jocor", 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(second[0].weight, model[0].weight)
    assert torch.equal(second[0].weight, second_network(model, "jocor", 4)[0].weight)
    assert not torch.equal(second[0].weight, second_network(model, "jocor", 5)[0].weight)


def test_a_module_that_cannot_start_again_is_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    with pytest.raises(UsageError, match=r"0 \(Own\) has parameters but no reset_parameters\(\)"):
        second_network(nn.Sequential(Own()), "jocor", 0)


def test_a_frozen_part_is_refused() -> None:
    """It would stay random in the second network."""
    model = make_model()
    model[0].weight.requires_grad_(False)
    with pytest.raises(UsageError, match=r"the frozen 0\.weight would stay as it was drawn; freeze nothing"):
        second_network(model, "jocor", 0)


@pytest.mark.parametrize("name", ["jocor", "mutual_learning"])
def test_both_networks_learn_and_one_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    companions: list[nn.Module] = []
    detach = Regularization.detach
    monkeypatch.setattr(
        Regularization, "detach", lambda self: (companions.append(self.companions["objective"]), detach(self))
    )
    model = make_model()
    result = fit(model, make_data(), regularized(make_recipe(epochs=6), [name]), seed=0, progress=False, device="cpu")
    assert result.test_accuracy > 0.8
    fresh = second_network(make_model(), name, 0)
    assert not torch.equal(companions[0][0].weight, fresh[0].weight)
    assert not torch.equal(companions[0][0].weight, model[0].weight)
    assert len(list(model.state_dict())) == len(list(make_model().state_dict()))
