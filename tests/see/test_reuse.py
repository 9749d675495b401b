"""CKA, duplicate maps and redundancy: golden figures and cases whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convswap.see import (
    biased_cka,
    channel_redundancy,
    duplicate_maps,
    duplicates_along,
    layer_similarity,
    minibatch_cka,
    unbiased_hsic,
)

Golden = Callable[[str], dict[str, Any]]


def test_golden_cka(golden: Golden) -> None:
    case = golden("analysis")["case_cka"]
    x, y = case["input"]["X"], case["input"]["Y"]
    wanted = case["output"]
    assert minibatch_cka(x, y) == pytest.approx(wanted["minibatch_unbiased_cka_torch_cka"], abs=1e-12)
    assert biased_cka(x.flatten(0, 1), y.flatten(0, 1)) == pytest.approx(wanted["full_batch_biased_linear_cka"])
    each = [biased_cka(a, b) for a, b in zip(x, y, strict=True)]
    assert each == pytest.approx(wanted["per_batch_biased_linear_cka"])


def test_hsic_by_its_definition_over_distinct_quadruples() -> None:
    """The estimator is the mean over distinct i, j, q, r of K_ij (L_ij + L_qr - 2 L_iq)."""
    torch.manual_seed(0)
    k, ell = (f @ f.T for f in torch.randn(2, 5, 3, dtype=torch.float64))
    terms = [
        k[i, j] * (ell[i, j] + ell[q, r] - 2 * ell[i, q])
        for i in range(5)
        for j in range(5)
        for q in range(5)
        for r in range(5)
        if len({i, j, q, r}) == 4
    ]
    torch.testing.assert_close(unbiased_hsic(k, ell), torch.stack(terms).mean())
    with pytest.raises(ValueError, match="n >= 4"):
        unbiased_hsic(k[:3, :3], ell[:3, :3])


def test_cka_is_one_for_rotated_features_and_near_zero_for_unrelated_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 64, 10, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64))[0]
    assert minibatch_cka(x, -3 * x @ rotation + 5) == pytest.approx(1)
    assert biased_cka(x[0], 2 * x[0] @ rotation + 1) == pytest.approx(1)
    other = torch.randn(4, 64, 10, generator=generator, dtype=torch.float64)
    assert abs(minibatch_cka(x, other)) < 0.1
    assert biased_cka(x[0, :16], other[0, :16]) > 0.25  # few samples: the biased form sees what is not there
    with pytest.raises(ValueError, match="same samples"):
        biased_cka(x[0], x[0, 1:])


class Copies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same, self.other, self.unused = nn.Identity(), nn.Conv2d(3, 4, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.same(x)).mean((2, 3))


def test_layer_similarity() -> None:
    torch.manual_seed(0)
    model, other = Copies(), Copies()
    images = torch.randn(18, 3, 6, 6)
    found = layer_similarity(model, images, ["same", "other"], batch_size=8)
    assert (found.samples, found.batch_size) == (16, 8)
    torch.testing.assert_close(found.values.diagonal(), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found.values, found.values.T)
    maps = [model.other(batch).detach() for batch in images[:16].split(8)]
    assert float(found.values[0, 1]) == pytest.approx(minibatch_cka(images[:16].split(8), maps), abs=1e-5)
    between = layer_similarity(model, images, ["same", "other"], other=other, batch_size=8)
    assert float(between.values[0, 0]) == pytest.approx(1)
    assert float(between.values[1, 1]) < 0.999
    one = layer_similarity(model, images, ["same"], other=other, other_layers=["other"], batch_size=8)
    torch.testing.assert_close(one.values[0, 0], between.values[0, 1])
    with pytest.raises(ValueError, match="'unused' is not run"):
        layer_similarity(model, images, ["unused"], batch_size=8)
    with pytest.raises(ValueError, match="18 images in minibatches of 3"):
        layer_similarity(model, images, ["same"], batch_size=3)


def test_duplicate_maps() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 2, 5, 5).unbind(0)
    first = torch.stack([a, b, torch.ones_like(a)], 1)
    second = torch.stack([c, 3 - 2 * a], 1)
    found = duplicate_maps(first, second)
    assert float(found.best[0]) == pytest.approx(1)
    wanted = [torch.corrcoef(torch.stack([b.flatten(), other.flatten()]))[0, 1].abs() for other in (c, a)]
    assert float(found.best[1]) == pytest.approx(float(max(wanted)), abs=1e-6)
    assert float(found.best[2]) == 0
    assert found.share() == pytest.approx(1 / 3)
    assert found.mean == pytest.approx(float(found.best.mean()))
    with pytest.raises(ValueError, match="same images and size"):
        duplicate_maps(first, second[:, :, :4])


def test_duplicates_along_a_network() -> None:
    x = torch.randn(2, 3, 8, 8)
    maps = {"a": x, "b": x.flip(1), "small": x[..., ::2, ::2], "gate": x[..., :1, :1], "logits": x[:, :, 0, 0]}
    pairs = duplicates_along(maps)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b")]
    assert pairs[0].share() == 1


def test_channel_redundancy() -> None:
    x = torch.zeros(2, 4, 1, 2)
    x[:, 0] = torch.tensor([1.0, 0])
    x[:, 1] = torch.tensor([-2.0, 0])
    x[:, 2] = torch.tensor([0.0, 3])
    found = channel_redundancy(x)  # of the pairs 01, 02, 12 one is the same up to sign, two are orthogonal
    assert found.mean == pytest.approx(1 / 3)
    assert found.dead == 1
    assert found.cosine[3].isnan().all()
    x[1, 1] = 0  # only the first image tells of channel 1
    assert channel_redundancy(x).cosine[0, 1] == 1
    with pytest.raises(ValueError, match="not allowed"):
        channel_redundancy(x[0])
