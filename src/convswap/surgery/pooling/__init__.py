"""Replacing max-pooling by convolutions, as the all-convolutional net does (arXiv:1412.6806)."""

from .forms import perform_pooling
from .plan import PoolingPlan, plan_replace_pooling, replace_pooling

__all__ = ["PoolingPlan", "perform_pooling", "plan_replace_pooling", "replace_pooling"]
