"""Methods that change the labels or the loss."""

from .jocor import JoCoR
from .label_smoothing import LabelSmoothing
from .logit_distillation import LogitDistillation
from .mutual_learning import MutualLearning
from .self_distillation import SelfDistillation
from .tsla import TSLA

__all__ = ["TSLA", "JoCoR", "LabelSmoothing", "LogitDistillation", "MutualLearning", "SelfDistillation"]
