"""Swapping in units that take signs: convolution - BatchNorm - ReLU becomes BatchNorm - sign - convolution - ReLU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convswap
from convswap.units import XnorConv2d


def conv_norm_relu(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def chain() -> nn.Sequential:
    """first, two inner convolutions with a pool, and a linear layer."""
    parts = [*conv_norm_relu(3, 4), *conv_norm_relu(4, 6), nn.MaxPool2d(2), nn.Dropout(0.1), *conv_norm_relu(6, 8)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_chain_comes_into_the_papers_order():
    plan = convswap.plan_swap(chain(), "xnor", start="fresh", example_input=IMAGE)
    assert {r.path: r.absorbed for r in plan.replacements} == {"3": ("4",), "8": ()}
    assert "1 BatchNorms of the host stay" in plan.notes[0]
    assert plan.notes[0].endswith(": 9")  # what the linear layer reads through pooling
    assert plan.replacements[0].parameters_before == 4 * 6 * 9 + 12
    model = plan.apply()
    kinds = [type(m).__name__ for m in model]
    assert kinds[3:10] == ["XnorConv2d", "Identity", "ReLU", "MaxPool2d", "Dropout", "XnorConv2d", "BatchNorm2d"]


def test_every_sign_is_taken_of_a_normalised_map():
    torch.manual_seed(0)
    model = convswap.swap(chain(), "xnor", start="fresh", example_input=IMAGE)
    seen = []
    for unit in (model[3], model[8]):
        unit.bn.register_forward_hook(lambda module, args, output: seen.append(output))
    model(IMAGE).sum().backward()
    for x in seen:
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), rtol=0, atol=1e-5)
        assert 0.2 < float((x >= 0).float().mean()) < 0.8
    assert all(p.grad is not None for p in model.parameters())


def test_the_swapped_chain_computes_the_papers_blocks():
    model = convswap.swap(chain(), "xnor", start="fresh", example_input=IMAGE).eval()
    x = model[:3](IMAGE)
    for unit, rest in ((model[3], model[5:8]), (model[8], model[9:])):
        s = torch.where(unit.bn(x) >= 0, 1.0, -1.0)
        alpha = unit.weight.abs().mean((1, 2, 3), keepdim=True)
        x = rest(nn.functional.conv2d(s, alpha * torch.where(unit.weight >= 0, 1.0, -1.0), padding=1))
    torch.testing.assert_close(model(IMAGE), x)


def test_a_residual_network_keeps_the_norms_its_sums_read():
    model = convswap.create_model("cifar_resnet8", num_classes=10)
    image = torch.randn(2, 3, 32, 32)
    plan = convswap.plan_swap(model, "xnor", start="fresh", example_input=image)
    absorbed = {r.path: r.absorbed for r in plan.replacements}
    stages = [f"layer{i}.0" for i in (1, 2, 3)]
    assert absorbed == {f"{s}.conv1": (f"{s}.bn1",) for s in stages} | {f"{s}.conv2": () for s in stages}
    block = plan.apply().layer1[0]
    assert isinstance(block.bn1, nn.Identity)
    assert isinstance(block.bn2, nn.BatchNorm2d)
    assert isinstance(block.act1, nn.ReLU)


def test_every_3x3_convolution_of_resnet18_but_no_shortcut():
    model = convswap.create_model("torchvision:resnet18", num_classes=10)
    plan = convswap.plan_swap(model, "xnor", start="fresh", example_input=torch.randn(1, 3, 64, 64))
    assert len(plan.replacements) == 16
    assert {r.geometry.split()[1] for r in plan.replacements} == {"3x3"}
    assert sum(len(r.absorbed) for r in plan.replacements) == 8


def test_a_norm_that_something_else_reads_stays():
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.left, self.right = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.conv(self.stem(x)))
            return self.last(self.left(x.relu()) + self.right(x))

    def absorbed(where: str | None) -> list[tuple[str, ...]]:
        plan = convswap.plan_swap(Forked(), "xnor", where=where, example_input=IMAGE)
        return [r.absorbed for r in plan.replacements]

    assert absorbed(None) == [("norm",), (), ()]
    assert absorbed("conv, left") == [(), ()]  # right is a real convolution
    in_two_goes = convswap.swap(Forked(), "xnor", where="left, right", example_input=IMAGE)
    (row,) = convswap.plan_swap(in_two_goes, "xnor", where="conv", example_input=IMAGE).replacements
    assert row.absorbed == ("norm",)


def test_the_hosts_order_is_left_alone_and_warned_of():
    plan = convswap.plan_swap(chain(), "xnor", example_input=IMAGE, order="host")
    assert all(r.absorbed == () for r in plan.replacements)
    (note,) = plan.notes
    assert note.startswith("2 units take the signs of a rectified map, which are +1 everywhere")
    assert note.endswith(": 3, 8")
    assert all(unit.bn is None for unit in plan.apply().modules() if isinstance(unit, XnorConv2d))


@pytest.mark.parametrize("order", ["norm_first", "host"])
def test_without_an_example_nothing_is_moved_and_that_is_said(order):
    plan = convswap.plan_swap(chain(), "xnor", order=order)
    assert all(r.absorbed == () for r in plan.replacements)
    assert plan.notes[0].endswith("no example input is known")


def test_a_reordered_network_is_saved_and_loaded(tmp_path):
    model = convswap.create_model("cifar_resnet8", num_classes=10)
    image = torch.randn(2, 3, 32, 32)
    swapped = convswap.swap(model, "xnor", start="fresh", example_input=image).eval()
    again = convswap.load(convswap.save(swapped, tmp_path / "model.safetensors"))
    assert torch.equal(again(image), swapped(image))


def test_the_error_of_an_approximate_start_is_in_the_plan():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 2, 1))
    nn.init.normal_(model[1].weight)
    plan = convswap.plan_swap(model, "binary_weight")
    (row,) = plan.replacements
    assert row.start == "approximate"
    assert row.start_error == pytest.approx((1 - 2 / torch.pi) ** 0.5, abs=0.03)  # of normal weights
    unit = plan.apply()[1]
    error = (model[1].weight - unit.effective_weight()).norm() / model[1].weight.norm()
    assert row.start_error == pytest.approx(error.item(), rel=1e-5)
    assert f"approximate, weights {row.start_error:.0%} off" in str(plan)
    assert plan.as_dict()["replacements"][0]["start_error"] == row.start_error
    assert convswap.plan_swap(model, "binary_weight", start="fresh").replacements[0].start_error is None
    assert convswap.plan_swap(model, "circle").replacements[0].start_error is None
