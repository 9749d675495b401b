"""Units that each break one rule of the contract, and what the rule's message must say."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from convswap.testing import Case
from convswap.units import BlockUnit, FeatureUnit, UnitSpec, WeightUnit, get_unit
from convswap.units.ghost.ghost import GhostConv2d


class Honest(FeatureUnit):
    """A convolution in a module: passes every rule."""

    def setup(self) -> None:
        self.conv = nn.Conv2d(**self.geometry.arguments(), **self.place)

    weight = property(lambda self: self.conv.weight)
    bias = property(lambda self: self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class HonestWeight(WeightUnit):
    def effective_weight(self) -> Tensor:
        return self.weight * 1.0


class HonestBlock(BlockUnit):
    def setup(self) -> None:
        self.conv = nn.Conv2d(self.in_channels, self.out_channels, 3, self.stride, 1, **self.place)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Doubles(Honest):
    """Declares an exact warm start."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.conv(x)


class HidesOptions(Honest):
    def __init__(self, *geometry: Any, **options: Any) -> None:
        super().__init__(*geometry, **options)


class WrongShape(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, 1:]


class DeadParameter(Honest):
    def setup(self) -> None:
        super().setup()
        self.unused = nn.Parameter(torch.ones(1, **self.place))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + 0 * self.unused


