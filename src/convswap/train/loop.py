"""The training loop, the same for every unit, model and data set, on Lightning Fabric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..data import Data, Images
from ..errors import StoreError, TrainingError, UsageError, check_whole
from ..files import remove_unfinished
from ..regularizers import parse_regularizers
from .augment import Normalize
from .average import WeightAverage
from .batches import Augmentation, TrainBatches, evaluation_batches
from .checkpoint import Identity, describe_model, load_checkpoint, restore_random_state, save_checkpoint
from .evaluation import check_logits, evaluation_batch_size, sum_up
from .faults import divergence, explained
from .freezing import frozen, keep_still
from .interrupts import deferred_interrupt, raise_unheard
from .metrics import append_metrics, rewrite_metrics
from .optimizers import build_optimizer, set_learning_rate
from .parallel import copy_buffers_from_first, mean_over_processes, start_fabric, sum_over_processes
from .parameters import constraint_of, parameter_groups
from .precision import autocast, input_dtype, resolve_device, resolve_precision
from .preflight import check_training
from .progress import Reporter, reporter_for
from .recipes import Recipe
from .regularization import Regularization, setting_of
from .result import FitResult
from .sampling import order_of, weights_of
from .seeding import MOST_SEED, Share
from .stepper import Stepper
from .stopping import EarlyStopping
from .teacher import Teacher

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    directory: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    label: str = "",
    device: str = "auto",
    devices: int = 1,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    teacher: nn.Module | None = None,
) -> FitResult:
    """Train a classifier in place and evaluate it after every epoch.

    The images evaluated are `data.validation`, or `data.test` where there are none. With a validation part, the test
    images are run once, after the last epoch. Nothing of a training depends on the test images, and on the validation
    images only with `recipe.patience`. With `recipe.ema` the average is evaluated, and left in the model at the end.

    With a directory, `checkpoint.pt` and `metrics.jsonl` are written there after each epoch. An interrupted training
    resumes after the last complete epoch. On the same CPU it ends bit-identical to an uninterrupted one.
    The random numbers of the training come from `seed` alone. The caller's generators are left as they were.

    Args:
        model: images (N, C, H, W) to logits (N, classes). It stays on the device afterwards.
        data: what to train and test on.
        recipe: how to train.
        seed: of data order, augmentation and the model's own random draws (dropout, ...).
        directory: where checkpoint and metrics go, or None to keep nothing.
        resume: resume from the checkpoint in `directory`, if there is one. False starts again and overwrites it.
        progress: show a bar with rate and time left on stderr, or a line per epoch if stderr is not a terminal.
        label: a few words before the bar or the lines.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
        devices: number of devices, joined by DDP, see `convswap.train.parallel.start_fabric`. BatchNorm normalises
            each device's part of the batch separately, and the first device's running statistics are kept.
        on_epoch: called with each epoch's metrics after they are saved.
        teacher: a trained network for the regulariser `logit_distillation`, see `Teacher`. It is moved to the device
            and put in eval mode, and neither trained nor saved.

    Raises:
        TrainingError: the loss is not finite, the model's own code raises an error, or the checkpoint belongs to
            another training.
        StoreError: the checkpoint is damaged, or the disk cannot be written.
    """
    check_whole("seed", seed, 0, MOST_SEED)
    check_training(model, data, recipe, device, teacher)
    place = resolve_device(device)
    precision = resolve_precision(recipe.precision, place)
    fabric = start_fabric(place, devices, precision)
    generators = [fabric.device] if fabric.device.type == "cuda" else []
    with ExitStack() as stack, torch.random.fork_rng(devices=generators), _tuned_cudnn():
        torch.manual_seed(seed)
        still = stack.enter_context(frozen(model, recipe.freeze))
        folder = Path(directory) if directory else None
        training = _Training(fabric, model, data, recipe, precision, seed, folder, still, teacher)
        stack.callback(training.regularization.detach)
        resumed = training.resume(resume)
        show = progress and fabric.is_global_zero
        steps, batch_size = training.batches.steps, training.batches.batch_size
        with reporter_for(show, label, recipe.epochs, steps=steps, done=resumed, batch_size=batch_size) as reporter:
            while not training.stopping.over(training.history):
                row = training.epoch(len(training.history) + 1, reporter)
                reporter.epoch(row)
                if on_epoch is not None:
                    on_epoch(row)
        training.finish()
    history = training.history
    images = len(history) * steps * batch_size
    return FitResult(
        history=history,
        test_accuracy=history[-1]["test_accuracy"],
        test_loss=history[-1]["test_loss"],
        seconds=sum(row["seconds"] for row in history),
        images_per_second=images / sum(steps * batch_size / row["images_per_second"] for row in history),
        resumed_after=resumed,
        precision=precision,
        device=str(fabric.device),
        processes=fabric.world_size,
        warnings=divergence(history[-1], data.num_classes) + training.stopping.warning(history),
    )


@contextmanager
def _tuned_cudnn() -> Iterator[None]:
    """During the training, let cuDNN benchmark its algorithms once per shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Training:
    """One training's parts, set up on the device."""

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        precision: str,
        seed: int,
        directory: Path | None,
        still: Sequence[nn.Module],
        teacher: nn.Module | None,
    ) -> None:
        self.still = still
        self.fabric, self.model, self.data, self.recipe, self.directory = fabric, model, data, recipe, directory
        self.precision = precision
        self.history: list[dict[str, Any]] = []
        self.identity = Identity(recipe.as_dict(), seed, data.fingerprint, describe_model(model))
        device = fabric.device
        model.to(device)
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        self.share = Share(fabric.global_rank, fabric.world_size)
        self.normalize = Normalize(
            data.mean, data.std, device=device, dtype=input_dtype(precision), channels_last=recipe.channels_last
        )
        self.batches = TrainBatches(
            data.train,
            batch_size=recipe.batch_size,
            seed=seed,
            augmentation=Augmentation(
                recipe.crop_padding, recipe.padding_mode, recipe.flip and data.flip, recipe.flip_mode
            ),
            normalize=self.normalize,
            device=device,
            share=self.share,
            order=order_of(data, recipe),
            methods=parse_regularizers(recipe.regularize),
            num_classes=data.num_classes,
        )
        context = partial(autocast, precision, device)
        setting = setting_of(
            data,
            recipe,
            seed=seed,
            device=device,
            wrap=fabric.setup_module,
            autocast=context,
            add_up=partial(sum_over_processes, fabric),
            teacher=None if teacher is None else Teacher.of(teacher, data, recipe, device),
            still=self.batches.still(),
        )
        self.regularization = Regularization(recipe, model, setting, weights_of(data, recipe, device))
        companions = self.regularization.companions
        constrain = constraint_of(nn.ModuleList([model, companions]) if len(companions) else model)
        constrain()
        self.optimizer = build_optimizer(model, recipe, device)
        for group in parameter_groups(companions, recipe.weight_decay, decay_all=recipe.decay_all):
            self.optimizer.add_param_group(group)
        self.average = WeightAverage(model, recipe.ema) if recipe.ema else None
        self.stopping = EarlyStopping(recipe.patience, recipe.epochs)
        self.compiled = cast(nn.Module, torch.compile(model)) if recipe.compile else model
        self.forward, optimizer = fabric.setup(self.compiled, self.optimizer)
        self.stepper = Stepper(fabric, self.forward, optimizer, recipe, constrain=constrain, average=self.average)
        self.stepper.check(self.batches.batch_size // fabric.world_size)

    def resume(self, wanted: bool) -> int:
        """Load the checkpoint, if there is one and resuming is wanted. Returns the number of epochs already done."""
        if self.directory is None:
            return 0
        path = self.directory / "checkpoint.pt"
        self.fabric.barrier()  # an earlier training's first process may still be writing it
        if wanted and path.exists():
            state = load_checkpoint(path, self.identity)
            self.model.load_state_dict(state["model"])
            self.regularization.companions.load_state_dict(state["companions"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._restore(state.get("further", {}))
            restore_random_state(state["random"], self.fabric.device)
            self.history = state["history"]
        done = self.fabric.broadcast(len(self.history))
        if done != len(self.history):
            raise StoreError(
                f"{path} holds {len(self.history)} epochs in process {self.fabric.global_rank}, but {done} in the "
                "first; all processes must see the same folder"
            )
        if self.fabric.is_global_zero:
            remove_unfinished(self.directory)
            if not wanted:
                path.unlink(missing_ok=True)
            rewrite_metrics(self.directory / "metrics.jsonl", self.history)
        return len(self.history)

    def epoch(self, epoch: int, reporter: Reporter) -> dict[str, Any]:
        """Train one epoch (counted from 1), evaluate, and save. Returns the epoch's metrics."""
        start = time.perf_counter()
        train_loss, train_accuracy, learning_rate = self._train(epoch, reporter)
        trained = time.perf_counter()
        with nullcontext() if self.average is None else self.average.applied():
            evaluated = self._evaluate_parts(epoch, learning_rate)
        row = {
            "epoch": epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            **evaluated,
            "learning_rate": learning_rate,
            "seconds": time.perf_counter() - start,
            "images_per_second": self.batches.steps * self.batches.batch_size / (trained - start),
        }
        self.history.append(row)
        if self.directory is not None and self.fabric.is_global_zero:
            with deferred_interrupt():
                append_metrics(self.directory / "metrics.jsonl", row)
                save_checkpoint(
                    self.directory / "checkpoint.pt",
                    model=self.model,
                    companions=self.regularization.companions,
                    optimizer=self.optimizer,
                    history=self.history,
                    identity=self.identity,
                    device=self.fabric.device,
                    further=self._further(),
                )
        return row

    def finish(self) -> None:
        """Leave in the model what was tested: the best weights, else the average, else the last weights."""
        if self.average is not None:
            self.average.apply()
            copy_buffers_from_first(self.fabric, self.model)
        self.stopping.apply(self.model)

    def _further(self) -> dict[str, Any]:
        """The state that only some recipes have."""
        state = {"scaler": self.fabric.strategy.precision.state_dict(), "best": self.stopping.best}
        return state if self.average is None else {**state, "average": self.average.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.stopping.best = {name: tensor.to(self.fabric.device) for name, tensor in state.get("best", {}).items()}
        if scaler := state.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(scaler)

    def _train(self, epoch: int, reporter: Reporter) -> tuple[float, float, float]:
        """Run the steps of one epoch. Returns mean loss, accuracy and the last learning rate."""
        recipe, steps, device = self.recipe, self.batches.steps, self.fabric.device
        before, total = (epoch - 1) * steps, recipe.epochs * steps
        look = _look_every(device, self.fabric.world_size)
        losses = torch.zeros(steps, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        counted = 0
        seen: list[float] = []
        objective, progress = self.regularization.objective, self.regularization.progress
        self.model.train()
        keep_still(self.still)
        self.regularization.begin_epoch(epoch)
        for step, batch in enumerate(self.batches.epoch(epoch)):
            rate = recipe.learning_rate_at(before + step, total)
            set_learning_rate(self.optimizer, rate)
            progress((before + step) / total)
            for images, targets in self.stepper.parts(*batch):
                loss, logits, labels = objective.step(self._logits, images, targets)
                losses[step] += self.stepper.backward(loss)
                correct += (logits.detach().argmax(1) == labels).sum()
                counted += len(labels) * self.fabric.world_size
            self.stepper.step(before + step + 1)
            if (step + 1) % look == 0 or step + 1 == steps:
                window = mean_over_processes(self.fabric, losses[len(seen) : step + 1]).tolist()
                self._check_losses(window, epoch, len(seen), total)
                seen += window
            raise_unheard()
            reporter.step()
        right = int(sum_over_processes(self.fabric, correct))
        return math.fsum(seen) / steps, right / counted, rate

    def _logits(self, images: Tensor) -> Tensor:
        """The network's answer in training mode, checked."""
        with explained(self.model, images):
            logits = check_logits(self.forward(images))
        if logits.shape[1] != self.data.num_classes:
            raise UsageError(
                f"the model has {logits.shape[1]} outputs, but {self.data.name!r} has {self.data.num_classes} classes; "
                f"build it with num_classes={self.data.num_classes}"
            )
        return logits

    def _check_losses(self, window: list[float], epoch: int, first: int, total: int) -> None:
        for step, loss in enumerate(window, first):
            if not math.isfinite(loss):
                steps = self.batches.steps
                rate = self.recipe.learning_rate_at((epoch - 1) * steps + step, total)
                raise TrainingError(
                    f"the loss is {loss} in epoch {epoch} of {self.recipe.epochs}, step {step + 1} of {steps}, at "
                    f"learning rate {rate:.4g}; try a lower learning_rate (--learning-rate), a longer warmup or "
                    "precision='fp32'"
                )

    def _evaluate_parts(self, epoch: int, learning_rate: float) -> dict[str, float]:
        """Loss and accuracy on the watched images, and after the last epoch on the test images."""
        if self.data.validation is None:
            return self._scores("test", self.data.test, epoch, learning_rate)
        found = self._scores("validation", self.data.validation, epoch, learning_rate)
        history = [*self.history, found]
        self.stopping.see(history, self.model)
        if self.stopping.over(history):
            self.stopping.apply(self.model)
            found |= self._scores("test", self.data.test, epoch, learning_rate)
        return found

    def _scores(self, name: str, images: Images, epoch: int, learning_rate: float) -> dict[str, float]:
        loss, accuracy = self._evaluate(images)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the {name} loss is {loss} after epoch {epoch} of {self.recipe.epochs}, at learning rate "
                f"{learning_rate:.4g}; try a lower learning_rate (--learning-rate) or precision='fp32'"
            )
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def _evaluate(self, images: Images) -> tuple[float, float]:
        """Loss and accuracy on some images."""
        copy_buffers_from_first(self.fabric, self.model)
        batches = evaluation_batches(
            images,
            batch_size=evaluation_batch_size(self.data),
            normalize=self.normalize,
            device=self.fabric.device,
            share=self.share,
        )

        def forward(x: Tensor) -> Tensor:
            # Not through DDP, whose forward waits for the others: processes may have different numbers of batches.
            with autocast(self.precision, self.fabric.device):
                return self.compiled(x)

        mine = sum_up(self.model, forward, batches)
        sums = torch.tensor([mine.loss, mine.correct, mine.count], dtype=torch.float64)
        if self.fabric.world_size > 1:
            sums = sum_over_processes(self.fabric, sums.to(self.fabric.device)).cpu()
        loss, correct, count = sums.tolist()
        return loss / count, correct / count


def _look_every(device: torch.device, processes: int) -> int:
    """Steps between two checks of the loss. A check is free on one CPU; elsewhere it waits for devices or processes."""
    return 1 if device.type == "cpu" and processes == 1 else 50
