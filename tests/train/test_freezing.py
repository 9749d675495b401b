from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convswap.errors import UsageError
from convswap.models import create_model
from convswap.surgery import swap
from convswap.surgery.sites import is_unit
from convswap.train import fit
from convswap.train.freezing import frozen, frozen_layers

from .conftest import Bounded, make_data, make_model, make_recipe


def names(model: nn.Module, selection: str) -> set[str]:
    found = {id(module) for module in frozen_layers(model, selection)}
    return {path for path, module in model.named_modules() if id(module) in found}


def test_a_frozen_layer_keeps_every_bit(fresh_model) -> None:
    model, before = fresh_model(), fresh_model()
    fit(model, make_data(), make_recipe(freeze="[0-2]"), seed=0, progress=False, device="cpu")
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]) == name.startswith(("0.", "1.")), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("knob", [{"ema": 0.9}, {"decay_all": True}, {"optimizer": "lamb"}, {"clip_norm": 0.1}])
def test_no_knob_moves_a_frozen_layer(knob: dict[str, object]) -> None:
    model, before = make_model(), make_model()
    recipe = make_recipe(freeze="[01], 3", learning_rate=0.01, **knob)
    fit(model, make_data(), recipe, seed=0, progress=False, device="cpu")
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]) == name.startswith(("0.", "1.", "3.")), name


def test_bounds_do_not_move_a_frozen_module() -> None:
    model = nn.Sequential(Bounded(), nn.Linear(3, 3))
    before = copy.deepcopy(model.state_dict())
    assert before["0.0.weight"].abs().max() > Bounded.BOUND
    fit(model, make_data(), make_recipe(freeze="0.*"), seed=0, progress=False, device="cpu")
    assert torch.equal(before["0.0.weight"], model.state_dict()["0.0.weight"])
    assert not torch.equal(before["1.weight"], model.state_dict()["1.weight"])


def test_dropout_in_a_frozen_part_does_nothing() -> None:
    frozen_all, plain = make_model(), make_model()
    plain[6] = nn.Identity()
    for model in (frozen_all, plain):
        fit(model, make_data(), make_recipe(freeze="[0-8]"), seed=0, progress=False, device="cpu")
    assert torch.equal(frozen_all[9].weight, plain[9].weight)


def test_the_selection_is_that_of_where() -> None:
    model = create_model("cifar_resnet8", num_classes=10)
    assert "layer1" in names(model, "layer1.*")
    assert names(model, "layer1.*") == {path for path, _ in model.named_modules() if path.startswith("layer1")}
    assert names(model, "all & !linear") == {path for path, _ in model.named_modules() if path} - {"linear"}
    assert names(model, "conv1, bn1") == {"conv1", "bn1"}
    assert names(model, "layer1.* & !*bn*") == {
        path
        for path, module in model.named_modules()
        if path.startswith("layer1") and "bn" not in path and not list(module.children())
    }
    assert frozen_layers(model, "") == []


def test_a_unit_is_frozen_as_a_whole() -> None:
    image = torch.zeros(1, 3, 32, 32)
    model = swap(create_model("cifar_resnet8", num_classes=10), "ghost", example_input=image)
    unit = next(path for path, module in model.named_modules() if is_unit(module))
    assert list(model.get_submodule(unit).children())
    with frozen(model, unit) as modules:
        assert all(part in modules for part in model.get_submodule(unit).modules())
        assert not any(parameter.requires_grad for parameter in model.get_submodule(unit).parameters())
        assert model.linear.weight.requires_grad


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("layer9.*", r"freeze='layer9\.\*': 'layer9\.\*' matches none of the model's 15 layers with weights"),
        ("layer1.*, layer9.*", "'layer9.*' matches none"),
        ("layer1", "write 'layer1.*'"),
        ("conv2", "unknown condition in where 'conv2'"),
        ("layer1 conv", "not well-formed"),
        ("layer1.*,", "empty condition"),
    ],
)
def test_a_selection_that_matches_nothing_is_refused(selection: str, message: str) -> None:
    model = create_model("cifar_resnet8", num_classes=10)
    with pytest.raises(UsageError, match=message) as caught:
        frozen_layers(model, selection)
    assert f"freeze={selection!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shared_weight_is_not_half_frozen() -> None:
    model = make_model()
    model.append(nn.Linear(64, 3))
    model[10].weight = model[9].weight
    with pytest.raises(UsageError, match=r"freeze='9' freezes a weight that 10 shares"):
        frozen_layers(model, "9")
    assert len(frozen_layers(model, "9, 10")) == 2


def test_weights_that_were_frozen_before_stay_so() -> None:
    model = make_model()
    model[0].weight.requires_grad_(False)
    with frozen(model, "0, 3"):
        pass
    assert [p.requires_grad for p in (model[0].weight, model[3].weight)] == [False, True]
