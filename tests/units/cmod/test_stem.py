"""The complex-wavelet stem against its filters' definition, the authors' tensors and its own inference forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convswap
from convswap.units import FusedModulusStem, ModulusStem, Place
from convswap.units.cmod.parts import ARCHES, BlurPool2d, GaborBatchNorm2d, modulus

DOUBLE: Any = {"dtype": torch.float64}
HOSTS = {"resnet": (64, 4), "alexnet": (64, 8)}
SIZES = {"resnet": [(64, 64), (33, 46), (7, 6), (1, 5)], "alexnet": [(96, 96), (67, 90), (40, 15)]}


def host_stem(arch: str) -> nn.Sequential:
    if arch == "alexnet":
        return nn.Sequential(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2))
    conv = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def lived_in(arch: str, **options: Any) -> ModulusStem:
    """A stem in float64 whose every parameter and statistic has moved."""
    torch.manual_seed(0)
    stem = ModulusStem(3, *HOSTS[arch], **options, **DOUBLE).eval()
    with torch.no_grad():
        for parameter in stem.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in stem.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight[0] = -1.5
            if isinstance(module, GaborBatchNorm2d):
                module.running_energy.uniform_(0.5, 2)
                module.weight[0] = -1.5
    return stem


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's names and shapes in ours."""
    ours = {}
    for key, value in state.items():
        parts = key.split(".")
        if "freeconv" in key:
            ours[f"free.{parts[-1]}"] = value
        elif "colormix" in key:
            ours["wavelets.weight"] = value
        elif "featmapmix" in key and parts[-1] == "weight":
            ours[f"wavelets.mix{parts[-2]}"] = value.flatten(1)
        elif key.startswith(("maxpool.0.", "maxpool.low.0.")):
            ours[f"norm.{parts[-1]}"] = value
        elif key == "maxpool.high.2.running_var":
            ours["after.running_energy"] = value
        elif key.startswith("maxpool.high.2.") and parts[-1] in ("weight", "bias", "num_batches_tracked"):
            ours[f"after.{parts[-1]}"] = value.flatten() if value.dim() else value
    biases = [value for key, value in state.items() if "featmapmix" in key and key.endswith("bias")]
    return ours | ({"wavelets.bias": torch.cat(biases)} if biases else {})


