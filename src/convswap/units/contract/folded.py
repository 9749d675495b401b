"""Other people's Conv-BN folding: what happens when somebody gives a unit a scaled weight.

`torch.nn.utils.fusion.fuse_conv_bn_eval`, and the folding of mmengine, copy a convolution and give it another `weight`
(every filter times a factor) and another `bias`. In a unit this is right only where the output is proportional to the
weight of its filter.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from .precision import double_copy

_LOADING = "_loading_a_state"
_MOST = 1e-3  # the relative rounding of a folded weight in half precision


class RefusesFolding:
    """Mixin of the bases, before `nn.Module`: a new `weight` that is the old one with scaled filters is checked.

    Raises:
        UsageError: the unit would then compute something else than its output scaled, or its `weight` is not a
            parameter of its own.
    """

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register, as torch does, what no Conv-BN folding has changed."""
        built = "options" in self.__dict__ and not {"place", _LOADING} & self.__dict__.keys()
        if built and name in ("weight", "bias") and param is not None:
            if name not in cast(nn.Module, self)._parameters and hasattr(self, name):
                raise self._not_folded(f"its {name!r} is no parameter of its own")
            known = cast(nn.Module, self)._parameters.get("weight")
            factors = _factors(known, param) if name == "weight" and known is not None else None
            if factors is not None and not self._is_scaled_by(factors, param):
                raise self._not_folded("its output is not proportional to its weight")
        super().register_parameter(name, param)  # type: ignore[misc]

    def _not_folded(self, why: str) -> UsageError:
        return UsageError(
            f"a BatchNorm cannot be folded into {type(self).__name__} from outside, because {why}; call "
            "convswap.fuse(model, example_input) on the whole model first"
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__[_LOADING] = True  # by assignment, loading gives the unit other parameters
        try:
            super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]
        finally:
            del self.__dict__[_LOADING]

    @torch.no_grad()
    def _is_scaled_by(self, factors: Tensor, param: Tensor) -> bool:
        """Does that weight scale the output channels, and does a bias shift them? Tried on one random image."""
        twin: Any = double_copy(cast(nn.Module, self)).cpu().eval()
        extents = [d * (k - 1) + 8 for k, d in zip(twin.kernel_size, twin.dilation, strict=True)]
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, twin.in_channels, *extents, dtype=torch.float64, generator=generator)
        weight, channels = twin._parameters["weight"], (len(factors), 1, 1)
        shift = torch.linspace(1, 2, len(factors), dtype=torch.float64)
        twin.__dict__.pop("bias", None)  # None, where there is no bias yet
        outputs = []
        for scale, bias in ((torch.ones_like(factors), 0 * shift), (factors, 0 * shift), (factors, shift)):
            scaled = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
            twin._parameters["weight"], twin._parameters["bias"] = nn.Parameter(scaled), nn.Parameter(bias)
            outputs.append(twin(x)[0])
        plain, scaled, shifted = outputs
        limit = 1e-6 * float(shifted.abs().max())
        expected = plain * factors.reshape(channels)
        wrong = max((scaled - expected).abs().max(), (shifted - expected - shift.reshape(channels)).abs().max())
        return bool(wrong <= limit)


@torch.no_grad()
def _factors(old: nn.Parameter, new: nn.Parameter) -> Tensor | None:
    """The factor of each filter that makes the new weight of the old one; None if it is no such multiple."""
    if any(type(t) is not nn.Parameter or t.is_meta or not t.is_floating_point() for t in (old, new)):
        return None
    if old.shape != new.shape or not old.numel() or not new.any():
        return None
    if old.untyped_storage().size() == 0:  # sharded parallel training has put the values elsewhere
        return None
    first, second = (t.detach().double().flatten(1).cpu() for t in (old, new))
    if torch.equal(first, second):
        return None
    factors = (first * second).sum(1) / (first * first).sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    apart = (second - factors[:, None] * first).norm(dim=1) > _MOST * second.norm(dim=1)
    return None if apart.any() else factors
