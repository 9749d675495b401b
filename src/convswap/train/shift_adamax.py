"""AdaMax whose multiplications are shifts (arXiv:1609.07061, section on shift-based AdaMax)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import UsageError
from ..units import nearest_power_of_two


class ShiftAdaMax(Optimizer):
    """AdaMax with the learning rate and the divisor rounded to powers of two (in the exponent).

    With AP2(z) = sign(z) 2^round(log2 |z|), element by element at step t, counted from 1:

        m <- b1 m + (1 - b1) g,   v <- max(b2 v, |g|),   p <- p - AP2(lr / (1 - b1^t)) m / (AP2(v) + eps)

    so that a step needs no multiplier beyond the decays. `rounded_state=True` follows the authors' Torch7 code: v is
    overwritten by AP2(v) + eps, and the next maximum starts from this value. The modules of a binary network clip their
    own latent weights after the step (`convswap.train.constrain`). A group's `"lr_scale"` is part of its learning rate,
    which is rounded as a whole.

    Args:
        params: parameters or groups of them.
        lr: the learning rate; the paper's 2^-10. (The Torch7 code has 2^-6 for CIFAR-10.)
        betas: (b1, b2); the paper's 1 - 2^-3 and 1 - 2^-10. (The Torch7 code: 0.9 and 0.999.)
        eps: added to the rounded v; the Torch7 code's 2^-27.
        weight_decay: times the parameter, added to its gradient.
        rounded_state: keep the rounded v as the state.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2**-10,
        betas: tuple[float, float] = (1 - 2**-3, 1 - 2**-10),
        eps: float = 2**-27,
        weight_decay: float = 0.0,
        *,
        rounded_state: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not (math.isfinite(value) and value >= 0) or (name == "eps" and value == 0):
                wanted = "above 0" if name == "eps" else "of at least 0"
                raise UsageError(f"{name}={value!r} is not allowed; it must be a number {wanted}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UsageError(f"betas={betas!r} is not allowed; give two numbers from 0 to below 1")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rounded_state": rounded_state,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. `closure` computes the loss again, as in every torch optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter)
            state["largest"] = torch.zeros_like(parameter)
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        (beta1, beta2), mean, largest = group["betas"], state["mean"], state["largest"]
        state["step"] += 1
        mean.lerp_(gradient, 1 - beta1)
        torch.maximum(largest.mul_(beta2), gradient.abs(), out=largest)
        divisor = nearest_power_of_two(largest).add_(group["eps"])
        if group["rounded_state"]:
            largest.copy_(divisor)
        if group["lr"] > 0:
            rate = group["lr"] / (1 - beta1 ** state["step"])
            parameter.addcdiv_(mean, divisor, value=-(2.0 ** round(math.log2(rate))))
