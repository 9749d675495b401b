"""What a model costs on paper: parameters, operations by kind, activations, bytes moved; before and after `fuse`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import ConvswapError, UsageError, check_choice
from ...hooks import Hooks
from ...surgery.inputs import ExampleInput, Inputs
from ...surgery.macs import count_macs, meta_copy
from ...surgery.tree import tensors_of
from .counts import Call, CostError, Counts, register_cost, unregister_cost

__all__ = [
    "Call",
    "Cost",
    "CostError",
    "Counts",
    "Parameters",
    "cost",
    "count_macs",
    "count_parameters",
    "register_cost",
    "unregister_cost",
]

Mode = Literal["inference", "training"]


def count_parameters(model: nn.Module) -> int:
    """The number of trained and frozen parameter values; a shared parameter counts once.

    >>> count_parameters(nn.Conv2d(3, 8, 3))
    224
    """
    return sum(parameter.numel() for parameter in model.parameters())


@dataclass(frozen=True)
class Parameters:
    """What a model holds. Shared tensors count once.

    Attributes:
        trainable, frozen: values of parameters, with and without gradient.
        buffers: values of buffers that are saved with the model (statistics of BatchNorm, packed weights).
        constants: values of buffers that the constructor makes and that are not saved.
        bits: storage of parameters and saved buffers as they are held: a packed binary weight takes one bit, plus
            the padding of its last word.
    """

    trainable: int
    frozen: int
    buffers: int
    constants: int
    bits: int

    @property
    def total(self) -> int:
        """All parameter values."""
        return self.trainable + self.frozen

    @classmethod
    def of(cls, model: nn.Module) -> Parameters:
        """Count what a model holds."""
        parameters = list(model.parameters())
        saved, constant = _buffers(model)
        return cls(
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            frozen=sum(p.numel() for p in parameters if not p.requires_grad),
            buffers=sum(b.numel() for b in saved),
            constants=sum(b.numel() for b in constant),
            bits=8 * sum(t.numel() * t.element_size() for t in (*parameters, *saved)),
        )


def _buffers(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    saved: dict[int, Tensor] = {}
    constant: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            chosen = constant if name in module._non_persistent_buffers_set else saved
            chosen[id(buffer)] = buffer
    return list(saved.values()), [buffer for key, buffer in constant.items() if key not in saved]


@dataclass(frozen=True)
class Cost:
    """The cost vector of one pass over a batch.

    Attributes:
        mode: `"inference"` (a forward pass) or `"training"` (forward and backward).
        input_shape: shape of the counted batch, or of its first tensor where there are several. Counts are of the
            whole batch.
        parameters: what the model holds.
        counts: all operations.
        modules: counts by module path (`""` is the model), inner ones included in outer ones; of the forward pass.
        operators: counts by operator.
        fused: the cost of `convswap.fuse(model)`, or None; `fuse_problem` says why there is none.
    """

    mode: Mode
    input_shape: tuple[int, ...]
    parameters: Parameters
    counts: Counts
    modules: Mapping[str, Counts] = field(repr=False)
    operators: Mapping[str, Counts] = field(repr=False)
    fused: Cost | None = None
    fuse_problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Everything except the tables by module and operator, for JSON."""
        return {
            "mode": self.mode,
            "input_shape": list(self.input_shape),
            "parameters": asdict(self.parameters),
            **self.counts.as_dict(),
            "fused": None if self.fused is None else self.fused.as_dict(),
            "fuse_problem": self.fuse_problem,
        }

    def __str__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        lines = [f"{self.mode}, input {shape}{'' if self.fused is None else ' (after fuse)'}"]
        for name, before, after in self._rows():
            lines.append(f"  {name:<22} {before:>16,}" + ("" if after is None else f"  ({after:,})"))
        if self.fuse_problem is not None:
            lines.append(f"  not fused: {self.fuse_problem}")
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, int, int | None]]:
        mine = asdict(self.parameters) | self.counts.as_dict()
        other = {} if self.fused is None else asdict(self.fused.parameters) | self.fused.counts.as_dict()
        return [(name, value, other.get(name)) for name, value in mine.items() if value or other.get(name)]


