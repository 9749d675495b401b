"""benchmarks/claims*.py: the rules by which a claim holds, and the measurements they rest on, on made-up cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.claims.answers import MILD, jpeg_numbers, jpeg_variants, shift_numbers
from benchmarks.claims.kernels import Depthwise, numbers_of_one, numbers_of_seeds, statistics
from benchmarks.claims.page import write_page
from benchmarks.claims.rules import Number, between_layers, over_kernels, over_seeds, spearman, together, trend, verdict
from benchmarks.claims.stated import CLAIMS
from benchmarks.claims.weights import likeness, quantized_layers
from convswap.see.kernels import LayerKernels

GAUSSIAN = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], dtype=torch.float64)
EDGE = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
IDENTITY = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


def number(value: float, low: float | None = None, high: float | None = None, p: float | None = None) -> Number:
    return Number(value, low, high, "seeds", 3, p)


@pytest.mark.parametrize(
    ("found", "direction", "expected"),
    [
        (number(0.3, 0.25, 0.35), "above", "holds"),
        (number(0.3, 0.25, 0.35), "below", "does not hold"),
        (number(0.3, 0.15, 0.45), "above", "not decided"),
        (number(0.3, 0.2, 0.4), "above", "not decided"),
        (number(0.3), "above", "not decided"),
        (number(0.3, p=0.04), "above", "holds"),
        (number(0.3, p=0.04), "below", "does not hold"),
        (number(0.3, p=0.06), "above", "not decided"),
    ],
)
def test_verdict_against_a_fifth(found: Number, direction: str, expected: str) -> None:
    assert verdict(found, direction, 0.2) == expected


def test_verdict_knows_two_directions() -> None:
    with pytest.raises(ValueError, match="above or below"):
        verdict(number(0.3), "beyond", 0.2)


def test_networks_decide_together() -> None:
    assert together(["holds", "holds"]) == "holds"
    assert together(["does not hold"]) == "does not hold"
    assert together(["holds", "does not hold"]) == "not decided"


def test_one_seed_or_equal_seeds_decide_nothing() -> None:
    assert over_seeds([0.1]).low is None
    assert over_seeds([0.1, 0.1]).low is None
    three = over_seeds([-0.02, -0.03, -0.025])
    assert three.value == pytest.approx(-0.025)
    assert verdict(three, "below", 0) == "holds"
    assert verdict(over_seeds([-0.02, -0.03, 0.02]), "below", 0) == "not decided"


def test_rank_correlation_and_its_test() -> None:
    assert spearman([5, 4, 3]) == -1
    assert spearman([1, 1, 1]) == 0
    assert spearman([1, 3, 2]) == pytest.approx(0.5)
    falls = trend([5, 4, 3, 2, 1])
    assert (falls.value, falls.p) == (-1, 2 / 120)  # of 5! orders, two are as extreme
    assert verdict(falls, "below", 0) == "holds"
    long = trend(list(range(12, 0, -1)), draws=500)
    assert long.p == pytest.approx(1 / 501, rel=1)
    assert trend([1.0, 2, 3]).p == pytest.approx(1 / 3)


def test_layers_are_compared_by_permutation() -> None:
    found = between_layers([0.1, 0.2, 0.15, 0.12], [0.7, 0.8, 0.75, 0.9, 0.72])
    assert found.value < -0.5
    assert found.p == pytest.approx(1 / 126)  # one of C(9, 4) = 126 groupings is as extreme


def test_bootstrap_draws_within_layers() -> None:
    layers = [torch.zeros(50), torch.ones(50)]
    found = over_kernels(layers, lambda drawn: float(torch.cat(list(drawn)).mean()))
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)  # no layer varies
    mixed = over_kernels([torch.tensor([0.0, 1.0]).repeat(50)], lambda drawn: float(drawn[0].mean()))
    assert 0.35 < mixed.low < 0.5 < mixed.high < 0.65


def layer(place: int, kernels: list[torch.Tensor], stride: int = 1) -> LayerKernels:
    weight = torch.stack(kernels)[:, None]
    return LayerKernels(f"l{place}", "", weight, "weight", (stride, stride), (1, 1), True, 0)


def as_the_paper_says() -> list[LayerKernels]:
    """Edges first, identities in the middle, blurs last; Gaussians where the size falls."""
    strided = [layer(10 + i, [GAUSSIAN] * 10, 2) for i in range(4)]
    return [
        layer(0, [EDGE] * 10),
        strided[0],
        layer(1, [EDGE] * 9 + [GAUSSIAN]),
        layer(2, [EDGE] * 4 + [IDENTITY] * 5 + [-GAUSSIAN]),
        strided[1],
        layer(3, [EDGE] * 3 + [IDENTITY] * 5 + [GAUSSIAN] * 2),
        strided[2],
        strided[3],
        layer(4, [EDGE] * 2 + [GAUSSIAN] * 8),
        layer(5, [EDGE] * 1 + [GAUSSIAN] * 9),
    ]


def test_claims_on_kernels_hold_where_they_are_true() -> None:
    numbers = numbers_of_one(Depthwise.of(as_the_paper_says()))
    claims = {claim.key: claim for claim in CLAIMS}
    assert numbers.pop("edge_most").value == pytest.approx(29 / 60)  # too near a half to be decided
    for key, found in numbers.items():
        assert verdict(found, claims[key].direction, claims[key].bound) == "holds", (key, found)


def test_claims_on_kernels_fail_where_they_are_false() -> None:
    turned = [
        LayerKernels(x.name, "", x.weight, "weight", (3 - x.stride[0],) * 2, (1, 1), True, 0)
        for x in reversed(as_the_paper_says())
    ]
    values = statistics(Depthwise.of(turned))
    assert values["aliasing"] > 0
    assert values["gaussian_strided"] < 0.5
    assert values["identity_middle"] == 0


def test_networks_from_seeds_are_compared_with_their_start() -> None:
    after = [Depthwise.of(as_the_paper_says())] * 3
    generator = torch.Generator().manual_seed(0)
    before = [
        Depthwise.of([layer(i, list(torch.randn(10, 3, 3, generator=generator).double()), 1 + i % 2) for i in range(6)])
        for _ in range(3)
    ]
    numbers = numbers_of_seeds(after, before)
    assert verdict(numbers["aliasing_learned"], "below", 0) == "holds"
    assert verdict(numbers["aliasing"], "below", 0) == "not decided"  # three equal seeds give no interval


def test_eight_bit_weights_are_read(tmp_path: Path) -> None:
    arrays = {"features.0.weight_q": np.zeros((4, 3, 3, 3), np.uint8)}
    for block in (2, 1):
        q = np.full((4, 1, 3, 3), 7, np.uint8)
        q[:, :, 1, 1] = 9
        arrays |= {f"features.{block}.dw.weight_q": q, f"features.{block}.dw.scale": np.array([0.5], np.float32)}
        arrays |= {f"features.{block}.dw.zero": np.array([7], np.int16)}
    np.savez(tmp_path / "mobilenet_v1_small.npz", **arrays)
    first, second = quantized_layers(tmp_path / "mobilenet_v1_small.npz")
    assert (first.name, first.stride, first.last_depthwise) == ("features.1.dw", (1, 1), False)
    assert (second.name, second.stride, second.last_depthwise) == ("features.2.dw", (2, 2), True)
    assert torch.equal(first.weight[0, 0], IDENTITY)
    alike = likeness({"a": [first, second], "b": [second, first], "c": [first]})
    assert alike == {"a and b": pytest.approx(1.0)}
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match="mobilenet_v1 or mobilenet_v2"):
        quantized_layers(tmp_path / "other.npz")


def answers(rise: float) -> dict:
    rows = {str(q): {"error": 0.2 + rise, "changed": 2 * rise} for q in MILD}
    return {"error": 0.2, "rgb": rows, "minnets_bgr": rows}


def test_answers_are_paired_by_seed() -> None:
    numbers = jpeg_numbers([answers(x) for x in (0.1, 0.2, 0.31)], [answers(x) for x in (0.15, 0.25, 0.35)])
    assert numbers["jpeg_rise_rgb"].value == pytest.approx(-0.14 / 3)
    assert numbers["jpeg_changed_minnets_bgr"].value == pytest.approx(-0.28 / 3)
    assert verdict(numbers["jpeg_rise_rgb"], "below", 0) == "holds"  # paired; apart, seeds differ far more
    assert {v.name for v in jpeg_variants()} >= {"clean", "jpeg/10", "jpeg_minnets_bgr/50"}
    flips = {
        name: [{"flips": [value + seed]} for seed in (0.0, 0.1)]
        for name, value in (("modulus", 0.1), ("max", 0.2), ("plain", 0.3), ("blur", 0.05))
    }
    found = shift_numbers(flips)
    assert [round(found[f"shift_{name}"].value, 6) for name in ("max", "plain", "blur")] == [-0.1, -0.2, 0.05]


def test_every_claim_has_its_own_key_and_words() -> None:
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.direction for claim in CLAIMS} == {"above", "below"}


def test_the_committed_page_is_the_committed_result(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    result, page = root / "benchmarks" / "results" / "claims" / "claims.json", tmp_path / "docs" / "claims.md"
    page.parent.mkdir()
    write_page(result, page)
    assert page.read_text(encoding="utf-8") == (root / "docs" / "claims.md").read_text(encoding="utf-8")
    for row in json.loads(result.read_text(encoding="utf-8"))["claims"]:
        claim = next(claim for claim in CLAIMS if claim.key == row["claim"])
        for found in row["networks"].values():
            again = Number(**{key: value for key, value in found.items() if key != "verdict"})
            assert verdict(again, claim.direction, claim.bound) == found["verdict"]
