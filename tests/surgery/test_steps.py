"""Single steps of a fusion, as a saved file repeats them: what no plan would write is refused there, too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convswap.errors import FusionError
from convswap.surgery.steps import apply_step, merge_parallel


class Sum(nn.Module):
    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            setattr(self, name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.children()]).sum(0)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_branches_padded_by_their_content_to_other_extents_are_refused(mode: str) -> None:
    model = Sum(
        a=nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode), b=nn.Conv2d(4, 4, 5, padding=2, padding_mode=mode)
    ).eval()
    with pytest.raises(FusionError, match=f"pad by {mode} to different extents"):
        merge_parallel(model, ["a", "b"])


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_branches_padded_alike_are_merged(mode: str) -> None:
    model = Sum(
        a=nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode), b=nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode)
    ).eval()
    x = torch.randn(2, 4, 6, 7)
    with torch.no_grad():
        expected = model(x)
        merged = merge_parallel(model, ["a", "b"])
        assert merged.a(x).shape == expected.shape
        torch.testing.assert_close(merged.a(x), expected)
        assert not merged.b(x).any()


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(FusionError, match="unknown fusion step 'melt'"):
        apply_step(nn.Identity(), ["melt", "a"])
