"""Batches without images."""

from __future__ import annotations

import copy

import torch

from ..aids import image, lived_in
from ..case import Case
from ..rule import demand, rule


@rule()
def empty_batch_passes(case: Case) -> None:
    """A batch of 0 images must pass forward and backward, fused and not, with gradients of 0."""
    for geometry in case.geometries():
        unit = lived_in(case, geometry)
        for name, module in (("the unit", unit), ("its fused form", copy.deepcopy(unit).fuse())):
            whole = module(image(unit))
            for train in (False, True):
                what = f"an empty batch through {name} in {'train' if train else 'eval'} mode in {geometry}"
                x = image(unit, batch=0).requires_grad_()
                y = module.train(train)(x)
                expected = (0, *whole.shape[1:])
                demand(tuple(y.shape) == expected, f"{what} gives {tuple(y.shape)}, must give {expected}")
                demand(y.dtype == whole.dtype, f"{what} gives {y.dtype}, must give {whole.dtype}")
                if not y.requires_grad:
                    continue
                wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
                for gradient in torch.autograd.grad(y.sum(), wanted, allow_unused=True):
                    demand(gradient is None or not bool(gradient.any()), f"{what} has a gradient that is not 0")
            state = {n: v for n, v in module.state_dict().items() if v.is_floating_point()}
            spoilt = [n for n, v in state.items() if not bool(torch.isfinite(v).all())]
            demand(not spoilt, f"an empty batch through {name} spoils {spoilt}")
