"""BatchNorm as an affine map: against torch's own, with and without its parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convswap.errors import FusionError
from convswap.ops.batch_norm import batch_norm_affine


@pytest.mark.parametrize("affine", [True, False])
def test_the_map_is_the_norms(affine: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, affine=affine, dtype=torch.float64).eval()
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    scale, shift = (part[:, None, None] for part in batch_norm_affine(norm))
    torch.testing.assert_close(x * scale + shift, norm(x), rtol=1e-12, atol=1e-12)


def test_a_norm_of_the_batch_is_no_fixed_map() -> None:
    with pytest.raises(FusionError, match="keeps no running statistics"):
        batch_norm_affine(nn.BatchNorm2d(4, track_running_stats=False))
