"""`load_plain`: the weights of a host, after its swap, as if they had been loaded before it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convswap
from convswap.errors import ConvswapError, UsageError
from convswap.testing import Case, cases_of


def host(*, lived: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm and Tanh or ReLU, twice, with statistics and weights that a training would have left."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Tanh()]
    layers += [nn.Conv2d(4, 4, 3, padding=1, groups=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2)]
    model = nn.Sequential(*layers).double().eval()
    if lived:
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.data.uniform_(0.5, 1.5)
    return model


def image() -> Tensor:
    return torch.randn(2, 3, 9, 8, dtype=torch.float64)


@pytest.mark.parametrize("case", [case for case in cases_of() if not case.block], ids=str)
def test_as_if_the_weights_had_been_loaded_before_the_swap(case: Case) -> None:
    """Before there was no way: a strict load of plain weights gave another function or was refused."""
    torch.manual_seed(0)
    trained, x = host(), image()
    if case.refuses(trained[3]) is not None:
        pytest.skip("does not stand in this host")
    options: dict[str, Any] = {"where": "3", "example_input": x, **case.options}
    swapped = convswap.swap(host(lived=False), case.spec.name, **options).eval()
    torch.manual_seed(1)
    expected = convswap.swap(trained, case.spec.name, **options).eval()
    torch.manual_seed(1)
    given = {"state_dict": {f"module.{name}": value for name, value in trained.state_dict().items()}, "epoch": 3}
    assert convswap.load_plain(swapped, given) is swapped
    with torch.no_grad():
        if case.spec.name in ("ghost", "sk", "minimum", "niff"):  # parts are drawn, and in another order
            assert set(swapped.state_dict()) == set(expected.state_dict())
            for name in ("0.weight", "6.weight"):
                assert torch.equal(swapped.state_dict()[name], trained.state_dict()[name])
            return
        torch.testing.assert_close(swapped(x), expected(x), rtol=1e-9, atol=1e-10)


def test_a_removed_batch_norm_is_taken_over() -> None:
    torch.manual_seed(0)
    trained, x = host(), image()
    options: dict[str, Any] = {"branches": 1, "relu": False, "kernels": "true"}
    expected = convswap.swap(trained, "sk", where="3", example_input=x, **options).eval()
    assert isinstance(expected[4], nn.Identity)
    swapped = convswap.swap(host(lived=False), "sk", where="3", example_input=x, **options).eval()
    with pytest.raises(RuntimeError, match=r"load it before the swap, or with convswap\.load_plain"):
        swapped.load_state_dict(trained.state_dict())
    convswap.load_plain(swapped, trained.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(expected(x), trained(x), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(swapped(x), trained(x), rtol=1e-9, atol=1e-10)


def test_a_second_swap_and_shared_units() -> None:
    model, trained, x = host(lived=False), host(), image()
    for each in (model, trained):
        each.append(nn.ReLU()).append(nn.Conv2d(6, 4, 1).double()).append(each[3])
    swapped = convswap.swap(
        convswap.swap(model, "circle", where="0", example_input=x), "ic", where="3", example_input=x
    )
    convswap.load_plain(swapped.eval(), trained.state_dict())
    assert swapped[3] is swapped[9]
    with torch.no_grad():
        torch.testing.assert_close(swapped(x), trained(x), rtol=1e-9, atol=1e-10)


def spoiled(state: dict[str, Tensor], how: str) -> Any:
    if how == "a missing name":
        del state["1.weight"]
    elif how == "a strange name":
        state["8.weight"] = torch.zeros(1)
    elif how == "a shape":
        state["3.weight"] = torch.zeros(4, 4, 5, 5)
    elif how == "another layer":
        state["3.running_mean"] = torch.zeros(4)
    elif how == "no weight":
        del state["3.weight"]
    elif how == "no state":
        return {"epoch": 3}
    return state


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("a missing name", "does not fit Sequential: missing 1.weight"),
        ("a strange name", "unexpected 8.weight"),
        ("a shape", r"3\.weight has shape \(4, 4, 5, 5\), and the convolution there had \(4, 4, 3, 3\)"),
        ("another layer", "holds running_mean at 3, so it is not a plain convolution's"),
        ("no weight", "has no weight at 3"),
        ("no state", "epoch is not a tensor"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(how: str, says: str) -> None:
    swapped = convswap.swap(host(), "circle", where="3", example_input=image())
    before = copy.deepcopy(swapped.state_dict())
    with pytest.raises(ConvswapError, match=says):
        convswap.load_plain(swapped, spoiled(dict(host().state_dict()), how))
    assert all(torch.equal(value, before[name]) for name, value in swapped.state_dict().items())


def test_a_block_unit_is_refused_by_name() -> None:
    plain = convswap.create_model("cifar_resnet8", num_classes=10)
    swapped = convswap.swap(plain, "minimum_block", example_input=torch.randn(1, 3, 32, 32))
    with pytest.raises(UsageError, match=r"layer\d\.\d is minimum_block, which starts fresh .*before the swap"):
        convswap.load_plain(swapped, plain.state_dict())


def test_what_bears_a_mark_is_loaded_as_it_is() -> None:
    x = image()
    trained = convswap.swap(host(), "circle", where="0", example_input=x)
    swapped = convswap.swap(convswap.swap(host(lived=False), "circle", where="0", example_input=x), "ic", where="3")
    convswap.load_plain(swapped.eval(), trained.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(swapped(x), trained.eval()(x), rtol=1e-9, atol=1e-10)


def test_the_pretrained_resnet20_keeps_its_predictions(shared: Path) -> None:
    """circle took the state for its own before: output 50 % off, 34 % of the predictions on noise changed."""
    weights = shared / "data" / "weights" / "resnet20-12fca82f.th"
    plain = convswap.create_model("cifar_resnet20", num_classes=10, weights=weights).eval()
    x = torch.randn(64, 3, 32, 32)
    with torch.no_grad():
        expected = plain(x)
        for unit in ("circle", "ic"):
            swapped = convswap.swap(
                convswap.create_model("cifar_resnet20", num_classes=10),
                unit,
                where="spatial & !first",
                example_input=x[:1],
            ).eval()
            swapped.load_state_dict(plain.state_dict(), strict=True)
            torch.testing.assert_close(swapped(x), expected, rtol=1e-3, atol=1e-3)
