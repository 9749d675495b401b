"""Pictures and pages: every picture draws, has a text that says its numbers, and the page needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from convswap.cli import main
from convswap.see import Seen, look, photographs, sections, write_page


def net(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        activation(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        activation(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


@pytest.fixture(scope="module")
def seen() -> Seen:
    return look(net(), photographs(8, (14, 12)), name="<net>")


def test_look_sees_everything(seen: Seen) -> None:
    assert [layer.name for layer in seen.kernels] == ["0", "2", "4"]
    assert [(s.stage, s.role) for s in seen.classes] == [
        (0, "dense"),
        (1, "strided depthwise"),
        (1, "depthwise"),
    ]
    assert list(seen.fields) == ["0", "4"]
    assert [(d.first, d.second) for d in seen.duplicates] == [("2", "4")]
    assert seen.similarity is not None
    assert seen.similarity.rows == ("0", "2", "4")
    assert [a.method for a in seen.attributions] == ["guided", "deconvolution", "gradient"]
    assert seen.notes == []


def test_the_page_is_whole_and_says_what_it_shows(seen: Seen, tmp_path: Path) -> None:
    parts = sections(seen, photographs(8, (14, 12)), ["ant", "bee", "cat"])
    page = write_page(tmp_path / "see.html", parts, title="What <net> sees", facts=("8 images",), notes=("a & b",))
    text = page.read_text(encoding="utf-8")
    images = re.findall(r"<img alt='([^']*)' src='data:image/png;base64,", text)
    assert len(images) == text.count("<img") == sum(len(part.pictures) for part in parts)
    assert all(len(alt) > 40 and alt.endswith(".") for alt in images)
    assert len(set(images)) == len(images)
    assert "What &lt;net&gt; sees" in text
    assert "a &amp; b" in text
    assert not re.search(r"(src|href)='?\"?https?:", text)
    assert "<script" not in text
    headings = [part.heading for part in parts]
    assert headings[0] == "Kernels"
    assert headings[-1] == "Which pixels support the predicted class"


def test_what_is_not_defined_is_said() -> None:
    seen = look(net(nn.SiLU), photographs(3, (8, 8)))
    assert [a.method for a in seen.attributions] == ["gradient"]
    assert any("no rectifier" in note and "SiLU" in note for note in seen.notes)
    assert any("fewer than 4" in note for note in seen.notes)
    assert seen.similarity is None


def test_photographs() -> None:
    images = photographs(3, (20, 30))
    assert images.shape == (3, 3, 20, 30)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    torch.testing.assert_close(images, photographs(3, (20, 30)))
    assert (images - photographs(3, (20, 30), seed=1)).abs().max() > 0.1
    assert photographs(1, (4, 4), channels=1).shape == (1, 1, 4, 4)
    with pytest.raises(ValueError, match="count=0"):
        photographs(0, (4, 4))


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["see", "cifar_resnet8", "--images", "4", "--out", str(page), "--layer", "layer3"]) in (0, None)
    assert "kernel classes" in capsys.readouterr().out
    assert "weights drawn at random" in page.read_text(encoding="utf-8")
    assert main(["see", "cifar_resnet8", "cifar_resnet8", "--images", "4", "--out", str(page)]) in (0, None)
    text = page.read_text(encoding="utf-8")
    assert "Similarity with cifar_resnet8 (1), layer by layer" in text
    capsys.readouterr()
    assert main(["see", "no/such.safetensors"]) == 2
    assert "does not exist" in capsys.readouterr().err
