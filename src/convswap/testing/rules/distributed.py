"""Two DDP ranks, differently seeded: no unused parameter, equal gradients, one function."""

from __future__ import annotations

import sys

import torch.distributed as dist

from ..case import Case
from ..ranks import two_ranks
from ..rule import NotApplicable, demand, rule


@rule()
def two_ranks_agree(case: Case) -> None:
    """Under DDP every parameter must be used, and two ranks must keep equal gradients and one function."""
    if not (dist.is_available() and dist.is_gloo_available()):
        raise NotApplicable("this torch was built without gloo")
    module = sys.modules[case.cls.__module__]
    if module.__name__ == "__main__":
        raise NotApplicable("the class is defined in __main__, which other processes cannot import: use a module")
    problem = two_ranks(case.cls, {**case.homes()[0], **case.options})
    demand(problem is None, str(problem))