@pytest.mark.parametrize(
    ("name", "arch", "pooling"),
    [
        ("case_front_resnet_Ft40YEx", "resnet", "max"),
        ("case_front_resnet_Ft40YEx_mod", "resnet", "modulus"),
        ("case_front_alexnet_Ft32Y", "alexnet", "max"),
        ("case_front_alexnet_Ft32Y_mod", "alexnet", "modulus"),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_golden(golden, name, arch, pooling, layout):
    reference = golden("cmod")[name]
    stem = ModulusStem(3, *HOSTS[arch], pooling=pooling, **DOUBLE).eval()
    state = renamed(reference["state_dict"])
    if arch == "alexnet" and pooling == "modulus":
        assert torch.equal(state.pop("after.weight"), torch.ones(32, **DOUBLE))  # frozen in the authors' code
    stem.load_state_dict(state)
    x = reference["input"].contiguous(memory_format=layout)
    for module in (stem, stem.fuse(), stem.to_convolutions()):
        torch.testing.assert_close(module(x), reference["output"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("arch", HOSTS)
@pytest.mark.parametrize("pooling", ["modulus", "modulus_blur", "max", "blur"])
def test_size_is_the_hosts_and_both_inference_forms_are_equal(arch, pooling):
    stem, host = lived_in(arch, pooling=pooling), host_stem(arch).double().eval()
    fused, dense = stem.fuse(), stem.to_convolutions()
    assert not [m for m in (*fused.modules(), *dense.modules()) if isinstance(m, nn.BatchNorm2d | GaborBatchNorm2d)]
    assert dense.wavelets.kernel_size == ((30, 30) if arch == "resnet" else (66, 66))
    assert type(dense.wavelets).__bases__ == (nn.Conv2d,)
    for size in SIZES[arch]:
        x = torch.randn(2, 3, *size, **DOUBLE)
        expected = stem(x)
        assert expected.shape == host(x).shape
        for module in (fused, dense):
            torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("arch", HOSTS)
def test_stride_is_that_of_convolution_and_pool(arch):
    dense = lived_in(arch).to_convolutions()
    assert dense.wavelets.stride == (2 * ARCHES[arch].stride,) * 2
    assert dense.wavelets.weight.shape[:2] == (2 * ARCHES[arch].wavelet_channels, 3)


@pytest.mark.parametrize("arch", HOSTS)
@pytest.mark.parametrize("pooling", ["modulus", "max"])
def test_a_turned_image_of_turned_filters_is_a_turned_output(arch, pooling):
    """Rows and columns are treated alike: swapping them in image and kernels swaps them in the output, not square."""
    stem = lived_in(arch, pooling=pooling)
    x = torch.randn(1, 3, 67, 98, **DOUBLE)
    turned = stem.to_convolutions()
    with torch.no_grad():
        for conv in (turned.free, turned.wavelets):
            conv.weight.copy_(conv.weight.mT.clone())
    torch.testing.assert_close(turned(x.mT).mT, stem(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("packets", ["excluded", "full"])
def test_training_forward_and_gradients_are_those_of_the_written_out_stem(packets):
    """In training, with batch statistics, from kernels of 30x30 and complex numbers."""
    stem = lived_in("resnet", packets=packets).train()
    x = torch.randn(3, 3, 22, 31, **DOUBLE)
    kernels, maps = stem.wavelets.kernels(), stem.wavelets
    z = F.conv2d(F.pad(x, (14, 14, 14, 14)), kernels, stride=4)
    z = torch.complex(*z.chunk(2, 1)).abs()
    z = z / (z.square().mean((0, 2, 3), keepdim=True) / 2 + 1e-5).sqrt()
    high = z * stem.after.weight.abs()[:, None, None] + stem.after.bias[:, None, None]
    y = F.conv2d(x, stem.free.weight, None, 2, 3)
    low = F.batch_norm(y, None, None, stem.norm.weight, stem.norm.bias, True)
    expected = torch.cat([F.max_pool2d(low.relu(), 3, 2, 1)[..., :5, :8], high.relu()[..., :5, :8]], 1)
    found = stem(x)[..., :5, :8]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    factor, parameters = torch.randn_like(found), list(stem.parameters())
    ours = torch.autograd.grad((found * factor).sum(), parameters)
    theirs = torch.autograd.grad((expected * factor).sum(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    assert maps.weight.requires_grad


def test_mixing_reads_each_groups_packets_only():
    stem = lived_in("resnet", packets="full")
    matrix = torch.zeros(24, 30, **DOUBLE)
    blocks = stem.wavelets.mix[0].view(6, 2, 1), stem.wavelets.mix[1].view(6, 2, 4)
    for first, (o, k), block in zip(((0, 0), (12, 6)), ((2, 1), (2, 4)), blocks, strict=True):
        for group in range(6):
            rows = slice(first[0] + group * o, first[0] + (group + 1) * o)
            matrix[rows, first[1] + group * k : first[1] + (group + 1) * k] = block[group]
    columns = stem.wavelets.selection.columns()
    flat = torch.cat([w.flatten() for w in stem.wavelets.mix] + [torch.zeros(1, **DOUBLE)])
    torch.testing.assert_close(flat[columns], matrix, rtol=0, atol=0)


def test_gabor_norm_tracks_half_the_energy_and_scales_by_it():
    norm = GaborBatchNorm2d(2, **DOUBLE).train()
    x = torch.rand(3, 2, 4, 5, **DOUBLE)
    energy = x.square().mean((0, 2, 3))
    y = norm(x)
    torch.testing.assert_close(y, x / (energy / 2 + 1e-5).sqrt()[:, None, None])
    torch.testing.assert_close(norm.running_energy, 0.9 + 0.1 * energy)
    torch.testing.assert_close(norm.eval()(x), x / (norm.running_energy / 2 + 1e-5).sqrt()[:, None, None])
    norm.reset_running_stats()
    norm.train().momentum = None
    norm(x), norm(2 * x)
    torch.testing.assert_close(norm.running_energy, 2.5 * energy)
    assert int(norm.num_batches_tracked) == 2


def test_modulus_of_nothing_has_a_gradient():
    z = torch.zeros(1, 4, 2, 2, requires_grad=True)
    modulus(z).sum().backward()
    assert torch.equal(z.grad, torch.zeros_like(z))
    half = torch.full((1, 2, 1, 1), 300.0, dtype=torch.float16)  # whose square is no float16
    assert modulus(half).item() == pytest.approx(300 * math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("size", [(7, 8), (1, 4), (2, 2), (1, 1)])
def test_blur_pool_is_a_binomial_filter(size):
    x = torch.randn(2, 3, *size, **DOUBLE)
    taps = torch.tensor([1.0, 2.0, 1.0], **DOUBLE) / 4
    padded = F.pad(x, (1, 1, 1, 1), "reflect" if min(size) > 1 else "replicate")
    expected = F.conv2d(padded, torch.outer(taps, taps).expand(3, 1, 3, 3), stride=2, groups=3)
    torch.testing.assert_close(BlurPool2d()(x), expected, rtol=0, atol=1e-14)


def test_a_cropped_kernel_is_as_far_off_as_it_says():
    stem = lived_in("resnet")
    x = torch.randn(4, 3, 60, 60, **DOUBLE)
    exact, size = stem.to_convolutions(), (15, 15)
    expected = exact.wavelets(x, size)
    energy = x.abs().max() * math.sqrt(3 * 30 * 30)
    cuts = []
    for side in (30, 25, 20, 15, 8):
        cropped = stem.to_convolutions(side)
        assert cropped.wavelets.kernel_size == (side, side)
        norms = exact.wavelets.weight.square().sum((1, 2, 3)).sqrt()
        bound = cropped.wavelets.cut * norms[:, None, None] * energy
        error = (cropped.wavelets(x, size) - expected).abs()
        assert (error <= bound + 1e-12).all()
        cuts.append(cropped.wavelets.cut)
        assert f"cut={cropped.wavelets.cut:.2g}" in repr(cropped)
    assert cuts == sorted(cuts)
    assert cuts[0] == 0
    assert cuts[1] < 0.1 < cuts[-1]


def test_luminance_starts_as_the_paper_says_and_grey_images_with_their_mean():
    for arch, start in (("resnet", (0.9802, 1.306, 0.7138)), ("alexnet", (1.0036, 1.163, 0.8334))):
        stem = ModulusStem(3, *HOSTS[arch], **DOUBLE)
        torch.testing.assert_close(stem.wavelets.weight.flatten(), torch.tensor(start, **DOUBLE), rtol=0, atol=0)
    grey = ModulusStem(1, 64, 4)
    assert grey.wavelets.weight.tolist() == [[[[1.0]]]]
    assert ModulusStem(4, 64, 4).wavelets.weight.flatten().tolist() == [0.25] * 4
    assert grey(torch.randn(2, 1, 32, 32)).shape == (2, 64, 8, 8)


@pytest.mark.parametrize(
    ("arch", "options", "published"),
    [
        ("resnet", {}, 6035),
        ("resnet", {"pooling": "max"}, 6035),
        ("alexnet", {}, 11889),
        ("alexnet", {"pooling": "max"}, 11889),
    ],
)
def test_parameters_are_the_papers(arch, options, published):
    stem = ModulusStem(3, *HOSTS[arch], **options)
    assert sum(p.numel() for p in stem.parameters()) == published
    assert not [name for name, _ in stem.named_parameters() if "vertical" in name or "horizontal" in name]


def test_no_wavelets_is_the_hosts_stem():
    host = host_stem("resnet").double().eval()
    stem = ModulusStem(3, 64, 4, pooling="max", wavelet_channels=0, **DOUBLE).eval()
    stem.free.load_state_dict(host[0].state_dict())
    x = torch.randn(2, 3, 23, 30, **DOUBLE)
    torch.testing.assert_close(stem(x), host(x))
    with pytest.raises(ValueError, match="wavelet_channels=0"):
        stem.to_convolutions()


def test_wider_hosts_have_more_wavelets():
    assert ModulusStem(3, 128, 4).wavelet_channels == 48
    assert ModulusStem(3, 32, 4).wavelet_channels == 24
    stem = ModulusStem(3, 128, 4, wavelet_channels=72, **DOUBLE).eval()
    x = torch.randn(1, 3, 20, 20, **DOUBLE)
    assert stem(x).shape == (1, 128, 5, 5)
    torch.testing.assert_close(stem.fuse()(x), stem(x), rtol=0, atol=1e-10)
    assert "multiples of 24 from 24" in ModulusStem.supports(Place(3, 24, 4))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stride": 2}, r"stride=2 .* 4 \(ResNet\) or 8 \(AlexNet\)"),
        ({"arch": "alexnet"}, "stride=4 .* 8 with arch='alexnet'"),
        ({"arch": "vgg"}, "arch='vgg' .* 'resnet', 'alexnet'"),
        ({"pooling": "mean"}, "pooling='mean' .* 'modulus'"),
        ({"packets": "some"}, "packets='some' .* 'excluded', 'full'"),
        ({"stride": 8, "packets": "excluded"}, "packets='excluded' .* choose 'full'"),
        ({"wavelet_channels": 16}, "wavelet_channels=16 of out_channels=64 .* multiples of 24 from 24"),
        ({"wavelet_channels": 0}, "wavelet_channels=0 .* from 24"),
        ({"wavelet_channels": 72}, "wavelet_channels=72"),
        ({"wavelet_channels": -24}, "wavelet_channels=-24"),
        ({"wavelet_channels": True}, "wavelet_channels=True"),
        ({"stride": 8, "wavelet_channels": 24}, "multiples of 32"),
    ],
)
def test_wrong_options_say_what_is_allowed(arguments, words):
    with pytest.raises(ValueError, match=words):
        ModulusStem(**({"in_channels": 3, "out_channels": 64, "stride": 4} | arguments))


@pytest.mark.parametrize("side", [0, 31, 15.0, True, "all"])
def test_a_wrong_kernel_size_is_refused(side):
    with pytest.raises(ValueError, match=f"kernel_size={side!r} .* 1 to 30"):
        ModulusStem(3, 64, 4).to_convolutions(side)


@pytest.mark.parametrize("options", [{}, {"pooling": "blur"}, {"pooling": "max"}, {"pooling": "modulus_blur"}], ids=str)
def test_swaps_into_a_stem_like_alexnets_fuses_and_trains(options):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    model = nn.Sequential(host_stem("alexnet"), pooled)
    x = torch.randn(3, 3, 95, 112)
    swapped = convswap.swap(model, "cmod", example_input=x, **options)
    assert isinstance(swapped[0][0], ModulusStem)
    assert [type(m) for m in swapped[0][1:]] == [nn.Identity] * 2
    F.cross_entropy(swapped(x), torch.arange(3)).backward()
    assert all(p.grad is not None for p in swapped.parameters())
    swapped.eval()
    fused = convswap.fuse(swapped, x)
    assert isinstance(fused[0][0], FusedModulusStem)
    torch.testing.assert_close(fused(x), swapped(x), rtol=1e-4, atol=1e-4)


def test_a_swapped_network_fuses_at_the_size_it_declares():
    swapped = convswap.swap(convswap.create_model("resnet18", num_classes=4), "cmod").eval()
    fused = convswap.fuse(swapped)
    assert isinstance(fused.conv1, FusedModulusStem)
    x = torch.randn(1, 3, 40, 64)
    torch.testing.assert_close(fused(x), swapped(x), rtol=1e-4, atol=1e-4)


def test_alexnet_gradients():
    stem = lived_in("alexnet").train()
    x = torch.randn(1, 3, 23, 31, **DOUBLE)
    names = [name for name, _ in stem.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(stem, dict(zip(names, values, strict=True)), (x,))

    values = tuple(p.detach().requires_grad_() for p in stem.parameters())
    assert torch.autograd.gradcheck(run, values, atol=1e-6, fast_mode=True)
