"""Convolutions in the place of max-pooling: the forms of the all-convolutional net, and what is left alone."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.surgery.history import history_of

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("block", "abc")
@pytest.mark.parametrize(("by", "name"), [("conv", "all_cnn_{}"), ("strided_conv", "all_cnn_strided_{}")])
def test_model_x_becomes_the_papers_networks(block: str, by: str, name: str) -> None:
    torch.manual_seed(0)
    base = convswap.create_model(f"all_cnn_base_{block}", num_classes=10).double().eval()
    paper = convswap.create_model(name.format(block), num_classes=10).double().eval()
    changed = convswap.replace_pooling(base, by, start="fresh", example_input=IMAGE)
    assert parameters(changed) == parameters(paper)
    # the same layers in the same order, so the weights of the one are those of the other
    renamed = OrderedDict(zip(changed.state_dict(), paper.state_dict().values(), strict=True))
    changed.load_state_dict(renamed)
    assert torch.equal(changed(IMAGE), paper(IMAGE))
    assert not any(isinstance(module, nn.MaxPool2d) for module in changed.modules())


def test_a_warm_convolution_is_average_pooling() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).double().eval()
    plan = convswap.plan_replace_pooling(net, "conv", example_input=IMAGE)
    rectified = net[1](net[0](IMAGE)).detach()
    average, maximum = nn.AvgPool2d(2)(rectified), nn.MaxPool2d(2)(rectified)
    torch.testing.assert_close(plan.apply()(IMAGE), average, rtol=1e-12, atol=1e-12)
    assert plan.pools[0].start_error == pytest.approx(float((average - maximum).norm() / maximum.norm()))
    assert plan.difference == pytest.approx(float((average - maximum).abs().max() / maximum.abs().max()))


def test_a_strided_convolution_takes_one_pixel_of_each_window() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(3, 2)).double().eval()
    plan = convswap.plan_replace_pooling(net, "strided_conv", example_input=IMAGE)
    taken, pooled = net[:3](IMAGE)[:, :, 1::2, 1::2][:, :, :15, :15].detach(), net(IMAGE).detach()
    torch.testing.assert_close(plan.apply()(IMAGE), taken, rtol=1e-12, atol=1e-12)
    assert plan.pools[0].start_error == pytest.approx(float((taken - pooled).norm() / pooled.norm()))
    assert net[0].stride == (1, 1), "the given model stays"


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, int | bool]:
    kernel = draw(st.integers(1, 4))
    padding = draw(st.integers(0, kernel // 2))
    dilation, ceil = draw(st.integers(1, 2)), draw(st.booleans())
    return {
        "kernel_size": kernel,
        "stride": draw(st.integers(1, 4)),
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": ceil,
    }


@given(geometries(), st.sampled_from(["conv", "strided_conv"]), st.tuples(st.integers(9, 17), st.integers(9, 17)))
@settings(max_examples=40, deadline=None)
def test_every_geometry_keeps_its_shape_or_is_refused(geometry: dict, by: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, 1, 2), nn.ReLU(), nn.MaxPool2d(**geometry)).eval()
    x = torch.randn(1, 2, *size)
    rounds_up = geometry["ceil_mode"] and by == "conv"
    try:
        changed = convswap.replace_pooling(net, by, example_input=x)
    except SurgeryError as error:
        reason = str(error).partition("2: ")[2]
        allowed = ("its ceil_mode=True",) if by == "conv" else ("0 with its stride gives", "0 would need padding")
        if not reason.startswith(allowed) or (by == "conv" and not rounds_up):
            raise
        return
    assert changed(x).shape == net(x).shape
    if by == "conv":  # on every other size, too
        other = torch.randn(1, 2, size[0] + 1, size[1] + 3)
        assert changed(other).shape == net(other).shape


def test_the_hosts_norm_and_rectifier() -> None:
    model = timm.create_model("resnet18", num_classes=10).eval()
    plan = convswap.plan_replace_pooling(model)
    assert plan.pools[0].becomes == "conv 64 channels 3x3 s2 p1 + BN + ReLU"
    changed = plan.apply()
    assert [type(layer).__name__ for layer in changed.maxpool] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert plan.parameters_after - plan.parameters_before == 64 * 64 * 9 + 2 * 64 == plan.pools[0].parameters
    assert plan.macs_after - plan.macs_before == 64 * 64 * 9 * 56 * 56
    plain = convswap.plan_replace_pooling(model, batch_norm=False).apply()
    assert [type(layer).__name__ for layer in plain.maxpool] == ["Conv2d", "ReLU"]
    assert plain.maxpool.conv.bias is not None
    not_rectified = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.MaxPool2d(2)).eval()
    found = convswap.plan_replace_pooling(not_rectified, example_input=IMAGE.float())
    assert found.pools[0].becomes == "conv 4 channels 2x2 s2"
    assert [type(layer).__name__ for layer in found.apply()[2]] == ["Conv2d"]


def test_strides_multiply() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, (7, 5), (2, 1), (3, 2), dilation=(1, 2)), nn.ReLU(), nn.MaxPool2d(3, (2, 3)))
    net = net.double().eval()
    plan = convswap.plan_replace_pooling(net, "strided_conv", example_input=IMAGE)
    changed = plan.apply()
    assert changed[0].stride == (4, 3)
    rows, columns = net(IMAGE).shape[2:]
    taken = net[:2](IMAGE)[:, :, 1::2, 1::3][:, :, :rows, :columns]
    torch.testing.assert_close(changed(IMAGE), taken, rtol=1e-12, atol=1e-12)


class Branched(nn.Module):
    """The map that is pooled is also read at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.relu(self.conv(x_NCHW))
        return whole, self.pool(whole)


