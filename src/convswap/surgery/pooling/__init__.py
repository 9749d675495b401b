"""Replacing max-pooling by convolutions, as the all-convolutional net does (arXiv:1412.6806)."""

from .forms import perform_pooling
from .plan import PoolingPlan, plan_replace_pooling, replace_pooling
from .probabilistic import ProbabilisticMaxPool2d, perform_probabilistic

__all__ = [
    "PoolingPlan",
    "ProbabilisticMaxPool2d",
    "perform_pooling",
    "perform_probabilistic",
    "plan_replace_pooling",
    "replace_pooling",
]
