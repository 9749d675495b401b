"""What `load_state_dict` does with a unit's own state, a plain convolution's, and anybody else's."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

import convswap
from convswap.testing import Case, cases_of
from convswap.units import (
    BinaryWeightConv2d,
    CircleConv2d,
    CircleMixConv2d,
    FusedSigns,
    GhostConv2d,
    ICConv2d,
    LevelConv2d,
    QuantizedConv2d,
    XnorConv2d,
)

DOUBLE = {"dtype": torch.float64}
CASES = [case for case in cases_of() if not case.block]
HOME = {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1}


def host(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(**HOME), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1, bias=False)]
    return nn.Sequential(*layers).to(dtype).eval()


def swapped(case: Case | str, **options: Any) -> nn.Module:
    name = case if isinstance(case, str) else case.spec.name
    options = options if isinstance(case, str) else dict(case.options)
    return convswap.swap(host(), name, where="2,4", example_input=image(), **options).eval()


def image() -> torch.Tensor:
    return torch.randn(2, 3, 9, 8, **DOUBLE)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_plain_checkpoint_after_the_swap_is_as_good_as_before_it_or_refused(case: Case) -> None:
    """circle took it for its own before: a pretrained resnet20 was 50 % off, without a word."""
    if any(case.refuses(conv) is not None for conv in (host()[2], host()[4])):
        pytest.skip("does not stand in this host")
    trained = copy.deepcopy(host())
    for p in trained.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model = swapped(case)
    before = {name: value.clone() for name, value in model[2].state_dict().items()}
    options = dict(model[2].options)
    kinds = {case.cls.warm_start_for(conv, **options) or case.spec.warm_start for conv in (trained[2], trained[4])}
    if "none" in kinds or case.cls.absorbs_batch_norm:
        with pytest.raises(RuntimeError, match=r"or with convswap.load_plain\(model, state\)|holds other"):
            model.load_state_dict(trained.state_dict(), strict=True)
        assert all(torch.equal(value, before[name]) for name, value in model[2].state_dict().items())
        return
    model.load_state_dict(trained.state_dict(), strict=True)
    x = image()
    if kinds == {"exact"}:
        torch.testing.assert_close(model(x), trained(x), rtol=1e-9, atol=1e-10)
    again = convswap.swap(trained, case.spec.name, where="2,4", example_input=x, **case.options).eval()
    if case.spec.train_eval == "same":
        torch.testing.assert_close(model(x), again(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", [c for c in CASES if c.spec.name != "conv"], ids=str)
def test_a_units_state_is_refused_by_a_plain_convolution(case: Case) -> None:
    unit = case.home()
    conv = nn.Conv2d(**case.homes()[0])
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: .*_extra_state"):
        conv.load_state_dict(unit.state_dict(), strict=True)
    if not any(value.dim() and name == "weight" for name, value in unit.state_dict().items()):
        return
    if unit.state_dict()["weight"].shape == conv.weight.shape:
        _, unexpected = conv.load_state_dict(unit.state_dict(), strict=False)
        assert "_extra_state" in unexpected


def test_one_reason_for_a_whole_network() -> None:
    model, other = swapped("circle"), swapped("circle", radius=0.7)
    with pytest.warns(UserWarning, match="is of circle") as seen, pytest.raises(RuntimeError) as caught:
        model.load_state_dict(other.state_dict())
    assert len(seen) == 1
    told = str(caught.value)
    reason = (
        '"2.weight (the state given is of circle(radius=0.7), but this is circle(radius=1); open it with '
        'convswap.load, or build the model with circle(radius=0.7))", "2.bias", "4.weight"'
    )
    assert reason in told
    assert "Unexpected" not in told
    with pytest.warns(UserWarning, match="is of circle"):
        missing, unexpected = model.load_state_dict(other.state_dict(), strict=False)
    assert (missing, unexpected) == (["2.weight", "2.bias", "4.weight"], [])


def test_a_refused_state_leaves_parameters_and_their_identity() -> None:
    unit = ICConv2d(**HOME)
    parameters = dict(unit.named_parameters())
    with pytest.warns(UserWarning, match="is of circle, but this is ic"):
        unit.load_state_dict(CircleConv2d(**HOME).state_dict(), strict=False, assign=True)
    assert all(parameter is parameters[name] for name, parameter in unit.named_parameters())


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64])
def test_a_plain_state_of_another_precision(given: torch.dtype, assign: bool) -> None:
    conv = nn.Conv2d(**HOME, **DOUBLE).to(given)
    unit = CircleConv2d(**HOME)
    unit.load_state_dict(conv.state_dict(), assign=assign)
    assert unit.weight.dtype == (given if assign else torch.float32)
    assert unit.weight.requires_grad
    error = (unit.effective_weight().double() - conv.weight.double()).abs().max()
    assert error < (2e-3 if assign and given == torch.float16 else 1e-6)


def test_a_plain_state_onto_a_unit_on_the_meta_device() -> None:
    conv = nn.Conv2d(**HOME, **DOUBLE)
    for unit in (CircleConv2d(**HOME, device="meta"), ICConv2d(**HOME, gate="closed", device="meta")):
        unit.load_state_dict(conv.state_dict(), assign=True)
        assert not any(t.is_meta for t in unit.state_dict().values())
        x = torch.randn(1, 4, 6, 6, **DOUBLE)
        torch.testing.assert_close(unit(x), conv(x), rtol=1e-9, atol=1e-11)


def test_a_learned_radius_returns_to_the_circle_as_in_from_conv() -> None:
    unit = CircleConv2d(**HOME, radius="learnable", **DOUBLE)
    torch.nn.init.normal_(unit.radius_logit)
    conv = nn.Conv2d(**HOME, **DOUBLE)
    unit.load_state_dict(conv.state_dict())
    torch.testing.assert_close(unit.effective_weight(), conv.weight, rtol=1e-9, atol=1e-12)


def test_drawing_units_keep_their_own_draws() -> None:
    units = [CircleMixConv2d(**HOME), CircleMixConv2d(**HOME)]
    states = [unit.draw_state.clone() for unit in units]
    conv = nn.Conv2d(**HOME)
    for unit in units:
        unit.load_state_dict(conv.state_dict())
    assert all(torch.equal(unit.draw_state, state) for unit, state in zip(units, states, strict=True))


def test_an_approximate_start_is_said() -> None:
    with pytest.warns(UserWarning, match="binary_weight starts only approximately from a plain convolution's state"):
        BinaryWeightConv2d(**HOME).load_state_dict(nn.Conv2d(**HOME).state_dict())


def test_a_bias_more_or_less_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "bias"'):
        CircleConv2d(**HOME).load_state_dict(nn.Conv2d(**HOME, bias=False).state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "bias"'):
        CircleConv2d(**HOME, bias=False).load_state_dict(nn.Conv2d(**HOME).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        CircleConv2d(**HOME).load_state_dict(nn.Conv2d(4, 8, 5).state_dict())


def test_published_states_of_a_unit_load_with_one_warning_and_without_one_when_claimed() -> None:
    unit = XnorConv2d(**HOME)
    published = {name: value + 1 for name, value in unit.state_dict().items() if not name.endswith("_extra_state")}
    with pytest.warns(UserWarning, match="a state without marks is taken as that of xnor") as seen:
        unit.load_state_dict(published, strict=True)  # its inner binary convolution has a plain one's names
    assert len(seen) == 1
    assert torch.equal(unit.conv.weight, published["conv.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unit.load_state_dict(convswap.units.with_marks(unit, published), strict=True)


def test_what_starts_by_nothing_is_refused() -> None:
    conv = nn.Conv2d(**HOME).state_dict()
    for unit in (GhostConv2d(**HOME), QuantizedConv2d(**HOME), FusedSigns(**HOME)):
        with pytest.raises(RuntimeError, match="does not start by itself from a plain convolution's state"):
            unit.load_state_dict(conv)


def levels(*margins: int) -> LevelConv2d:
    return LevelConv2d(torch.zeros(4, 2), nn.Conv2d(8, 8, 3), margins, 0.0)


@pytest.mark.parametrize(
    ("fused", "other"),
    [
        tuple(QuantizedConv2d(**HOME, weight_bits=4, activation_bits=bits).eval().fuse() for bits in (4, 2)),
        tuple(XnorConv2d(**HOME, bits=bits).eval().fuse() for bits in (2, 3)),
        (levels(1, 1, 1, 1), levels(0, 2, 0, 2)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_the_state_of_another_fused_form_is_refused(fused: nn.Module, other: nn.Module) -> None:
    """They loaded before: the tensors have the same names and shapes."""
    fused.load_state_dict(copy.deepcopy(fused.state_dict()), strict=True)
    with pytest.raises(RuntimeError, match=f"is of {type(fused).__name__}"):
        fused.load_state_dict(other.state_dict(), strict=True)


def averaged(model: nn.Module, **kind: Any) -> nn.Module:
    average = AveragedModel(model, **kind)
    average.update_parameters(model)
    return average.module


def through_ema(ema: nn.Module, model: nn.Module) -> nn.Module:
    ema.update(model)
    return ema.module


def through_torch_save(state: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


WAYS: dict[str, Any] = {
    "state_dict": lambda model: model.state_dict(),
    "keep_vars": lambda model: model.state_dict(keep_vars=True),
    "torch.save": lambda model: through_torch_save(model.state_dict()),
    "safetensors": lambda model: load_bytes(save_bytes(model.state_dict())),
    "deepcopy": lambda model: copy.deepcopy(model).state_dict(),
    "pickle": lambda model: pickle.loads(pickle.dumps(model)).state_dict(),
    "AveragedModel": lambda model: averaged(model).state_dict(),
    "AveragedModel with buffers": lambda model: averaged(model, use_buffers=True).state_dict(),
    "ModelEmaV2": lambda model: through_ema(ModelEmaV2(model), model).state_dict(),
    "ModelEmaV3": lambda model: through_ema(ModelEmaV3(model), model).state_dict(),
    "ModelEmaV3 by one tensor": lambda model: through_ema(ModelEmaV3(model, foreach=False), model).state_dict(),
    "a weighted sum of states": lambda model: {n: 0.25 * v + 0.75 * v for n, v in model.state_dict().items()},
    "half and back": lambda model: {n: v.double() for n, v in model.half().state_dict().items()},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unit", ["circle", "ic", "xnor", "quantized"])
def test_states_come_back_from_whatever_carries_them(unit: str, way: str) -> None:
    model = swapped(unit)
    x = image()
    state = WAYS[way](model)
    new = swapped(unit).double()
    for p in new.parameters():
        p.data.add_(1)
    new.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(new(x), model.double()(x), rtol=1e-9, atol=1e-9)
    stranger = swapped("circle", radius=0.7)
    with pytest.raises(RuntimeError, match="the state given is of"):
        stranger.load_state_dict(state, strict=True)


def test_compiled_and_functional_models_take_their_own_states() -> None:
    model, x = swapped("circle"), image()
    compiled = torch.compile(model, backend="eager")
    compiled.load_state_dict(compiled.state_dict(), strict=True)
    assert torch.equal(compiled(x), model(x))
    assert torch.equal(torch.func.functional_call(model, model.state_dict(), x), model(x))
    assert "_extra_state" not in vars(model[2])
    with torch.device("meta"):
        empty = CircleConv2d(**HOME)
    empty.to_empty(device="cpu").load_state_dict(CircleConv2d(**HOME).state_dict(), strict=True)
