"""How fast a model is in every way it can be run: threads, batches, eager, compiled, ONNX Runtime, fused or not.

Ways with the same threads and batch are timed side by side, interleaved. Where the machine's noise makes a number
worthless, the row gives the reason instead.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConvswapError, UsageError, check_choice, described, is_whole
from ...machine import usable_cores
from ...ops.memory_format import memory_format
from ...surgery.latency import Latency, measure_latency

RUNTIMES = ("eager", "compiled", "onnx")
_ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Timing:
    """One way to run the model.

    Attributes:
        runtime: `"eager"`, `"compiled"` (`torch.compile`) or `"onnx"` (ONNX Runtime).
        fused: whether it is the model after `convswap.fuse`.
        batch, threads: images per pass; intra-operator threads.
        latency: milliseconds per pass, or None.
        problem: why there is no number: it could not be built or run, or the machine was too noisy.
    """

    runtime: str
    fused: bool
    batch: int
    threads: int
    latency: Latency | None
    problem: str | None = None

    @property
    def images_per_second(self) -> float | None:
        """Images per second at the median, or None."""
        return None if self.latency is None else 1e3 * self.batch / self.latency.median_ms

    def __str__(self) -> str:
        name = f"{self.runtime + (' fused' if self.fused else ''):<15} batch {self.batch:<4} threads {self.threads:<3}"
        if self.latency is None:
            return f"{name} not reported: {self.problem}"
        found = self.latency
        return f"{name} {found.median_ms:9.3f} ms ({found.q1_ms:.3f} to {found.q3_ms:.3f})"


@dataclass(frozen=True)
class LatencyReport:
    """All ways that were asked for, in the order threads, batch, runtime, fused; and the machine they were timed on."""

    timings: tuple[Timing, ...]
    device: str
    torch_version: str
    cores: int

    @property
    def refused(self) -> tuple[Timing, ...]:
        """The ways without a number."""
        return tuple(timing for timing in self.timings if timing.latency is None)

    def find(self, runtime: str = "eager", *, fused: bool = False, batch: int = 1, threads: int = 1) -> Timing:
        """The result for one way.

        Raises:
            UsageError: this way was not asked for.
        """
        key = (runtime, fused, batch, threads)
        for timing in self.timings:
            if (timing.runtime, timing.fused, timing.batch, timing.threads) == key:
                return timing
        raise UsageError(f"runtime={runtime!r}, fused={fused}, batch={batch}, threads={threads} was not measured")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.device}, {self.cores} cores, torch {self.torch_version}; medians (quartiles)"
        return "\n".join([head, *(f"  {timing}" for timing in self.timings)])


def latency(
    model: nn.Module,
    example_input: Tensor,
    *,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    runtimes: Sequence[str] = RUNTIMES,
    fused: bool = True,
    repeats: int = 30,
    warmup: int = 5,
    attempts: int = 3,
) -> LatencyReport:
    """Time the forward pass of a model in every way asked for, in eval and inference mode.

    A timing that noise has spoilt (`Latency.noise`: its middle half spreads over more than a fifth of its median, or
    other programs had the processor) is measured again, up to `attempts` times, and then refused. Run this alone on the
    machine. The model is left as it was. Device, precision and memory format are those of the model and the example.
    Timing compiled code makes torch forget what it has compiled before.

    Args:
        model: any module that takes one tensor.
        example_input: (N, C, H, W); batches are made of its images, repeated where there are too few.
        threads: threads of torch or ONNX Runtime; default 1 and all cores (on a GPU only 1, for the launching program).
        batches: default 1 and N.
        runtimes: some of `"eager"`, `"compiled"`, `"onnx"` (on the CPU; needs onnx, onnxscript and onnxruntime).
        fused: whether to also time the model after `convswap.fuse`.
        repeats, warmup: as `measure_latency`.
        attempts: how often a noisy timing is tried, at least 1.

    Raises:
        UsageError: an argument is not allowed.
    """
    if isinstance(runtimes, str) or not runtimes:
        raise UsageError(f"runtimes={runtimes!r} is not allowed; give a list of some of {', '.join(RUNTIMES)}")
    for runtime in runtimes:
        check_choice("runtimes", runtime, RUNTIMES)
    if not isinstance(model, nn.Module) or not isinstance(example_input, Tensor):
        found = f"model={type(model).__name__}, example_input={type(example_input).__name__}"
        raise UsageError(f"{found} is not allowed; give a torch.nn.Module and a tensor")
    if example_input.ndim < 2 or example_input.shape[0] < 1:
        raise UsageError(f"example_input of shape {tuple(example_input.shape)} holds no image; give at least one")
    counts = _distinct("threads", (1,) if example_input.is_cuda else (1, usable_cores()), threads)
    sizes = _distinct("batches", (1, example_input.shape[0]), batches)
    _distinct("attempts", (), (attempts,))
    forms = _forms(model, example_input, fused)
    timings: list[Timing] = []
    for count in counts:
        for size in sizes:
            x = _batch(example_input, size)
            timings += _side_by_side(forms, x, tuple(runtimes), count, attempts, repeats=repeats, warmup=warmup)
    device = torch.cuda.get_device_name(example_input.device) if example_input.is_cuda else example_input.device.type
    return LatencyReport(tuple(timings), device, torch.__version__, usable_cores())


def _distinct(name: str, default: Sequence[int], given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None and (isinstance(given, str) or not isinstance(given, Iterable)):
        raise UsageError(f"{name}={given!r} is not allowed; give a list of whole numbers")
    values = tuple(dict.fromkeys(default if given is None else given))
    for value in values:
        if not is_whole(value) or value < 1:
            raise UsageError(f"{name}={value!r} is not allowed; give whole numbers of at least 1")
    if not values:
        raise UsageError(f"{name}=() has nothing to measure; give at least one number")
    return values


def _batch(example: Tensor, size: int) -> Tensor:
    places = torch.arange(size, device=example.device) % example.shape[0]
    return example.index_select(0, places).contiguous(memory_format=memory_format(example))


def _forms(model: nn.Module, example: Tensor, fused: bool) -> dict[bool, nn.Module | str]:
    """The model, and the fused one or why there is none."""
    plain = copy.deepcopy(model).eval()
    forms: dict[bool, nn.Module | str] = {False: plain}
    if fused:
        from ...surgery.fusing import fuse

        try:
            forms[True] = fuse(plain, example[:1])
        except ConvswapError as error:
            forms[True] = f"not fused: {error}"
    return forms


def _side_by_side(
    forms: dict[bool, nn.Module | str], x: Tensor, runtimes: tuple[str, ...], threads: int, attempts: int, **how: int
) -> list[Timing]:
    if "compiled" in runtimes:
        torch._dynamo.reset()  # else torch reaches its limit on recompilations and silently runs eager code
    built: dict[str, nn.Module] = {}
    problems: dict[str, str] = {}
    ways = [(runtime, is_fused) for runtime in runtimes for is_fused in forms]
    for runtime, is_fused in ways:
        form, name = forms[is_fused], f"{runtime} {is_fused}"
        if isinstance(form, str):
            problems[name] = form
            continue
        ready = _ready(BUILDERS[runtime], form, x, threads)
        if isinstance(ready, str):
            problems[name] = ready
        else:
            built[name] = ready
    found = _quiet(built, x, threads, attempts, problems, **how) if built else {}
    return [
        Timing(runtime, is_fused, x.shape[0], threads, found.get(name), problems.get(name))
        for runtime, is_fused in ways
        for name in [f"{runtime} {is_fused}"]
    ]


def _quiet(
    built: dict[str, nn.Module], x: Tensor, threads: int, attempts: int, problems: dict[str, str], **how: int
) -> dict[str, Latency]:
    """The timings that noise has not spoilt. The others are measured again, then refused in `problems`."""
    found: dict[str, Latency] = {}
    left = dict(built)
    for _ in range(attempts):
        timed = measure_latency(left, x, threads=threads, **how)
        found |= {name: value for name, value in timed.items() if not value.noisy}
        left = {name: built[name] for name, value in timed.items() if value.noisy}
        if not left:
            return found
    for name in left:
        problems[name] = (
            f"the machine is too noisy: {timed[name].noise}, after {attempts} attempts{_load()}; run it alone"
        )
    return found


def _load() -> str:
    if not hasattr(os, "getloadavg"):
        return ""
    return f" (load {os.getloadavg()[0]:.1f} on {usable_cores()} cores)"


def _ready(build: Callable[[nn.Module, Tensor, int], nn.Module], model: nn.Module, x: Tensor, threads: int) -> Any:
    """Build and run once under the threads of the timing. A compiler's or exporter's failure comes back as text."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if build is _eager:  # the model's own failure is the caller's
            return model
        with torch.inference_mode():
            ready = build(model, x, threads)
            ready(x)
        return ready
    except Exception as error:  # whatever a compiler raises: the row says it
        return described(error)
    finally:
        torch.set_num_threads(before)


def _eager(model: nn.Module, x: Tensor, threads: int) -> nn.Module:
    return model


def _compiled(model: nn.Module, x: Tensor, threads: int) -> nn.Module:
    return torch.compile(copy.deepcopy(model), dynamic=False)  # type: ignore[return-value]


class _OnnxSession(nn.Module):
    """An ONNX Runtime session that is called like the model."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session, self.input_name = session, session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """The first output."""
        return torch.from_numpy(self.session.run(None, {self.input_name: x.numpy()})[0])


def _onnx(model: nn.Module, x: Tensor, threads: int) -> nn.Module:
    missing = [name for name in _ONNX if find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not installed; pip install convswap[onnx]")
    if x.device.type != "cpu":
        raise UsageError("ONNX Runtime is timed on the CPU only")
    import onnxruntime

    from ...ops.binary_conv import onnx_translations

    with torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            copy.deepcopy(model), (x.clone(),), dynamo=True, verbose=False, custom_translation_table=onnx_translations()
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return _OnnxSession(
        onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    )


BUILDERS = {"eager": _eager, "compiled": _compiled, "onnx": _onnx}
"""By runtime: a model, an example batch and a number of threads to the module that is timed."""
