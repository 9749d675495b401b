"""What the contract tests share: the cases (registry x option sets), typical geometries and small helpers.

A unit enters by registration alone; nothing in this folder names one. A unit of kind `"block"` replaces more than one
convolution: its geometry is channels and stride, and what the contract says of `nn.Conv2d` does not concern it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from convswap.units import Place, UnitSpec, get_unit, list_units


@dataclass(frozen=True, repr=False)
class Case:
    """One unit with one set of options."""

    spec: UnitSpec
    options: Mapping[str, Any]

    def __str__(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.spec.name}({options})"

    __repr__ = __str__

    @property
    def cls(self) -> Any:
        return self.spec.cls

    @property
    def stochastic(self) -> bool:
        return self.spec.train_eval == "stochastic"

    def build(self, geometry: Mapping[str, Any], **place: Any) -> Any:
        """A unit by its constructor."""
        return self.cls(**(dict(geometry) | dict(self.options)), **place)

    def from_conv(self, conv: nn.Conv2d) -> Any:
        return self.cls.from_conv(conv, **self.options)

    def refuses(self, conv: nn.Conv2d) -> str | None:
        return self.cls.supports(conv, **self.options)

    def warm_start(self, conv: nn.Conv2d) -> str:
        """What `from_conv` promises here: the unit's own word on this geometry, else the registry's."""
        refine = getattr(self.cls, "warm_start_for", None)
        return (refine(conv, **self.options) if refine else None) or self.spec.warm_start

    @property
    def block(self) -> bool:
        return self.spec.kind == "block"

    def homes(self) -> list[dict[str, Any]]:
        """The geometries the unit must support, read off its `default_where`."""
        where = self.spec.default_where
        if self.block:
            return _block_homes(self.spec)
        asked = {word for word in re.split(r"[\s&,()]+", where) if word}
        kernels = [tuple(map(int, word.split("x"))) for word in asked if re.fullmatch(r"\d+x\d+", word)]
        kernel = (1, 1) if "pointwise" in asked else kernels[0] if kernels and (3, 3) not in kernels else (3, 3)
        strides = [2] if "strided" in asked else [1] if "!strided" in asked else [1, 2]
        one = {
            "in_channels": 4,
            "out_channels": 4 if "depthwise" in asked else 6,
            "kernel_size": kernel,
            "padding": (kernel[0] // 2, kernel[1] // 2),
            "groups": 4 if "depthwise" in asked else 2 if "grouped" in asked else 1,
        }
        return [one | {"stride": stride} for stride in strides]

    def geometries(self) -> list[dict[str, Any]]:
        """Typical geometries the unit supports, its home first."""
        if self.block:
            return self.homes() + [g for g in _BLOCKS if self.cls.supports(Place(**g), **self.options) is None]
        k3 = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1}
        others = [
            {"in_channels": 3, "out_channels": 4, "kernel_size": 5, "padding": 2, "bias": False},
            k3 | {"groups": 2, "dilation": 2, "padding": "same"},
            k3 | {"out_channels": 4, "groups": 4},
            k3 | {"in_channels": 6, "padding_mode": "reflect"},
            {"in_channels": 4, "out_channels": 6, "kernel_size": 1},
        ]
        return self.homes() + [g for g in others if self.refuses(nn.Conv2d(**g)) is None]

    def home(self, **place: Any) -> Any:
        """The unit as constructed in its first home."""
        return self.build(self.homes()[0], **place)


_BLOCKS = (
    {"in_channels": 16, "out_channels": 32, "stride": 1},
    {"in_channels": 32, "out_channels": 16, "stride": 1},
    {"in_channels": 16, "out_channels": 24, "stride": 2},
)


def _block_homes(spec: UnitSpec) -> list[dict[str, Any]]:
    """Places of a CIFAR ResNet, of those kinds the unit stands in by default."""
    words = set(re.split(r"[\s&,!]+", spec.default_where))
    if spec.replaces == "stem":
        return [{"in_channels": 3, "out_channels": 64, "stride": 4}]
    depth = {"depth": 3} if spec.replaces == "stage" else {}
    same = {"in_channels": 16, "out_channels": 16, "stride": 1} | depth
    strided = {"in_channels": 16, "out_channels": 32, "stride": 2} | depth
    if "same" in words:
        return [same]
    return [strided] if "strided" in words else [same, strided]


def _cases() -> Iterator[Case]:
    for name in list_units():
        spec = get_unit(name)
        yield Case(spec, {})
        yield from (Case(spec, options) for options in spec.variants if options)


CASES = list(_cases())
CONVOLUTIONS = [case for case in CASES if not case.block]
BLOCKS = [case for case in CASES if case.block]
each_unit = pytest.mark.parametrize("case", CASES, ids=str)
each_convolution = pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
each_block = pytest.mark.parametrize("case", BLOCKS, ids=str)


def image(module: nn.Module, batch: int = 2, size: tuple[int, int] = (7, 6)) -> Tensor:
    """A random input with the module's channels, device and dtype."""
    like = next(t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
    return torch.randn(batch, module.in_channels, *size, dtype=like.dtype, device=like.device)  # type: ignore[arg-type]


def train_steps(module: nn.Module, steps: int = 3) -> None:
    """A few random training steps; the mode is left as it was."""
    mode = module.training
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(steps):
        output = module(image(module))
        optimizer.zero_grad()
        (output * torch.randn_like(output)).sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)  # else a deep block explodes, and proves nothing
        optimizer.step()
    module.train(mode)


@torch.no_grad()
def randomize_batch_norms(module: nn.Module) -> None:
    """Random statistics and affine parameters, a negative scale among them, in every BatchNorm inside."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            if norm.running_mean is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.normal_()
                norm.weight[0] = -1.5
                norm.bias.normal_()


def difference(value: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected magnitude; the shapes must agree."""
    assert value.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    scale = expected.detach().double().abs().max().clamp(min=1e-12)
    return float((value.detach().double() - expected.detach().double()).abs().max() / scale)


def gradients(module: nn.Module, run: Callable[[], Tensor], seed: int = 1) -> dict[str, Tensor | None]:
    """Gradients by parameter name of a random linear function of `run()`."""
    module.zero_grad()
    output = run()
    factor = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    (output * factor).sum().backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def assert_same_gradients(got: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (got[name] is None) == (gradient is None), name
        if gradient is not None:
            assert difference(got[name], gradient) <= tolerance, name


def flops(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything a visitor must leave alone: values, gradients' flags and modes."""
    return {
        "state": {name: value.clone() for name, value in module.state_dict().items()},
        "buffers": {name: value.clone() for name, value in module.named_buffers()},
        "trainable": {name: p.requires_grad for name, p in module.named_parameters()},
        "modes": {name: child.training for name, child in module.named_modules()},
        "types": {name: type(child) for name, child in module.named_modules()},
    }


def assert_untouched(module: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(module)
    for part in ("trainable", "modes", "types"):
        assert after[part] == before[part]
    for part in ("state", "buffers"):
        assert after[part].keys() == before[part].keys()
        for name, value in before[part].items():
            assert torch.equal(after[part][name], value), name
