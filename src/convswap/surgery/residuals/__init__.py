"""Remove residual connections (RMNet, arXiv:2111.00687): residual blocks as plain chains with the same output."""

from .plan import RemovedBlock
from .removing import RemovalPlan, plan_remove_residuals, remove_residuals
from .writing import repeat_removal

__all__ = ["RemovalPlan", "RemovedBlock", "plan_remove_residuals", "remove_residuals", "repeat_removal"]
