"""Which layer makes the logits, where a model does not say so itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convswap.models import load_weights
from convswap.models.weights import classifier_path


def mlp(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (mlp(3), "3"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 5, 3)), "2"),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Linear(8, 2), nn.Conv2d(2, 2, 1)), "1"),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), None),
    ],
)
def test_it_is_the_last_linear_layer_or_the_last_pointwise_convolution(model: nn.Module, path: str | None) -> None:
    assert classifier_path(model) == path


def test_other_classes_leave_the_layers_before_trained(tmp_path) -> None:
    trained = mlp(3)
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    model = mlp(7)
    assert load_weights(model, tmp_path / "w.pth") == ["3.bias", "3.weight"]
    assert torch.equal(model[1].weight, trained[1].weight)
