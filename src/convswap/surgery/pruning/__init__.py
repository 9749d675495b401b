"""Pruning: a smaller dense network, its channels chosen by one of six criteria. Needs the extra `prune`."""

from .planning import PrunePlan, plan_prune, prune
from .report import Cap, PrunedLayer

__all__ = ["Cap", "PrunePlan", "PrunedLayer", "plan_prune", "prune"]
