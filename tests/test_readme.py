"""The pages' code works as printed: the README's example, and the units of CONTRIBUTING.md."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE_GAIN = """
import torch
from torch import nn

import convswap

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).double().eval()
x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
plan = convswap.plan_swap(net, "gain", where="spatial", initial=2.0, example_input=x)
swapped = plan.apply()
assert [r.path for r in plan.replacements] == ["0", "3"]
assert type(swapped[3]).__name__ == "GainConv2d"
torch.testing.assert_close(swapped(x), net(x), rtol=1e-12, atol=1e-12)
with torch.no_grad():
    swapped[3].gain.uniform_(0.5, 2.0)
fused = convswap.fuse(swapped, x)
assert [type(m).__name__ for m in fused] == ["Conv2d", "Identity", "ReLU", "Conv2d"]
torch.testing.assert_close(fused(x), swapped(x), rtol=1e-12, atol=1e-12)
"""


USE_IMAGE_GATE = """
import torch
from torch import nn

import convswap

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)).double().eval()
net[3].running_mean.uniform_(-1, 1)
net[3].running_var.uniform_(0.5, 2)
x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
swapped = convswap.swap(net, "image_gate", where="spatial", example_input=x, sharpness=2.0)
assert [type(module).__name__ for module in (swapped[0], swapped[2])] == ["ImageGateConv2d"] * 2
torch.testing.assert_close(swapped(x), net(x), rtol=1e-12, atol=1e-12)
with torch.no_grad():
    swapped[2].gate.weight.uniform_(-1, 1)
fused = convswap.fuse(swapped, x)
assert isinstance(fused[3], nn.Identity)
torch.testing.assert_close(fused(x), swapped(x), rtol=1e-12, atol=1e-12)
assert not torch.allclose(swapped(x), net(x))
"""

USE_SEPARABLE_BLOCK = """
import torch
from torch import nn

import convswap

torch.manual_seed(0)
net = convswap.create_model("cifar_resnet8", num_classes=4).double().eval()
x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
swapped = convswap.swap(net, "separable_block", example_input=x, kernel_size=5)
blocks = [module for module in swapped.modules() if type(module).__name__ == "SeparableBlock"]
assert len(blocks) == 3
for norm in (module for module in swapped.modules() if isinstance(module, nn.BatchNorm2d)):
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
fused = convswap.fuse(swapped, x)
assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
torch.testing.assert_close(fused(x), swapped(x), rtol=1e-9, atol=1e-9)
"""


def blocks(page: str) -> list[str]:
    """The python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the example unit must not stay in this process's registry."""
    file = folder / "program.py"
    file.write_text(program, encoding="utf-8")
    return subprocess.run([sys.executable, file], cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_readme_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("README.md")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    done = run(example, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "layer4.1.conv2" in done.stdout


@pytest.mark.parametrize("number", range(3), ids=["gain", "image_gate", "separable_block"])
def test_an_example_unit_is_swapped_and_fused(number: int, tmp_path: Path) -> None:
    units = blocks("CONTRIBUTING.md")
    assert len(units) == 3
    done = run(units[number] + (USE_GAIN, USE_IMAGE_GATE, USE_SEPARABLE_BLOCK)[number], tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_two_commands_are_each_one_line() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert [line.split("/")[-1] for line in commands] == ["convswap compare", "pytest"]
