"""How to train: a frozen description with validated fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ...errors import check_known
from ...regularizers import parse_regularizers, settle, text_of
from .checks import check_fields, check_together
from .choices import ClassWeights, FlipMode, Loss, OptimizerName, PaddingMode, Precision, Sampling, Schedule
from .schedules import Curve

_LATER: Any = {"left out of as_dict() at its default": True}  # so older descriptions and trial ids stay valid


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a training except model, data and seed: optimizer, schedule, augmentation, precision, ...

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step over all devices together. An incomplete last batch is dropped.
        learning_rate: the peak of the schedule.
        momentum: the momentum of SGD and RMSProp. For the other optimizers, the first beta.
        nesterov: Nesterov's form of the momentum, for SGD only.
        weight_decay: not applied to norms, biases, other 1-d parameters, or those that a unit or the model excludes.
        label_smoothing: of the training loss. The test loss has none, and neither has the squared hinge.
        warmup: fraction of all steps in which the learning rate rises from `initial_learning_rate` to its peak.
        schedule: how the learning rate falls after that: `"linear"` (a triangle), `"cosine"`, `"poly"`,
            `"exponential"`, or `"steps"`: times `gamma` at each of the `milestones`. `"one_cycle"` is torch's. The
            formulas stand in `convswap.train.recipes.schedules`.
        final_learning_rate: the learning rate after the last step, as a fraction of the peak. It must be above 0 for
            `"exponential"`, and 0 for `"steps"`, where `gamma` and `milestones` decide.
        crop_padding: random crops after padding by this many pixels, 0 for none. Image folders, whose files differ in
            size, are cropped as they are read and ignore this.
        padding_mode: content of the padding, `"reflect"` or `"zeros"` (black).
        flip: horizontal flips, where the data allow them (never on digits).
        precision: `"bf16"` or `"fp16"` (autocast), `"fp32"`, or `"auto"`: bf16 where the hardware computes in it.
            `"fp16"` scales the loss and needs a CUDA GPU.
        channels_last: memory format of model and images.
        compile: run the model through `torch.compile`.
        optimizer: `"sgd"`, `"adam"`, `"adamw"`, `"shift_adamax"` (steps by powers of two, see `ShiftAdaMax`),
            `"rmsprop"` (torch's), `"rmsprop_tf"` (TensorFlow's, of timm: the mean square starts at 1, and epsilon is
            added under the root) or `"lamb"` (of timm).
        loss: of the training, `"cross_entropy"`, `"squared_hinge"` (see `squared_hinge`) or `"binary_cross_entropy"`
            (one sigmoid per class, see `binary_cross_entropy`). The test loss is always the cross entropy.
        milestones: rising fractions of the training, from 0 to 1, for `schedule="steps"` only.
        gamma: the factor of the learning rate at each milestone.
        power: the exponent of `schedule="poly"`.
        initial_learning_rate: the learning rate before the first step of the warm-up, as a fraction of the peak.
        beta2: how slowly the mean of squared gradients forgets. None: 0.999, and 0.9 for the two forms of RMSProp.
        epsilon: what the optimizer adds to a divisor. None: its own default.
        decay_all: weight decay on norms, biases and other 1-d parameters too, as in papers of before 2018. What a unit
            or the model excludes stays excluded.
        clip_norm: the largest allowed norm of all gradients together. Longer ones are scaled down to it.
        accumulate: each step's batch is computed in so many equal parts, whose gradients add up. This saves memory.
            BatchNorm normalises each part by itself.
        ema: decay per update of an exponential moving average of the weights and of BatchNorm's statistics, 0 for
            none. The average is what is evaluated, saved and left in the model, see `WeightAverage`.
        ema_every: steps between two updates of the average.
        layer_decay: factor of the learning rate from each layer to the one before. The last layer has the full rate.
        norm_bias_scale: factor of the learning rate of the norms' biases.
        freeze: a selection of layers that stay as they are, BatchNorm's statistics included: `"layer[12].*"`, see
            `convswap.train.freezing`.
        patience: epochs without a better validation accuracy after which the training stops, 0 for never. The weights
            of the best epoch are kept. It needs a validation part.
        class_weights: `"balanced"`: an image of class c counts N / (C N_c) times in the loss, with N_c of the N
            training images in class c of C.
        sampling: `"shuffle"`: each image once an epoch. `"balanced"`: every class equally often, by drawing with
            replacement.
        flip_mode: `"random"`, or `"alternating"`: random in the first epoch, then each image turned over in every
            epoch.
        regularize: regularisers as text, such as `("cutout", "mixup:alpha=0.2")`, see `convswap.regularizers`. They
            are kept in the order in which they act. `"label_smoothing:E"` sets the field `label_smoothing`.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.2
    schedule: Schedule = "linear"
    final_learning_rate: float = 0.0
    crop_padding: int = 4
    padding_mode: PaddingMode = "reflect"
    flip: bool = True
    precision: Precision = "auto"
    channels_last: bool = True
    compile: bool = False
    optimizer: OptimizerName = field(default="sgd", metadata=_LATER)
    loss: Loss = field(default="cross_entropy", metadata=_LATER)
    milestones: tuple[float, ...] = field(default=(), metadata=_LATER)
    gamma: float = field(default=0.1, metadata=_LATER)
    power: float = field(default=0.9, metadata=_LATER)
    initial_learning_rate: float = field(default=0.0, metadata=_LATER)
    beta2: float | None = field(default=None, metadata=_LATER)
    epsilon: float | None = field(default=None, metadata=_LATER)
    decay_all: bool = field(default=False, metadata=_LATER)
    clip_norm: float | None = field(default=None, metadata=_LATER)
    accumulate: int = field(default=1, metadata=_LATER)
    ema: float = field(default=0.0, metadata=_LATER)
    ema_every: int = field(default=1, metadata=_LATER)
    layer_decay: float = field(default=1.0, metadata=_LATER)
    norm_bias_scale: float = field(default=1.0, metadata=_LATER)
    freeze: str = field(default="", metadata=_LATER)
    patience: int = field(default=0, metadata=_LATER)
    class_weights: ClassWeights = field(default="none", metadata=_LATER)
    sampling: Sampling = field(default="shuffle", metadata=_LATER)
    flip_mode: FlipMode = field(default="random", metadata=_LATER)
    regularize: tuple[str, ...] = field(default=(), metadata=_LATER)

    def __post_init__(self) -> None:
        check_fields(self)
        methods, smoothing = settle(
            parse_regularizers(self.regularize),
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            accumulate=self.accumulate,
        )
        object.__setattr__(self, "label_smoothing", smoothing)
        object.__setattr__(self, "regularize", tuple(map(text_of, methods)))
        object.__setattr__(self, "milestones", tuple(self.milestones))  # JSON has lists only
        check_together(self)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON and hashes, newer ones (`optimizer`, ...) only off their default."""
        defaults = {f.name: f.default for f in fields(self) if f.metadata == _LATER}
        values = {name: value for name, value in asdict(self).items() if value != defaults.get(name, ...)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe of `as_dict()`. Missing fields take their defaults. An unknown field raises a `UsageError`."""
        check_known("recipe field", values, [field.name for field in fields(cls)])
        return cls(**values)

    def learning_rate_at(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0, in a training of `total` steps."""
        curve = Curve(
            schedule=self.schedule,
            peak=self.learning_rate,
            warmup=self.warmup,
            initial=self.initial_learning_rate,
            final=self.final_learning_rate,
            milestones=self.milestones,
            gamma=self.gamma,
            power=self.power,
        )
        return curve.at(step, total)
