"""The claim of the complex-wavelet stem, on real images: what the modulus gives hardly moves with the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.studies import shift_stability
from benchmarks.studies.shift_stability import STEMS, calibrate, enlarged, feature_change, network, stability, window
from convswap.data import load_data
from convswap.units import ModulusStem

BAND_PASS = slice(40, 64)  # the wavelets; no selection holds a low-pass packet


@pytest.fixture(scope="module")
def images(data_root) -> tuple[Tensor, Tensor]:
    data = load_data("cifar10", root=data_root, download=False)
    return data.test.images[:96].contiguous(), data.test.labels[:96]


def stem(name: str, images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    return calibrate(ModulusStem(3, 64, 4, **STEMS[name]), window(images, shift_stability.LARGEST))


@pytest.mark.parametrize("pixels", [0.5, 1])
def test_modulus_features_change_less_than_max_pooled_and_blur_pooled_ones(images, pixels):
    x = enlarged(images[0])
    change = {name: feature_change(stem(name, x), x, BAND_PASS) for name in ("max", "blur", "modulus")}
    step = int(2 * pixels) - 1
    for kind, share in (("relative", 0.65), ("centred", 0.6), ("pooled", 0.4)):
        found = {name: change[name][kind][step] for name in change}
        assert found["modulus"] < share * found["max"], (kind, found)
        assert found["modulus"] < found["blur"] < found["max"], (kind, found)


def test_the_same_filters_are_max_pooled(images):
    """So that only the pooling differs: equal mixing weights, and the real part is that of the complex filters."""
    x = enlarged(images[0][:2])
    real, both = (stem(name, x).to_convolutions().wavelets for name in ("max", "modulus"))
    for ours, theirs in zip(real.weight, both.weight[:24], strict=True):
        ratio = (ours * theirs).sum() / theirs.square().sum()  # each norm has its own scale
        torch.testing.assert_close(ours, ratio * theirs, rtol=0, atol=1e-6)


def test_windows_are_the_image_moved(images):
    x = enlarged(images[0][:2])
    assert window(x, 3).shape == (2, 3, 32, 32)
    torch.testing.assert_close(window(x, 5)[..., :-1], window(x, 3)[..., 1:], rtol=0, atol=0)


def test_flip_rates_count_pairs_of_windows(images):
    """A network that answers by where the image stands flips between the places it tells apart."""

    class Counts(nn.Module):
        answers = iter([0, 0, 1, 1] + [1] * 13)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(x),), next(self.answers)), 2).float()

    found = stability(Counts(), enlarged(images[0][:3]), torch.ones(3))
    assert found["flips"][:3] == pytest.approx([1 / 16, 2 / 15, 2 / 14])
    assert found["interval"][0] == 0
    assert found["accuracy"] == 1
    assert found["divergence"][0] == 0 < found["divergence"][1]


def test_the_networks_differ_in_the_stem_only():
    rest = []
    for name in ("plain", "modulus"):
        model = network(name, 0)
        assert isinstance(model.conv1, ModulusStem)
        rest.append({key: p for key, p in model.named_parameters() if not key.startswith("conv1.")})
    assert rest[0].keys() == rest[1].keys()
    assert all(torch.equal(p, rest[1][key]) for key, p in rest[0].items())
