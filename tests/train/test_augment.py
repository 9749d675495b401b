from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from convswap.errors import UsageError
from convswap.train.augment import Draws, Normalize, check_padding, crop_flip


def naive(images_NHWC, index, draws, padding, mode):
    """Pad, cut and mirror one image after the other."""
    result = []
    for row, (dy, dx), flipped in zip(index.tolist(), draws.shift_N2.tolist(), draws.flip_N.tolist(), strict=True):
        image = images_NHWC[row].permute(2, 0, 1).float()
        height, width = image.shape[1:]
        padded = F.pad(image[None], (padding,) * 4, mode="constant" if mode == "zeros" else mode)[0]
        cut = padded[:, padding + dy : padding + dy + height, padding + dx : padding + dx + width]
        result.append(cut.flip(2) if flipped else cut)
    return torch.stack(result).permute(0, 2, 3, 1).to(torch.uint8)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 3),
    mode=st.sampled_from(["reflect", "zeros"]),
    seed=st.integers(0, 1000),
)
def test_one_gather_equals_padding_cutting_and_mirroring(height, width, channels, padding, mode, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (12, height, width, channels), generator=generator, dtype=torch.uint8)
    index = torch.randperm(12, generator=generator)[:7]
    draws = Draws.draw(7, padding=padding, flip=True, generator=generator)
    got = crop_flip(images, index, draws, padding_mode=mode)
    assert torch.equal(got, naive(images, index, draws, padding, mode))


def test_draws_cover_the_range_and_are_even() -> None:
    draws = Draws.draw(9000, padding=2, flip=True, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draws.shift_N2.flatten() + 2)
    assert counts.shape == (5,)
    assert (counts / counts.sum() - 0.2).abs().max() < 0.02
    assert abs(draws.flip_N.float().mean() - 0.5) < 0.02


def test_flips_can_be_switched_off_without_changing_the_crops() -> None:
    with_flips, without = (
        Draws.draw(50, padding=2, flip=flip, generator=torch.Generator().manual_seed(3)) for flip in (True, False)
    )
    assert torch.equal(with_flips.shift_N2, without.shift_N2)
    assert not without.flip_N.any()


def test_reflection_cannot_reach_farther_than_the_image() -> None:
    with pytest.raises(UsageError, match="crop_padding=8"):
        check_padding(8, (8, 20), "reflect")
    check_padding(8, (8, 20), "zeros")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_normalize(dtype, channels_last) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 16, 16).permute(1, 2, 0)[None].contiguous()
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    out = Normalize(mean, std, device=torch.device("cpu"), dtype=dtype, channels_last=channels_last)(pixels)
    exact = pixels.permute(0, 3, 1, 2).double() / 255
    exact = (exact - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-2)