def cost(
    model: nn.Module,
    example_input: ExampleInput,
    *,
    mode: Mode = "inference",
    fused: bool = True,
    input_gradient: bool = False,
) -> Cost:
    """Count everything that one pass computes and moves.

    The counts are of what runs: a binary unit whose training form multiplies +-1 in floating point counts as floating
    point, and as binary once fused. The pass runs on the meta device, on a copy without memory. A model that the meta
    device cannot run is copied and run for real. The given model is left as it was. Results that a model computes once
    and keeps between inferences (the spectra of NIFF) are left out: such a model is run twice, for real, and the second
    pass is counted.

    Args:
        model: any module.
        example_input: the batch, (N, C, H, W), or another form that the model takes (`convswap.surgery.inputs`).
        mode: `"inference"`: forward in eval mode without gradients. `"training"`: forward in train mode, then backward
            from a given gradient of the output; a loss and an optimiser come on top.
        fused: whether an inference also counts the model after `convswap.fuse`, which runs it once in float64.
        input_gradient: in training, whether the floating-point inputs get a gradient, as that of an inner layer does.

    Raises:
        CostError: an operator has no formula; module and operator are named.
        UsageError: an argument is not allowed.

    >>> found = cost(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 32, 32))
    >>> found.counts.macs_float, found.counts.additions, found.parameters.total
    (221184, 8192, 224)
    """
    check_choice("mode", mode, ("inference", "training"))
    inputs = Inputs.of(example_input, model).map(torch.Tensor.detach)
    if inputs.first.ndim == 0 or inputs.first.numel() == 0:
        raise UsageError(f"example_input of shape {tuple(inputs.first.shape)} holds no example; give at least one")
    counter = _count(model, inputs, mode, input_gradient)
    after, problem = _after_fuse(model, inputs) if fused and mode == "inference" else (None, None)
    return Cost(
        mode,
        tuple(inputs.first.shape),
        Parameters.of(model),
        counter.total,
        dict(counter.modules),
        dict(counter.operators),
        after,
        problem,
    )


def _after_fuse(model: nn.Module, inputs: Inputs) -> tuple[Cost | None, str | None]:
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return None, "the model has no memory (meta device), and fusing needs its values"
    from ...surgery.fusing import fuse

    try:
        one = inputs if inputs.single is None else inputs.map(lambda tensor: tensor[:1])
        plain = fuse(copy.deepcopy(model).eval(), one)
    except ConvswapError as error:
        return None, str(error)
    return cost(plain, inputs, fused=False), None


def _count(model: nn.Module, inputs: Inputs, mode: Mode, input_gradient: bool) -> Any:
    if mode == "inference" and not inputs.first.is_meta and _remembers(model):
        own = copy.deepcopy(model).eval()
        with torch.random.fork_rng(), torch.no_grad():
            inputs.call(own)
        return _run(own, inputs, mode, input_gradient)
    try:
        return _run(meta_copy(model), inputs.map(lambda tensor: tensor.to("meta")), mode, input_gradient)
    except CostError:
        raise
    except Exception:
        # No meta kernel, or a value read inside forward. If the model is at fault, the real pass raises that again.
        with torch.random.fork_rng():
            return _run(copy.deepcopy(model), inputs, mode, input_gradient)


def _remembers(model: nn.Module) -> bool:
    """Does the model keep results between inferences, and does it have memory (not the meta device)?"""
    if any(parameter.is_meta for parameter in model.parameters()):
        return False
    return any(isinstance(module, Hooks) and module.keeps_results for module in model.modules())


def _run(model: nn.Module, inputs: Inputs, mode: Mode, input_gradient: bool) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from .mode import CountingMode  # 0.1 s to import, and only counting needs it

    training = mode == "training"
    model.train(training)
    if not training:
        model.requires_grad_(False)  # the tracker asks views of parameters for a gradient function, which they have not
    own = inputs.map(lambda tensor: tensor.clone().requires_grad_(_gets_gradient(tensor, training and input_gradient)))
    counter = CountingMode(model)
    # The fused attention kernels lack a formula on some devices. The plain form consists of products that are counted.
    with torch.set_grad_enabled(training), sdpa_kernel(SDPBackend.MATH), counter.tracker, _plain_attention():
        with counter:
            output = model(*own.args, **own.kwargs)
        if training:
            heads = [tensor for tensor in tensors_of(output) if tensor.requires_grad]
            seeds = [torch.ones_like(tensor) for tensor in heads]
            with counter:
                torch.autograd.backward(heads, seeds)
    return counter


def _gets_gradient(tensor: Tensor, wanted: bool) -> bool:
    return wanted and (tensor.is_floating_point() or tensor.is_complex())


class _plain_attention:
    """In eval mode `nn.MultiheadAttention` runs as one operator, which has no formula."""

    def __enter__(self) -> None:
        self.before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *_: Any) -> None:
        torch.backends.mha.set_fastpath_enabled(self.before)