def test_a_map_that_something_else_reads_keeps_its_size() -> None:
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(SurgeryError, match="pool: something else also reads what it pools"):
        convswap.plan_replace_pooling(Branched().eval(), "strided_conv", example_input=x)
    whole, pooled = convswap.replace_pooling(Branched().eval(), "conv", example_input=x)(x)
    assert (whole.shape, pooled.shape) == ((1, 4, 32, 32), (1, 4, 16, 16))


def test_a_vgg_in_both_forms() -> None:
    model = convswap.create_model("torchvision:vgg11_bn", num_classes=10).eval()
    x = torch.randn(1, 3, 64, 64)
    conv = convswap.plan_replace_pooling(model, "conv", example_input=x)
    assert [pool.path for pool in conv.pools] == [
        "features.3",
        "features.7",
        "features.14",
        "features.21",
        "features.28",
    ]
    assert conv.pools[0].becomes == "conv 64 channels 2x2 s2 + BN + ReLU"
    strided = convswap.plan_replace_pooling(model, "strided_conv", example_input=x)
    assert [pool.becomes for pool in strided.pools][:2] == ["features.0 with stride 2", "features.4 with stride 2"]
    assert strided.macs_after < strided.macs_before < conv.macs_after
    assert strided.parameters_after == strided.parameters_before


def test_sizes_that_are_rounded_up_and_a_file(tmp_path) -> None:
    model = convswap.create_model("torchvision:squeezenet1_1", num_classes=10).eval()
    x = torch.randn(1, 3, 64, 64)
    changed = convswap.replace_pooling(model, "conv", example_input=x)
    assert type(changed.features[2].pad) is nn.ZeroPad2d
    for size in (63, 64, 65, 66):
        other = torch.randn(1, 3, size, size)
        assert changed.features(other).shape == model.features(other).shape
    loaded = convswap.load(convswap.save(changed, tmp_path / "m.safetensors"))
    assert torch.equal(loaded(x), changed(x))
    with pytest.raises(SurgeryError, match=r"features\.5: it follows cat, not a convolution"):
        convswap.plan_replace_pooling(model, "strided_conv", where="features.5", example_input=x)


def test_alexnet_says_why_its_first_pooling_stays() -> None:
    model = convswap.create_model("torchvision:alexnet", num_classes=10).eval()
    plan = convswap.plan_replace_pooling(model, "strided_conv", example_input=torch.randn(1, 3, 96, 96))
    assert [pool.path for pool in plan.pools] == ["features.5", "features.12"]
    assert plan.skipped[0].path == "features.2"
    assert "features.0 would need padding -2" in plan.skipped[0].reason


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.pool = nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.conv(self.first(x_NCHW))
        return nn.functional.max_pool2d(self.pool(self.pool(x_NCHW)), 2)


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool, self.average = (
            nn.Conv2d(3, 4, 3),
            nn.Conv2d(3, 4, 3),
            nn.MaxPool2d(2),
            nn.AvgPool2d(2),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.average(self.pool(self.a(x_NCHW) + self.b(x_NCHW)))


def test_what_is_left_alone_is_said() -> None:
    x = torch.randn(1, 3, 32, 32)
    plan = convswap.plan_replace_pooling(Twice().eval(), example_input=x)
    assert [(skip.path, skip.reason) for skip in plan.skipped] == [
        ("pool", "the example calls it 2 times, and one convolution would stand for all")
    ]
    assert "1 max-poolings per forward pass are function calls" in str(plan)
    with pytest.raises(SurgeryError, match=r"first: it reads the model's input"):
        convswap.plan_replace_pooling(Twice().eval(), "strided_conv", where="first", example_input=x)
    with pytest.raises(SurgeryError, match=r"none of the 1 selected max-poolings .*pool: it follows add, not a conv"):
        convswap.plan_replace_pooling(Summed().eval(), "strided_conv", example_input=x)
    assert "left alone: 1 AvgPool2d" in str(convswap.plan_replace_pooling(Summed().eval(), example_input=x))
    bare = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).double().eval()
    assert convswap.replace_pooling(bare, example_input=x.double())[0].conv.weight.dtype == torch.float64
    indices = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(SurgeryError, match="return_indices=True hands on"):
        convswap.plan_replace_pooling(indices.eval(), example_input=x)


