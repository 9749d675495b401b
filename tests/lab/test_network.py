"""The description of a trial's network: what changes it, and what does not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import timm
from torch import nn

from convswap.data import load_data
from convswap.errors import DataError
from convswap.lab import Trial, describe_network
from convswap.lab.build import build_model, described_network
from convswap.lab.network import source_files, source_of
from convswap.models import create_model
from convswap.train import digits_recipe


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the Python path with a package, a module beside it, and what they import."""
    files = {
        "pack/__init__.py": "",
        "pack/nets.py": "from . import blocks\nfrom .deep.inner import x\nimport beside, torch, no_such_module\n",
        "pack/blocks.py": "def late():\n    from pack import used_late\n",
        "pack/used_late.py": "",
        "pack/not_used.py": "",
        "pack/deep/__init__.py": "",
        "pack/deep/inner.py": "from ..blocks import late as x\nimport pack.nets\n",
        "beside.py": "",
        "stranger.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "no_such_module.py").write_text("")  # found by the import, and not by name alone
    yield tmp_path
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("pack", "beside", "no_such_module"):
            del sys.modules[name]


def fresh(name: str) -> ModuleType:
    for known in [*sys.modules]:
        if known.partition(".")[0] in ("pack", "beside"):
            del sys.modules[known]
    return importlib.import_module(name)


def test_the_source_is_what_the_module_imports_under_its_root(root: Path) -> None:
    found = {name: path.relative_to(root).as_posix() for name, path in source_files(fresh("pack.nets")).items()}
    assert set(found.values()) == {
        *("pack/__init__.py", "pack/nets.py", "pack/blocks.py", "pack/used_late.py", "pack/deep/__init__.py"),
        *("pack/deep/inner.py", "beside.py", "no_such_module.py"),
    }


@pytest.mark.parametrize("file", ["pack/nets.py", "pack/used_late.py", "pack/deep/inner.py", "beside.py"])
def test_an_edit_of_any_of_these_files_is_seen(root: Path, file: str) -> None:
    fresh("pack.nets")
    before = source_of("pack.nets:build")
    assert source_of("pack.nets:build") == before
    (root / file).write_text((root / file).read_text() + "# edited\n")
    assert source_of("pack.nets:build") == before, "this process still runs what it imported"
    fresh("pack.nets")
    assert source_of("pack.nets:build") != before


def test_other_files_do_not_count_and_neither_does_the_folder(root: Path, tmp_path: Path) -> None:
    fresh("pack.nets")
    before = source_of("pack.nets:build")
    for name in ("stranger.py", "pack/not_used.py"):
        (root / name).write_text("# edited\n")
    fresh("pack.nets")
    assert source_of("pack.nets:build") == before


def test_an_installed_package_counts_alone() -> None:
    files = source_files(timm)
    assert {name.partition(".")[0] for name in files} == {"timm"}


def test_names_of_libraries_have_no_source() -> None:
    model = create_model("cifar_resnet8", num_classes=10)
    found = describe_network("cifar_resnet8", model)
    assert found["source"] is None
    assert found == describe_network("cifar_resnet8", create_model("cifar_resnet8", num_classes=10))
    assert found != describe_network("cifar_resnet8", create_model("cifar_resnet8", num_classes=11))


@pytest.mark.parametrize(
    "edit",
    [
        lambda net: net.__setitem__(1, nn.LeakyReLU(0.2)),
        lambda net: net.__setitem__(0, nn.Conv2d(3, 4, 3, padding=1, dilation=2)),
        lambda net: net.append(nn.Identity()),
        lambda net: net.register_buffer("extra", net[0].weight.detach()),
        lambda net: net.half(),
    ],
)
def test_the_structure_sees_types_settings_and_tensors(edit: object) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1))

    before, net = describe_network("m", build()), build()
    assert describe_network("m", net) == before
    edit(net)  # type: ignore[operator]
    assert describe_network("m", net) != before


def test_a_training_refuses_another_network_than_the_described_one() -> None:
    data = load_data("digits")
    _, described = described_network("cifar_resnet8", data, {})
    facts = {"data": "digits", "data_fingerprint": data.fingerprint, "recipe": digits_recipe(1).as_dict(), "seed": 0}
    build_model(Trial(model="cifar_resnet8", network=described, **facts), data)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"'cifar_resnet20' has changed since .* \(the structure\)"):
        build_model(Trial(model="cifar_resnet20", network=described, **facts), data)  # type: ignore[arg-type]
