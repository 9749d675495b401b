"""GradAug: the slices, the loss and the gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from regularizer_hosts import make_host, setting_for
from torch import Tensor, nn
from torch.nn import functional as F

import convswap
from convswap.errors import UsageError
from convswap.hooks import Hooks
from convswap.models import create_model
from convswap.regularizers import get_regularizer
from convswap.regularizers.internal.grad_aug import distillation, resized
from convswap.regularizers.internal.narrowing import narrowed
from convswap.regularizers.internal.places import Places
from convswap.regularizers.internal.width_slices import Widths, sliced_width

from .test_manifold_mixup import Plain


def widths_of(model: nn.Module, size: int = 8, channels: int = 1) -> Widths:
    return Widths(Places(model, setting_for(size=size, channels=channels), "grad_aug"))


def test_a_sliced_convolution_is_the_authors(shared) -> None:
    case = torch.load(shared / "golden" / "regularisation" / "case_gradaug_conv.pt", weights_only=True)
    for key, expected in case["make_divisible"].items():
        channels, _, width = key.partition("*")
        assert sliced_width(int(channels), float(width)) == expected, key
    conv = nn.Conv2d(16, 24, 3, padding=1, bias=False).double()
    conv.load_state_dict(case["state_dict"])
    for width in case["config"]["widths"]:
        inputs, outputs = sliced_width(16, width), sliced_width(24, width)
        _, taken = narrowed(conv, range(inputs), range(outputs))
        assert taken is not None
        weight = taken["weight"](conv.weight)
        y = F.conv2d(case["input"][:, :inputs], weight, padding=1)
        torch.testing.assert_close(y, case["output"][f"w{width}"])


def test_the_distance_is_a_divergence() -> None:
    whole, part = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    p, q = whole.softmax(1), part.double().softmax(1)
    loss = distillation(whole, part)
    torch.testing.assert_close(loss.double(), (p * (p.log() - q.log())).sum(1).mean(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert whole.grad is None
    assert part.grad is not None


def test_images_are_resized_with_their_corners() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    small = resized(image, 0.5)
    assert small.flatten().tolist() == [0, 3, 12, 15]
    assert resized(image, 1.0) is image


def naive_slice(model: nn.Module, width: float, x: Tensor) -> Tensor:
    """`make_host` by hand at a width: every layer's first channels, batch norms by the batch."""
    n = sliced_width(8, width)

    def layer(y: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
        y = F.conv2d(y, conv.weight[:n, : y.shape[1]], padding=1)
        return F.batch_norm(y, None, None, norm.weight[:n], norm.bias[:n], training=True)

    host: object = model
    y = F.max_pool2d(layer(x, host.stem[0], host.stem[1]).relu(), 2)  # type: ignore[attr-defined]
    for block in host.blocks:  # type: ignore[attr-defined]
        total = y
        for branch in block.branches:
            total = total + layer(layer(y, branch[0], branch[1]).relu(), branch[3], branch[4])
        y = total.relu()
    linear = host.classifier  # type: ignore[attr-defined]
    return F.linear(y.mean((2, 3)), linear.weight[:, :n], linear.bias)


@pytest.mark.parametrize("width", [0.5, 0.8, 1.0])
def test_a_sub_network_is_the_first_channels(width: float) -> None:
    model = make_host().double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(6, 1, 8, 8).double()
    logits = widths_of(model).at(width)(x)
    expected = naive_slice(model, width, x)
    torch.testing.assert_close(logits, expected)
    (found,) = torch.autograd.grad(logits.square().sum(), [model.stem[0].weight])
    (wanted,) = torch.autograd.grad(expected.square().sum(), [model.stem[0].weight])
    torch.testing.assert_close(found, wanted)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "no statistics change"


def test_a_step_sums_the_losses() -> None:
    model = make_host().double().train()
    images, labels = torch.randn(6, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = get_regularizer("grad_aug")(0.6, subnetworks=3, sizes=(1.0, 0.75)).objective(  # type: ignore[call-arg]
        Plain(), model, setting_for()
    )
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    outcome = objective.step(model, images, labels)
    outcome.loss.backward()
    torch.manual_seed(5)
    drawn = (torch.rand(2, dtype=torch.float64) * 0.4 + 0.6).tolist()
    sizes = torch.randint(2, (3,)).tolist()
    logits = twin(images)
    total = F.cross_entropy(logits, labels)
    for width, size in zip([0.6, *drawn], sizes, strict=True):
        small = images if size == 0 else F.interpolate(images, [6, 6], mode="bilinear", align_corners=True)
        target = logits.detach().softmax(1)
        part = naive_slice(twin, width, small).log_softmax(1)
        total = total + (target * (target.log() - part)).sum(1).mean()
    total.backward()
    torch.testing.assert_close(outcome.loss.double(), total, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, twin.get_buffer(name), msg="the statistics are those of the whole network")
    objective.detach()


def test_a_step_under_autocast() -> None:
    model = make_host().train()
    objective = get_regularizer("grad_aug")().objective(Plain(), model, setting_for())
    seen: list[torch.dtype] = []
    sub = objective.widths.at(0.8)  # type: ignore[attr-defined]
    sub.structure.blocks.register_forward_hook(lambda m, a, y: seen.append(y.dtype))

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    objective.step(forward, torch.randn(6, 1, 8, 8).bfloat16(), torch.tensor([0, 1, 2, 0, 1, 2])).loss.backward()
    assert torch.bfloat16 in seen
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cifar_resnet8", "mobilenetv3_small_100", "densenet121"])
def test_real_networks(name: str) -> None:
    """Depthwise convolutions, gates, zero-channel shortcuts and concatenations."""
    small = {"block_config": (2, 2, 2, 2), "growth_rate": 8} if name == "densenet121" else {}
    model = create_model(name, num_classes=3, in_channels=3, **small)
    widths = widths_of(model, 64, 3)
    x = torch.randn(2, 3, 64, 64)
    whole = widths.at(1.0)
    torch.testing.assert_close(whole(x), _by_batch(model)(x), rtol=1e-3, atol=1e-4)
    sub = widths.at(0.8)
    sub(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    narrow = dict(sub.structure.named_parameters())
    share = sum(p.numel() for p in narrow.values()) / sum(p.numel() for p in model.parameters())
    assert 0.6 < share < 0.8, "about the square of the width"
    assert all(p.is_meta for p in narrow.values()), "it holds no weights of its own"
    assert widths.at(0.8) is sub


def _by_batch(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model).train()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return twin


@pytest.mark.parametrize("unit", ["circle", "ic"])
def test_units_without_width_are_refused_by_name(unit: str) -> None:
    model = convswap.swap(create_model("cifar_resnet8", num_classes=3, in_channels=3), unit)
    with pytest.raises(UsageError, match=rf"layer1\.0\.conv1.*unit '{unit}'") as caught:
        get_regularizer("grad_aug")().objective(Plain(), model, setting_for(channels=3, size=32))
    assert "\n" not in str(caught.value)


def test_a_layer_that_changes_its_values_is_refused() -> None:
    class Rescaled(Hooks, nn.Conv2d):
        def narrow(self, inputs, outputs) -> None:
            kept = range(self.out_channels) if outputs is None else outputs
            self.weight = nn.Parameter(self.weight.detach()[list(kept)] * 2)

    assert narrowed(Rescaled(2, 4, 1), None, [0, 1])[1] is None


def test_a_layer_with_a_rule_of_its_own() -> None:
    class Reversed(Hooks, nn.Conv2d):
        """Keeps what it is told, in reverse."""

        def narrow(self, inputs, outputs) -> None:
            self.weight = nn.Parameter(self.weight.detach()[list(reversed(outputs))])
            self.out_channels = len(outputs)

    conv = Reversed(2, 4, 1, bias=False)
    narrow, taken = narrowed(conv, None, [0, 2])
    assert taken is not None
    assert torch.equal(taken["weight"](conv.weight), conv.weight[[2, 0]])
    assert narrow.weight.shape == (2, 2, 1, 1)  # type: ignore[union-attr]


def test_images_too_small_for_the_network_are_refused() -> None:
    class Valid(nn.Sequential):
        pass

    torch.manual_seed(0)
    model = Valid(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 4), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(UsageError, match=r"Valid takes no images of 7x7 \(sizes=0\.875\)"):
        get_regularizer("grad_aug")().objective(Plain(), model, setting_for())


@pytest.mark.parametrize("options", [{"narrowest": 1.0}, {"subnetworks": 0}, {"sizes": ()}, {"sizes": (2.0,)}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        get_regularizer("grad_aug")(**options)
