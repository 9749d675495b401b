"""The XNOR unit: naive loops from the paper, the golden network of the public program, the map K, the options."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import convswap
from convswap.data import load_data
from convswap.train import default_recipe, fit
from convswap.units import XnorConv2d, with_marks

DOUBLE = torch.float64


class GoldenNet(nn.Module):
    """first - block 1 - ReLU - block 2 - ReLU - last, as the golden data was made."""

    def __init__(self, channels: int, middle: int, out: int, kernel: int) -> None:
        super().__init__()
        options = {"gradient": "program", "dtype": DOUBLE}
        self.first = nn.Conv2d(3, channels, 3, padding=1, dtype=DOUBLE)
        self.b1 = XnorConv2d(channels, middle, kernel, padding=kernel // 2, **options)
        self.b2 = XnorConv2d(middle, out, 1, **options)
        self.last = nn.Conv2d(out, 5, 1, dtype=DOUBLE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.b2(self.b1(self.first(x)).relu()).relu())


@pytest.mark.parametrize("name", ["case_net_k3_eval", "case_net_k5_train"])
def test_golden_network_forward_update_rule_and_gradients(golden, name):
    case = golden("xnor")[name]
    config = case["config"]
    net = GoldenNet(config["in_ch"], config["mid"], config["out"], config["kernel"])
    net.load_state_dict(case["state_dict"])  # strict: the names are the program's
    net.train(config["mode"] == "train")
    for unit in (net.b1, net.b2):
        unit.conv.constrain_()
    close = {"rtol": 0, "atol": 1e-12}
    for unit, path in ((net.b1, "b1"), (net.b2, "b2")):
        torch.testing.assert_close(
            unit.effective_weight(), case["state_dict_binarized"][f"{path}.conv.weight"], **close
        )
    x = case["input"].clone().requires_grad_()
    y = net(x)
    y.backward(case["grad_output"])
    torch.testing.assert_close(y, case["output"], rtol=0, atol=1e-9)
    torch.testing.assert_close(x.grad, case["grad_input"], rtol=0, atol=1e-9)
    parameters = dict(net.named_parameters())
    assert parameters.keys() == case["grad_after_update"].keys()
    for key, expected in case["grad_after_update"].items():
        torch.testing.assert_close(parameters[key].grad, expected, rtol=0, atol=1e-9, msg=key)
    state = net.state_dict()
    for key, expected in case["state_dict_restored"].items():
        torch.testing.assert_close(state[key], expected, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", ["case_net_k3_eval", "case_net_k5_train"])
def test_golden_gradients_of_the_binary_weights_give_the_default_gradient(golden, name):
    case = golden("xnor")[name]
    raw, real = case["grad_raw"]["b1.conv.weight"], case["state_dict_restored"]["b1.conv.weight"]
    unit = XnorConv2d(real.shape[1], real.shape[0], real.shape[2], dtype=DOUBLE)
    with torch.no_grad():
        unit.weight.copy_(real)
    (unit.effective_weight() * raw).sum().backward()
    factor = (1 - 1 / real.shape[1]) * real[0].numel()
    torch.testing.assert_close(
        unit.weight.grad * factor, case["grad_after_update"]["b1.conv.weight"], rtol=0, atol=1e-12
    )


@torch.no_grad()
def naive(unit: XnorConv2d, x: torch.Tensor) -> torch.Tensor:
    """Pixel by pixel from the paper: signs, alpha, and if asked K; zero padding adds nothing."""
    s = torch.where(x >= 0, 1.0, -1.0).double()
    (sh, sw), (ph, pw), (dh, dw) = unit.stride, unit.padding, unit.dilation
    (kh, kw), groups = unit.kernel_size, unit.groups
    images, channels, height, width = x.shape
    rows, columns = (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    per, share = channels // groups, unit.out_channels // groups
    y = torch.zeros(images, unit.out_channels, rows, columns, dtype=DOUBLE)
    for n in range(images):
        for o in range(unit.out_channels):
            alpha = float(unit.weight[o].abs().mean())
            first = o // share * per
            for r in range(rows):
                for c in range(columns):
                    dot, size = 0.0, 0.0
                    for i in range(kh):
                        for j in range(kw):
                            at, to = r * sh - ph + i * dh, c * sw - pw + j * dw
                            if not (0 <= at < height and 0 <= to < width):
                                continue
                            for k in range(per):
                                sign = 1.0 if float(unit.weight[o, k, i, j]) >= 0 else -1.0
                                dot += sign * float(s[n, first + k, at, to])
                                size += abs(float(x[n, first + k, at, to])) / per
                    scale = size / (kh * kw) if unit.input_scale == "K" else 1.0
                    y[n, o, r, c] = dot * alpha * scale + float(unit.bias[o])
    return y


@pytest.mark.parametrize("input_scale", ["none", "K"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(3, 1, 1, 1, 1), ((3, 2), 2, (0, 1), 1, 2), (3, (1, 3), 2, 2, 4), (1, 2, 0, 1, 1)],
)
def test_forward_is_the_papers_sum(kernel, stride, padding, dilation, groups, input_scale):
    torch.manual_seed(0)
    place = (4, 8, kernel, stride, padding, dilation, groups)
    unit = XnorConv2d(*place, order="host", input_scale=input_scale, dtype=DOUBLE)
    x = torch.randn(2, 4, 5, 6, dtype=DOUBLE)
    x[0, 0, 0, 0] = 0.0  # counts as +1
    torch.testing.assert_close(unit(x), naive(unit, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("input_scale", ["none", "K"])
def test_gradient_of_the_input_is_straight_through_and_through_k(input_scale):
    torch.manual_seed(0)
    unit = XnorConv2d(3, 4, 3, padding=1, order="host", input_scale=input_scale, dtype=DOUBLE)
    x = torch.randn(2, 3, 5, 4, dtype=DOUBLE, requires_grad=True)
    g = torch.randn(2, 4, 5, 4, dtype=DOUBLE)
    (unit(x) * g).sum().backward()
    binary = unit.effective_weight().detach()
    clipped = x.detach().clone().requires_grad_()
    line = clipped.clamp(-1, 1)  # its derivative is the indicator
    s = line + (torch.where(clipped >= 0, 1.0, -1.0) - line).detach()
    y = nn.functional.conv2d(s, binary, padding=1)
    if input_scale == "K":
        y = y * nn.functional.avg_pool2d(clipped.abs().mean(1, keepdim=True), 3, 1, 1)
    (y * g).sum().backward()
    torch.testing.assert_close(x.grad, clipped.grad, rtol=0, atol=1e-12)


def test_batch_norm_stands_before_the_sign():
    torch.manual_seed(0)
    unit = XnorConv2d(4, 6, 3, padding=1, dtype=DOUBLE)
    twin = XnorConv2d(4, 6, 3, padding=1, order="host", dtype=DOUBLE)
    theirs = {key: value for key, value in unit.state_dict().items() if not key.startswith("bn.")}
    twin.load_state_dict(with_marks(twin, theirs))
    x = torch.randn(8, 4, 5, 5, dtype=DOUBLE) * 3 + 2
    norm = nn.BatchNorm2d(4, eps=1e-4, dtype=DOUBLE)
    assert torch.equal(unit(x), twin(norm(x)))
    assert torch.equal(unit.bn.running_mean, norm.running_mean)
    assert unit.bn.eps == 1e-4


def test_a_rectified_input_has_one_sign_without_the_batch_norm():
    torch.manual_seed(0)
    unit = XnorConv2d(4, 6, 3, order="host")
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(unit(x.relu()), unit(torch.ones_like(x)))


def test_levels_of_more_bits_come_nearer_to_the_real_input():
    torch.manual_seed(0)
    x = torch.rand(2, 4, 6, 6, dtype=DOUBLE) * 2 - 1
    units = {bits: XnorConv2d(4, 6, 3, order="host", bits=bits, dtype=DOUBLE) for bits in (1, 2, 4, 8)}
    for unit in units.values():
        unit.load_state_dict(with_marks(unit, units[1].state_dict()))
    plain = nn.functional.conv2d(x, units[1].effective_weight(), units[1].bias)
    errors = [(unit(x) - plain).square().mean().item() for unit in units.values()]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4 * errors[0]


def test_dropout_drops_signs_in_training_only():
    torch.manual_seed(0)
    unit = XnorConv2d(16, 4, 1, order="host", dropout=0.5, bias=False, dtype=DOUBLE)
    x = torch.ones(1, 16, 20, 20, dtype=DOUBLE)
    steps = unit(x)[0, 0] / unit.weight[0].abs().mean()  # sums of 16 numbers out of {0, +-2}
    assert len(steps.detach().round(decimals=6).unique()) > 2
    torch.testing.assert_close((steps / 2).detach(), (steps / 2).round().detach())
    unit.eval()
    assert torch.equal(unit(x), unit(x))
    assert len(unit(x)[0, 0].unique()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": "conv_first"}, "order='conv_first'.*'norm_first', 'host'"),
        ({"input_scale": True}, "input_scale=True"),
        ({"bits": 0}, "bits=0.*1 to 8"),
        ({"bits": True}, "bits=True"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"gradient": "exact"}, "gradient='exact'"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        XnorConv2d(2, 2, 3, **options)


def test_the_papers_order_of_a_block_learns_and_the_hosts_does_not():
    """Signs of rectified maps are all +1 (table 3 of the paper: 44.2 % against 30.3 % on ImageNet). Real digits."""
    data = load_data("digits")
    recipe = replace(default_recipe(data), epochs=3)
    image = torch.zeros(2, data.channels, *data.image_size)
    accuracy = {}
    for order in ("norm_first", "host"):
        torch.manual_seed(0)
        host = convswap.create_model("cifar_resnet8", num_classes=10, in_channels=data.channels)
        model = convswap.swap(host, "xnor", start="fresh", example_input=image, order=order)
        accuracy[order] = fit(model, data, recipe, seed=0, progress=False).test_accuracy
        units = [m for m in model.modules() if isinstance(m, XnorConv2d)]
        assert all(float(unit.weight.detach().abs().max()) <= 1 for unit in units)
        for unit in units:  # the loop has centred the real weights, and clipped none of them here
            torch.testing.assert_close(
                unit.weight.mean(1), torch.zeros(()).expand_as(unit.weight[:, 0]), atol=1e-5, rtol=0
            )
    assert accuracy["norm_first"] > accuracy["host"] + 0.2
