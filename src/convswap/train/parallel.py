"""Setting up Lightning Fabric for one device or for several processes."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def start_fabric(device: torch.device, devices: int, precision: str) -> Fabric:
    """A launched Fabric: one process per device, joined by DDP if there are several.

    Under `torchrun` the processes are there already. Otherwise Fabric starts the missing ones by running this
    program's command line again, once per further device.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision

    if not isinstance(devices, int) or devices < 1:
        raise UsageError(f"devices={devices!r} is not allowed; it must be a whole number of at least 1")
    nodes = 1
    if dist.is_torchelastic_launched():
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if devices != local:
            raise UsageError(f"devices={devices}, but torchrun started {local} processes here; pass devices={local}")
        nodes = world // local
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"devices={devices} is not allowed; there are {torch.cuda.device_count()} CUDA devices")
    if device.index is not None and devices > 1:
        raise UsageError(f"device='{device}' names one device and devices={devices} asks for several; drop one")
    several = devices * nodes > 1
    mixed: dict[str, Any] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None else devices,
        num_nodes=nodes,
        strategy="ddp" if several else "auto",
        # As a plugin, because the name "bf16-mixed" makes Fabric print a line for every training.
        plugins=[MixedPrecision(mixed[precision], device.type)] if precision in mixed else [],
    )
    fabric.launch()
    if several:
        atexit.register(_leave_process_group)
    return fabric


def _leave_process_group() -> None:
    """Leave the process group at exit: a process that ends inside it can die in its threads and look like a failure."""
    if dist.is_initialized():
        dist.destroy_process_group()


def mean_over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean over all processes; NaN if it is NaN in any."""
    if fabric.world_size == 1:
        return values
    reduced: Any = fabric.all_reduce(values, reduce_op="mean")
    return reduced


def sum_over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes."""
    if fabric.world_size == 1:
        return values
    reduced: Any = fabric.all_reduce(values, reduce_op="sum")
    return reduced


def copy_buffers_from_first(fabric: Fabric, model: nn.Module) -> None:
    """Give every process the buffers of the first: BatchNorm's running statistics differ between processes."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
