"""Latency of a lab's networks before and after `fuse`, measured while nothing trains, and costs after `fuse`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FusionError
from .files import read_object, write_atomic
from .run import count_costs
from .runner import load_trained
from .store import StoredTrial
from .trial import Trial, canonical_json

if TYPE_CHECKING:
    from torch import Tensor, nn

LATENCY_FILE = "latency.json"


def read_latency(lab_dir: str | Path) -> dict[str, Any]:
    """The file of `measure_lab`: `conditions`, and `trials` by id. Empty if nothing was measured.

    Raises:
        StoreError: the file is damaged.
    """
    path = Path(lab_dir) / LATENCY_FILE
    if not path.exists():
        return {"conditions": {}, "trials": {}}
    return {"conditions": {}, "trials": {}} | read_object(path, "delete it: latency is then measured again")


def measure_lab(
    lab_dir: str | Path, trials: Iterable[StoredTrial], example: Tensor, *, latency: bool = True
) -> dict[str, Any]:
    """Measure the networks of a comparison side by side on the CPU, one trained network of each, and keep the numbers.

    Trials that differ only in their seed have the same network, so the first finished trial represents them. Nothing is
    measured again as long as the same networks are asked for.

    Args:
        lab_dir: the lab's folder.
        trials: its rows. Unfinished ones are left out.
        example: the batch to pass, (N, C, H, W).
        latency: False only counts the costs of the fused networks.

    Returns:
        As `read_latency`.
    """
    lab = Path(lab_dir)
    chosen, present = _one_of_each(trials), read_latency(lab)
    if not chosen:
        return present
    shape = "x".join(map(str, example.shape))
    key = "latency_ms" if latency else "fused"
    known = {id for id, found in present["trials"].items() if key in found}
    if {stored.id for stored in chosen} <= known and (not latency or present["conditions"].get("input") == shape):
        return present
    measured = _measure(lab, chosen, example, latency)
    conditions = {"device": "cpu", "precision": "fp32", "input": shape, "threads": 1, "repeats": 30}
    found = {
        "conditions": conditions if latency else present["conditions"],
        "trials": present["trials"] | {id: present["trials"].get(id, {}) | new for id, new in measured.items()},
    }
    write_atomic(lab / LATENCY_FILE, json.dumps(found, indent=1))
    return found


def _measure(lab: Path, chosen: Sequence[StoredTrial], example: Tensor, latency: bool) -> dict[str, Any]:
    from ..surgery.latency import measure_latency

    networks: dict[str, nn.Module] = {}
    found: dict[str, Any] = {stored.id: {} for stored in chosen}
    for stored in chosen:
        network = load_trained(lab, stored)
        networks[f"{stored.id} latency_ms"] = network
        try:
            fused = _fused(network, example)
        except FusionError as error:  # a network that cannot be fused still has its other number
            found[stored.id] |= {"fused": False, "fuse_problem": str(error)}
            continue
        networks[f"{stored.id} latency_fused_ms"] = fused
        costs = count_costs(fused, example[:1])
        found[stored.id] |= {"fused": True} | {f"{name}_fused": value for name, value in costs.items()}
    times = measure_latency(networks, example, threads=1, repeats=30) if latency else {}
    for key, measured in times.items():
        id, name = key.split()
        found[id][name] = measured.as_dict()
    return found


def _fused(network: nn.Module, example: Tensor) -> nn.Module:
    from ..surgery import fuse

    return fuse(network, example).eval()


def _one_of_each(trials: Iterable[StoredTrial]) -> list[StoredTrial]:
    chosen: dict[str, StoredTrial] = {}
    for stored in trials:
        if stored.state == "finished":
            chosen.setdefault(_network(stored.trial), stored)
    return list(chosen.values())


def _network(trial: Trial) -> str:
    return canonical_json({name: value for name, value in trial.identity().items() if name != "seed"})
