"""Shifts and the three published definitions of shift stability, by hand and against the reference's predictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convswap.errors import UsageError
from convswap.measure.robustness import (
    all_pairs_consistency,
    all_shifts,
    crop_pairs,
    enlarged_shifts,
    flip_probability,
    flip_rate,
    pair_consistency,
    shift,
    shift_divergence,
    shift_line,
)


def row(*values: int) -> Tensor:
    """One grey image of 4 equal rows."""
    return torch.tensor(values, dtype=torch.uint8).expand(1, 1, 4, -1).contiguous()


@pytest.mark.parametrize(
    ("padding", "right", "expected"),
    [
        ("reflect", 2, (3, 4, 3, 2)),
        ("reflect", -2, (3, 2, 1, 2)),
        ("zeros", 2, (3, 4, 0, 0)),
        ("zeros", -1, (0, 1, 2, 3)),
        ("edge", 2, (3, 4, 4, 4)),
        ("circular", 1, (2, 3, 4, 1)),
        ("circular", -1, (4, 1, 2, 3)),
    ],
)
def test_what_comes_in_at_the_border(padding: str, right: int, expected: tuple[int, ...]) -> None:
    image = row(1, 2, 3, 4)
    found = shift(0, right, padding)(image)
    assert torch.equal(found, row(*expected))
    assert torch.equal(shift(right, 0, padding)(image.transpose(2, 3)), found.transpose(2, 3))


def test_circular_is_torch_roll() -> None:
    image = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    assert torch.equal(shift(2, -3, "circular")(image), torch.roll(image, (-2, 3), (2, 3)))


def test_reflected_crops_are_those_of_the_padded_image() -> None:
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    padded = torch.nn.functional.pad(image.float(), (2, 2, 2, 2), mode="reflect").byte()
    variants = all_shifts(2)
    assert len(variants) == 25
    assert [v.name for v in variants[:2]] == ["shift_reflect/-2,-2", "shift_reflect/-2,-1"]
    for index, variant in enumerate(variants):
        top, left = divmod(index, 5)
        assert torch.equal(variant(image), padded[..., top : top + 8, left : left + 8])


def test_lines() -> None:
    names = [[v.name for v in shift_line(1, "zeros", d)] for d in ("horizontal", "vertical", "diagonal")]
    assert names[0] == ["shift_zeros/0,-1", "shift_zeros/0,0", "shift_zeros/0,1"]
    assert names[1][0] == "shift_zeros/-1,0"
    assert names[2] == ["shift_zeros/-1,-1", "shift_zeros/0,0", "shift_zeros/1,1"]


def test_all_pairs_consistency_is_the_mean_over_all_pairs() -> None:
    classes = torch.randint(0, 3, (7, 5), generator=torch.Generator().manual_seed(0))
    pairs = [float((a == b).double().mean()) for a in classes.T for b in classes.T]
    assert all_pairs_consistency(classes) == pytest.approx(sum(pairs) / 25, abs=1e-12)
    assert all_pairs_consistency(torch.tensor([[4, 4, 4]])) == 1
    assert all_pairs_consistency(torch.tensor([[0, 1, 2, 3]])) == 0.25


def test_the_three_definitions_differ() -> None:
    """Ten frames that switch once: one of nine neighbours differs, half of the frames differ from the first."""
    frames = torch.tensor([[0] * 5 + [1] * 5])
    assert flip_probability(frames) == pytest.approx(1 / 9)
    assert flip_probability(frames, "first") == pytest.approx(5 / 9)
    assert flip_rate(frames, 1) == pytest.approx(1 / 9)
    assert flip_rate(frames, 5) == 1
    assert flip_rate(frames, 7) == 1
    assert all_pairs_consistency(frames) == pytest.approx(0.5)


def test_divergence_by_hand() -> None:
    """P0 = (1/2, 1/2), Pv = (1/4, 3/4): 1/2 log 2 + 1/2 log 2/3."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert shift_divergence(p, q) == pytest.approx(0.5 * torch.tensor(4 / 3).log().item(), abs=1e-7)
    assert shift_divergence(q, q) == 0


def positions(images: Tensor) -> list[tuple[int, int]]:
    """Where the upper left corner of a crop of `numbered()` was."""
    return [divmod(int(value), 12) for value in images[:, 0, 0, 0]]


def numbered(count: int) -> Tensor:
    return torch.arange(144, dtype=torch.uint8).view(1, 1, 12, 12).repeat(count, 1, 1, 1)


def test_crop_pairs_share_their_offsets_by_eights() -> None:
    first, second = crop_pairs(8, epochs=3)
    images = numbered(24)
    found = [positions(variant(images, seed=0)) for variant in first + second]
    for places in found:
        assert all(len(set(places[i : i + 8])) == 1 for i in (0, 8, 16))
        assert all(0 <= r < 4 and 0 <= c < 4 for r, c in places)  # the last offset, 4, is never drawn
    assert len({tuple(places) for places in found}) == 6
    assert len({place for places in found for place in places}) > 8
    assert positions(first[0](images[5:11], seed=0, indices=range(5, 11))) == found[0][5:11]


def test_consistency_of_crop_pairs_by_hand() -> None:
    first, second = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 0], [3, 0]])
    assert pair_consistency(first, second) == 0.5


def test_enlarged_shifts_of_a_ramp() -> None:
    """A linear ramp moved by half pixels: windows of the enlarged image differ by half the ramp's slope."""
    ramp = (torch.arange(16) * 8).to(torch.uint8).expand(1, 1, 16, 16).contiguous()
    variants = enlarged_shifts(16, reach=4, divide=2)
    assert [v.severity for v in variants] == [k / 2 for k in range(9)]
    middle = torch.stack([v(ramp)[0, 0, 8, 4:12].double().mean() for v in variants])
    slope = 8 * 16 / 20  # of a pixel of the image that was enlarged from 16 to 20
    assert middle.diff().tolist() == pytest.approx([slope / 2] * 8, abs=0.5)
    down = enlarged_shifts(16, reach=4, direction="vertical")
    assert torch.equal(down[0](ramp), down[4](ramp))
    turned = ramp.transpose(2, 3).contiguous()
    assert torch.equal(down[3](turned), enlarged_shifts(16, reach=4)[3](ramp).transpose(2, 3))
    assert {v(torch.zeros(1, 3, 20, 30, dtype=torch.uint8)).shape for v in variants} == {(1, 3, 16, 16)}


def test_wrong_arguments() -> None:
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(UsageError, match="padding='mirror'"):
        shift(1, 1, "mirror")
    with pytest.raises(UsageError, match="shift by 4"):
        shift(4, 0)(image)
    with pytest.raises(UsageError, match="reach=0"):
        all_shifts(0)
    with pytest.raises(UsageError, match="crop=4"):
        crop_pairs(4)[0][0](image)
    with pytest.raises(UsageError, match="direction"):
        shift_line(1, direction="up")
    with pytest.raises(UsageError, match="divide=0"):
        enlarged_shifts(8, divide=0)
    with pytest.raises(UsageError, match="apart=3"):
        flip_rate(torch.zeros(2, 3).long(), 3)
    with pytest.raises(UsageError, match="against"):
        flip_probability(torch.zeros(2, 3).long(), "last")
    with pytest.raises(UsageError, match="classes of shape"):
        all_pairs_consistency(torch.zeros(3).long())
    with pytest.raises(UsageError, match="second of shape"):
        pair_consistency(torch.zeros(2, 3).long(), torch.zeros(2, 2).long())