class _View(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class ViewOutput(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return _View.apply(self.conv(x))


class KeepsOutput(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sigmoid()


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class WrongGradient(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return _WrongBackward.apply(self.conv(x))


class Counts(Honest):
    """The output depends on how often the unit was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x * self.calls)


class ForgetsState(Honest):
    """The scale that training moves is in no state dict."""

    def setup(self) -> None:
        super().setup()
        self.seen = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen *= 0.5
            return self.conv(x)
        return self.conv(x) * self.seen


class TrainsOtherwise(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1.5 if self.training else 1.0)


class LeavesChannelsLast(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).contiguous()


class NoAutocast(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).float() if x.dtype == torch.float32 else self.conv(x)


class RoundsConstants(Honest):
    def setup(self) -> None:
        super().setup()
        self.register_buffer("third", torch.full((1,), 1 / 3, **self.place), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.third


class SharesPickles(Honest):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class MutatesHost(Honest):
    def start_from(self, conv: nn.Conv2d) -> None:
        super().start_from(conv)
        conv.weight.mul_(2)


class OwnValues(Honest):
    def copy_initial(self, conv: nn.Conv2d) -> None:
        pass


class Unfreezes(Honest):
    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **options: Any) -> Any:
        return super().from_conv(conv, **options).requires_grad_(True)


class FusesToAnother(Honest):
    def fuse(self) -> nn.Module:
        fused = copy.deepcopy(self)
        with torch.no_grad():
            fused.conv.weight.mul_(1.01)
        return fused


class FusesToItself(Honest):
    def fuse(self) -> nn.Module:
        return self


class FusesByValues(Honest):
    def fuse(self) -> nn.Module:
        conv = copy.deepcopy(self.conv)
        return conv if float(conv.weight.detach().sum()) > 0 else nn.Sequential(conv).train(self.training)


class FusedTrainMode(Honest):
    def fuse(self) -> nn.Module:
        return copy.deepcopy(self).train()


class BreaksGraphs(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (2.0 if float(x.detach().sum()) > 1e9 else 1.0)


class RefusesEmpty(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + 0 * x.amax()


class OneThreadOnly(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1.0 if threading.current_thread() is threading.main_thread() else 2.0)


class FixesBatch(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.ones(len(x) if isinstance(len(x), int) else 2, 1, 1, 1, dtype=x.dtype)


class BadRepr(Honest):
    def __repr__(self) -> str:
        return "unit"


class RefusesHome(Honest):
    @classmethod
    def supports(cls, conv: nn.Conv2d, **options: Any) -> str | None:
        return "no reason at all"


class RanksDiffer(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1 + torch.initial_seed() % 7)


class WritesNoMark(Honest):
    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


class LoadsAnything(Honest):
    def settle(self, *state: Any, assign: bool) -> str | None:
        return None


class TakesPlainForItsOwn(HonestWeight):
    def recognizes(self, given: Any) -> bool:
        return True


class AnyChannels(HonestBlock):
    def __init__(self, in_channels, out_channels, stride=1, *, device=None, dtype=None) -> None:
        nn.Module.__init__(self)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.conv = nn.Conv2d(int(in_channels), int(out_channels), 3, int(stride), 1, device=device, dtype=dtype)


class WrongBlockShape(HonestBlock):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, :-1]


class MixesImages(HonestBlock):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y - y.mean(0, keepdim=True)


class DropsPlace(HonestBlock):
    @classmethod
    def at(cls, place: Any, **options: Any) -> Any:
        return cls(place.in_channels, place.out_channels, place.stride, **options)


class WithOption(Honest):
    """Takes any value of its option."""

    def setup(self, *, mode: str = "a") -> None:
        super().setup()


class SwallowsOptions(Honest):
    def __init__(self, *a: Any, no_such_option: Any = None, **k: Any) -> None:
        super().__init__(*a, **k)


class NoGroups(Honest):
    def __init__(self, *a: Any, **k: Any) -> None:
        super().__init__(*a, **k)
        self.dilation = (7, 7)


@torch.library.custom_op("convswap_liars::riddle", mutates_args=())
def riddle(x: Tensor) -> Tensor:
    return x.clone()


riddle.register_fake(lambda x: torch.empty_like(x))
riddle.register_autograd(lambda ctx, gradient: gradient.clone())


class Riddle(GhostConv2d):
    """A ghost unit that passes its output through an operator of its own, which has no formula for its cost."""

    def forward(self, x: Tensor) -> Tensor:
        return riddle(super().forward(x))

    def fuse(self) -> nn.Module:
        return self


@dataclass(frozen=True)
class Lie:
    """A unit, the rule that must catch it, and words of the message."""

    cls: type[nn.Module]
    rule: str
    says: str
    row: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.cls.__name__}-{self.rule}"

    def case(self) -> Case:
        return case_of(self.cls, **dict(self.row))


def case_of(cls: type[nn.Module], **row: Any) -> Case:
    """A case of a class that is in no registry."""
    kind = "weight" if issubclass(cls, WeightUnit) else "block" if issubclass(cls, BlockUnit) else "feature"
    base = replace(get_unit("ghost"), warm_start="none", train_eval="same", variants=(), no_weight_decay=frozenset())
    spec: UnitSpec = replace(
        base, name=cls.__name__, cls=cls, kind=kind, fusion="conv" if kind == "weight" else "none",
        default_where="all" if kind == "block" else "spatial", replaces="block" if kind == "block" else "convolution",
    )  # fmt: skip
    return Case(replace(spec, **row), {})


_EXACT = (("warm_start", "exact"),)
_TYPO = (("no_weight_decay", frozenset({"gian"})),)
_DRAWS = (("train_eval", "stochastic"),)

LIES = [
    Lie(Doubles, "warm_start_is_as_declared", "the output after an 'exact' start differs", _EXACT),
    Lie(Doubles, "warm_start_is_as_declared_at_home", "the output after an 'exact' start differs", _EXACT),
    Lie(HidesOptions, "constructor_is_that_of_conv2d", "they must begin with ['in_channels'"),
    Lie(SwallowsOptions, "unknown_option_is_refused", "is accepted; it must raise TypeError"),
    Lie(WithOption, "bad_option_value_is_refused", "mode='no-such-value' is accepted; it must raise ValueError"),
    Lie(NoGroups, "has_the_attributes_of_conv2d", "dilation is (7, 7); an nn.Conv2d of that geometry has (1, 1)"),
    Lie(BadRepr, "repr_names_class_and_place", "'BadRepr' is not in 'unit'"),
    Lie(RefusesHome, "stands_in_its_default_places", "is refused (no reason at all)"),
    Lie(
        Honest,
        "row_names_real_parameters",
        "no parameter is called ['gian']",
        (("no_weight_decay", frozenset({"gian"})),),
    ),
    Lie(WrongShape, "shape_and_dtype_are_those_of_conv2d", "must be ("),
    Lie(LeavesChannelsLast, "channels_last_is_kept", "the output has strides"),
    Lie(AnyChannels, "bad_place_is_refused", "in_channels"),
    Lie(WrongBlockShape, "shape_is_that_of_the_place", "must be ("),
    Lie(MixesImages, "images_of_a_batch_do_not_mix_in_evaluation", "one image alone differs"),
    Lie(DropsPlace, "takes_device_dtype_and_mode_of_the_place", "where float64 stood"),
    Lie(Honest, "constructor_is_channels_stride_and_keywords", "is not a BlockUnit", (("kind", "block"),)),
    Lie(DeadParameter, "gradients_reach_every_parameter", "without effect on the output in"),
    Lie(DeadParameter, "gradients_reach_every_parameter_from_a_warm_start", "['unused']"),
    Lie(WrongGradient, "gradients_are_the_derivative", "GradcheckError"),
    Lie(Counts, "training_computes_what_the_row_declares", "two evaluations of one input differ"),
    Lie(TrainsOtherwise, "training_computes_what_the_row_declares", "declared train_eval='same', differs"),
    Lie(
        Honest,
        "training_computes_what_the_row_declares",
        "20 training passes are equal",
        (("train_eval", "stochastic"),),
    ),
    Lie(Counts, "activation_checkpointing_gives_the_same_gradients", "checkpointed"),
    Lie(ViewOutput, "output_may_be_overwritten", "relu_ behind the unit in eval mode fails"),
    Lie(KeepsOutput, "output_may_be_overwritten", "modified by an inplace operation"),
    Lie(NoAutocast, "autocast_stays_close_and_trains", "under autocast(torch.bfloat16)"),
    Lie(RoundsConstants, "constants_survive_low_precision", "after a visit to torch.float16 differs"),
    Lie(RoundsConstants, "meta_then_to_empty_then_load", "gives another function"),
    Lie(RoundsConstants, "meta_then_load_by_assignment", "still on the meta device: ['third']"),
    Lie(ForgetsState, "state_dict_holds_all", "a new unit with the same state dict is another function"),
    Lie(WritesNoMark, "state_says_what_it_is_of", "the state has no mark"),
    Lie(LoadsAnything, "state_of_another_unit_is_refused", "the state of another unit is accepted"),
    Lie(TakesPlainForItsOwn, "plain_state_starts_the_unit", "loading a plain state is accepted"),
    Lie(SharesPickles, "deepcopy_and_pickle_give_independent_equals", "deepcopy shares state with the original"),
    Lie(RoundsConstants, "loading_by_assignment_takes_the_given_precision", "float64"),
    Lie(MutatesHost, "warm_start_is_as_declared_at_home", "from_conv changed weight of the given convolution"),
    Lie(OwnValues, "fresh_like_keeps_the_drawn_values", "weight is not the host's"),
    Lie(Unfreezes, "mode_dtype_and_frozenness_carry_over", "from_conv of a frozen convolution trains"),
    Lie(FusesToAnother, "fused_is_equal_and_of_the_declared_form", "the fused output in torch.float64"),
    Lie(FusesToAnother, "fused_is_equal_in_any_geometry", "the fused output differs"),
    Lie(Honest, "fused_is_equal_and_of_the_declared_form", "fuse() gives a Honest", (("fusion", "conv"),)),
    Lie(FusedTrainMode, "fused_keeps_mode_and_trainability", "fuse() changes the mode"),
    Lie(FusesToItself, "fused_shares_no_storage", "share memory; copy them"),
    Lie(FusesToItself, "deepcopy_then_fuse_leaves_both_usable", "the fused output after training the unit differs"),
    Lie(FusesByValues, "fused_form_follows_from_the_options_alone", "fused after training it is"),
    Lie(RefusesEmpty, "empty_batch_passes", "amax"),
    Lie(BreaksGraphs, "compiles_whole_and_equals_eager", "Found: "),
    Lie(BreaksGraphs, "exports_and_equals_eager", "Found:"),
    Lie(Counts, "jit_trace_gives_the_same_outputs", "Expected 5 but got 4"),
    Lie(OneThreadOnly, "other_threads_compute_the_same", "in another thread differs"),
    Lie(RanksDiffer, "two_ranks_agree", "ranks compute different functions in training"),
    Lie(Riddle, "every_operator_has_a_cost", "convswap_liars::riddle"),
    Lie(Riddle, "fused_form_has_a_cost", "convswap_liars::riddle"),
]