def test_bad_input_is_named() -> None:
    x = torch.randn(1, 3, 32, 32)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    with pytest.raises(UsageError, match=r"by='pool' is not allowed; choose one of 'conv', 'strided_conv'"):
        convswap.plan_replace_pooling(net, "pool", example_input=x)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"start='cold'"):
        convswap.plan_replace_pooling(net, start="cold", example_input=x)
    with pytest.raises(UsageError, match=r"batch_norm='yes'"):
        convswap.plan_replace_pooling(net, batch_norm="yes", example_input=x)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"where='features\.\*' matches none of the model's 1 max-poolings: 2"):
        convswap.plan_replace_pooling(net, where="features.*", example_input=x)
    with pytest.raises(UsageError, match="pass example_input="):
        convswap.plan_replace_pooling(net)
    with pytest.raises(UsageError, match=r"has no nn\.MaxPool2d module"):
        convswap.plan_replace_pooling(net[:2], example_input=x)


def test_plan_history_units_and_fusing() -> None:
    torch.manual_seed(0)
    model = convswap.create_model("all_cnn_base_c", num_classes=10).double().eval()
    state, numbers = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    plan = convswap.plan_replace_pooling(model, example_input=IMAGE)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(numbers[k], v) for k, v in model.state_dict().items())
    data = json.loads(plan.to_json())
    assert [pool["path"] for pool in data["pools"]] == ["stages.0.pool", "stages.1.pool"]
    assert (data["parameters_before"], data["parameters_after"]) == (954_730, 1_369_738)
    assert f"output off by {plan.difference:.0%} before training" in str(plan)
    changed = plan.apply()
    assert [record["kind"] for record in history_of(changed)] == ["replace_pooling"]
    swapped = convswap.swap(changed, "circle", example_input=IMAGE)
    assert swapped.stages[0].pool.conv.__class__.__name__ == "CircleConv2d"
    fused = convswap.fuse(swapped, IMAGE)
    torch.testing.assert_close(fused(IMAGE), changed(IMAGE), rtol=1e-9, atol=1e-9)


def test_precision_mode_memory_format_and_hooks_survive() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).to(torch.bfloat16)
    net = net.to(memory_format=torch.channels_last).train()
    calls: list[str] = []
    net[2].register_forward_hook(lambda *_: calls.append("pool"))
    x = torch.randn(1, 3, 32, 32, dtype=torch.bfloat16)
    changed = convswap.replace_pooling(net, example_input=x)
    assert changed[2].conv.weight.dtype == torch.bfloat16
    assert changed[2].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert changed[2].training
    calls.clear()
    changed(x).sum().backward()
    assert calls == ["pool"]
    assert changed[2].conv.weight.grad is not None


def test_the_verb(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    from convswap.cli import main

    out = tmp_path / "conv.safetensors"
    argv = ["replace-pooling", "all_cnn_base_c", "--classes", "10", "--out", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "replace pooling by conv where all" in printed
    assert str(out) in printed
    assert parameters(convswap.load(out)) == 1_369_738
    assert main(["replace-pooling", "all_cnn_base_c", "--by", "strided_conv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["by"] == "strided_conv"
    assert main(["replace-pooling", str(out), "--by", "strided_conv"]) == 2, "its poolings are gone"
    assert "has no nn.MaxPool2d module" in capsys.readouterr().err
    for wrong, fragment in [
        (["replace-pooling", str(out), "--classes", "5"], "are for a named model"),
        (["replace-pooling", str(tmp_path / "none.safetensors")], "does not exist"),
        (["replace-pooling", "cifar_resnet8"], "no nn.MaxPool2d module"),
        (["replace-pooling", "resnet18", "--by", "max"], "by='max' is not allowed"),
        (["replace-pooling", "resnet18", "--out", str(tmp_path)], "is a folder"),
    ]:
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert fragment in error
        assert error.count("\n") == 1
