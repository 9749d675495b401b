"""Models side by side: known numbers, a picture of each measure, and what fails is said and loses nothing else."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from convswap.see import SideBySide, Similarity, compare_models, comparison, photographs
from convswap.units.niff.niff import NIFFConv2d

COLORS = 3


def net(kernel: int = 3, groups: int = 1) -> nn.Sequential:
    torch.manual_seed(kernel + groups)
    return nn.Sequential(
        nn.Conv2d(COLORS, 8, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.Conv2d(8, 8, kernel, stride=2, padding=kernel // 2, groups=groups),
        nn.ReLU(),
        nn.Conv2d(8, 8, kernel, padding=kernel // 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Stubborn(nn.Module):
    """Runs, but passes no gradient to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.sign().detach())


@pytest.fixture(scope="module")
def found() -> SideBySide:
    models = {"conv": net(), "wide": net(5), "depthwise": net(3, 8)}
    return compare_models(models, photographs(8, (14, 12)), twins={"conv, again": net()})


def test_every_measure_of_every_model(found: SideBySide) -> None:
    assert found.problems == []
    for part in (found.classes, found.low_pass, found.atlases, found.fields, found.duplicates, found.redundancy):
        assert list(part) == ["conv", "wide", "depthwise"]
    assert list(found.between) == ["conv, again", "wide", "depthwise"]
    assert [atlas.layer.name for atlas in found.atlases["depthwise"]] == ["2"]
    # The twin is the same network: alike at equal depth, and in the first layer exactly so.
    assert found.between["conv, again"].matched == pytest.approx(1)
    assert found.between["wide"].matched < 0.999


def test_similarity_at_equal_depth() -> None:
    values = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7]], dtype=torch.float64)
    similarity = Similarity(("a", "b"), ("p", "q", "r", "s"), values, 8, 8)
    assert similarity.matched == pytest.approx((0.9 + 0.1 + 0.6 + 0.7) / 4)
    holes = Similarity(("a", "b"), ("p", "q"), torch.tensor([[0.8, 0.0], [0.0, float("nan")]]), 8, 8)
    assert holes.matched == pytest.approx(0.8)


def test_the_section(found: SideBySide) -> None:
    section = comparison(found)
    assert len(section.pictures) == 7
    assert all(len(picture.alt) > 60 and picture.alt.endswith(".") for picture in section.pictures)
    assert section.table is not None
    assert [row[0] for row in section.table] == ["model", "conv", "wide", "depthwise"]
    assert {len(row) for row in section.table} == {len(section.table[0])}
    assert section.table[0][-1] == "CKA with conv"
    assert section.table[1][-1] == "–"
    for picture in section.pictures:
        with Image.open(io.BytesIO(picture.png(100))) as image:
            colors = image.convert("RGB").getcolors(1 << 24)
        assert len(colors or []) > 3, picture.title


def test_what_fails_is_said_and_loses_nothing_else() -> None:
    found = compare_models({"conv": net(), "stubborn": Stubborn()}, photographs(8, (14, 12)))
    assert found.problems == ["stubborn: no receptive field: layer='body.4': no gradient passes from it to the images"]
    assert list(found.fields) == ["conv"]
    assert list(found.classes) == list(found.redundancy) == ["conv", "stubborn"]
    assert len(comparison(found).pictures) == 7
    few = compare_models({"conv": net(), "wide": net(5)}, photographs(3, (14, 12)))
    assert any("no similarity" in problem and "4 or more" in problem for problem in few.problems)


def test_what_is_wrong_from_the_start_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        compare_models({}, photographs(8, (14, 12)))
    with pytest.raises(ValueError, match="images must be"):
        compare_models({"conv": net()}, torch.zeros(3, 8, 8))


def test_filters_of_a_map_of_one_pixel_are_not_shown() -> None:
    shrink = {"stride": 2, "padding": 1}
    model = nn.Sequential(
        nn.Conv2d(COLORS, 8, 3, **shrink),
        NIFFConv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, **shrink),
        NIFFConv2d(8, 8, 3, padding=1),
    )
    found = compare_models({"niff": model}, photographs(4, (4, 4)))
    assert [(atlas.layer.name, tuple(atlas.layer.weight.shape[-2:])) for atlas in found.atlases["niff"]] == [
        ("0", (3, 3)),
        ("2", (3, 3)),
    ]


def test_progress_is_told() -> None:
    told: list[str] = []
    compare_models({"conv": net(), "wide": net(5)}, photographs(4, (14, 12)), tell=told.append)
    assert told == [
        "kernels, receptive field and maps of conv",
        "kernels, receptive field and maps of wide",
        "similarity of conv and wide",
    ]
