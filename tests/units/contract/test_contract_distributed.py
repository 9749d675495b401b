"""Two DDP ranks, differently seeded: no unused parameter, equal gradients, one function."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from contract_ddp import rank_main


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch was built without gloo")
def test_two_ranks_agree_on_every_unit(tmp_path: Path) -> None:
    """All units in one pair of processes: starting them costs more than the checks."""
    mp.spawn(rank_main, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        failures = json.loads((tmp_path / f"{rank}.json").read_text())
        assert not failures, "\n".join(f"{case}: {failure}" for case, failure in failures.items())
