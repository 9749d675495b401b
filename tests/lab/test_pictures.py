"""Pictures of what a lab's networks learned: made once, kept, shown in the report, and no failure loses the rest."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from convswap.cli import main
from convswap.data import Data, load_data
from convswap.errors import StoreError
from convswap.lab import Store, StoredTrial, Trial, run_grid
from convswap.lab import pictures as module
from convswap.lab.pictures import PICTURES_FILE, make_pictures, read_pictures, report_pictures
from convswap.lab.publish import publish
from convswap.lab.store import STORE_FILE
from convswap.train import digits_recipe


def small(num_classes: int, in_channels: int) -> nn.Module:
    """Three convolutions, one of them strided."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, stride=2),
        nn.Flatten(),
        nn.Linear(96, num_classes),
    )


class Signs(nn.Module):
    """Only the signs of an image; no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().sign()


def blind(num_classes: int, in_channels: int) -> nn.Module:
    """A network without a receptive field."""
    return nn.Sequential(Signs(), small(num_classes, in_channels))


def trials_of(data: Data, model: str, *units: tuple[str, int]) -> list[Trial]:
    common: dict[str, Any] = {"data": "digits", "data_fingerprint": data.fingerprint}
    common |= {"recipe": digits_recipe(epochs=1).as_dict(), "model": f"{__name__}:{model}"}
    return [Trial(unit=unit, where=None if unit == "conv" else "all", seed=seed, **common) for unit, seed in units]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Path:
    """Trained once, for all tests, which take copies."""
    torch.set_num_threads(1)
    lab = tmp_path_factory.mktemp("lab")
    trials = trials_of(data, "small", ("conv", 0), ("conv", 1), ("circle", 0), ("circle", 1))
    run_grid([*trials, *trials_of(data, "blind", ("conv", 0))], lab, progress=False)
    return lab


@pytest.fixture
def lab(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "lab"))


@pytest.fixture(scope="module")
def pictured(trained: Path, tmp_path_factory: pytest.TempPathFactory, data: Data) -> Path:
    """The same with its pictures."""
    lab = Path(shutil.copytree(trained, tmp_path_factory.mktemp("pictured") / "lab"))
    make_pictures(lab, rows_of(lab), data, progress=False)
    return lab


def rows_of(lab: Path) -> list[StoredTrial]:
    with Store(lab / STORE_FILE, write=False) as store:
        return store.rows()


def test_made_once_and_shown_again(lab: Path, data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(lab)
    assert report_pictures(lab, rows) == []
    first, second = make_pictures(lab, rows, data)
    assert "pictures of" in capsys.readouterr().err
    assert list(first["trials"].values()) == [rows[0].id, rows[1].id, rows[2].id]  # two seeds of conv, one of circle
    assert list(first["trials"]) == ["conv", "conv (other seed)", "circle"]
    assert len(first["figures"]) == 7
    assert first["problems"] == []
    assert [row[0] for row in first["table"]] == ["model", "conv", "circle"]
    kept = (lab / PICTURES_FILE).read_bytes()
    assert make_pictures(lab, rows, data) == [first, second] == read_pictures(lab)
    assert capsys.readouterr().err == ""
    assert (lab / PICTURES_FILE).read_bytes() == kept

    _, page = publish(lab)
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)">', text)
    assert len(found) == text.count("<img") == len(first["figures"]) + len(second["figures"])
    for alt, png in found:
        assert len(alt) > 50
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            assert image.width == 720
    assert "img-src data:" in text
    assert not re.search(r'(src|href)="https?:', text)
    assert len(kept) < 400_000


def test_what_fails_is_said_in_the_report(lab: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(lab)
    small_ones, blind_ones = make_pictures(lab, rows, data, progress=False)
    assert blind_ones["problems"] == ["conv: no receptive field: layer='1.4': no gradient passes from it to the images"]
    titles = [figure["title"] for figure in blind_ones["figures"]]
    assert "Kernel classes by stage" in titles
    assert not any("receptive" in title for title in titles)

    (lab / PICTURES_FILE).unlink()
    shutil.rmtree(lab / "trials" / rows[2].id)  # circle's network is lost
    make_pictures(lab, rows, data, progress=False)
    text = publish(lab)[1].read_text(encoding="utf-8")
    assert "there are no pictures: " in text
    assert "no gradient passes from it to the images" in text
    assert text.count("<img") == len(blind_ones["figures"])

    # What had no pictures at all is tried again: the cause may be gone.
    shutil.copytree(lab / "trials" / rows[3].id, lab / "trials" / rows[2].id)
    again = make_pictures(lab, rows, data, progress=False)
    assert sorted(len(group["figures"]) for group in again) == sorted([len(titles), len(small_ones["figures"])])

    (lab / PICTURES_FILE).unlink()
    monkeypatch.setattr("convswap.see.draw.picture.Picture.png", lambda self: 1 / 0)
    groups = make_pictures(lab, rows, data, progress=False)
    assert all(not group["figures"] for group in groups)
    assert "Low-pass filtering could not be drawn: ZeroDivisionError: division by zero" in groups[0]["problems"]
    assert publish(lab)[1].read_text(encoding="utf-8").count("could not be drawn") == 7 + len(titles)


def test_stopped_by_hand(lab: Path, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convswap.see.compare_models", stop)
        with pytest.raises(KeyboardInterrupt) as caught:
            make_pictures(lab, rows_of(lab), data)
    assert "all trainings are finished" in caught.value.__notes__[0]
    assert not (lab / PICTURES_FILE).exists()
    assert len(make_pictures(lab, rows_of(lab), data, progress=False)) == 2


def test_new_networks_take_the_place_of_the_old_picture(pictured: Path, tmp_path: Path, data: Data) -> None:
    lab = Path(shutil.copytree(pictured, tmp_path / "lab"))
    run_grid(trials_of(data, "small", ("ic", 0)), lab, progress=False)
    grid = [row for row in rows_of(lab) if row.trial.unit == "ic"]
    groups = make_pictures(lab, grid, data, progress=False)
    assert [list(group["trials"]) for group in groups] == [
        ["conv"],
        ["conv", "conv (other seed)", "circle", "ic"],
    ]
    gone = [row for row in rows_of(lab) if row.trial.unit != "circle"]
    assert [list(group["trials"]) for group in report_pictures(lab, gone)] == [["conv"]]


def test_the_page_stays_small(pictured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_pictures(pictured)
    monkeypatch.setattr(module, "_MOST", 1000)
    first, second = report_pictures(pictured, rows_of(pictured))
    assert (first["figures"], first["left_out"]) == (whole[0]["figures"], "")
    assert second["figures"] == []
    assert PICTURES_FILE in second["left_out"]
    assert second["left_out"] in publish(pictured)[1].read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["{", "[]", '{"groups": 3}', '{"groups": [{"model": "a"}]}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PICTURES_FILE).write_text(text)
    with pytest.raises(StoreError, match=f"{PICTURES_FILE} is damaged.*delete it"):
        read_pictures(tmp_path)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "compare",
        "--units",
        "conv,circle",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--no-latency",
        "--lab",
        str(tmp_path),
    ]
    assert main([*command, "--no-pictures"]) in (0, None)
    assert not (tmp_path / PICTURES_FILE).exists()
    assert "What was learned" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(command) in (0, None)
    assert "pictures of cifar_resnet8 made in" in capsys.readouterr().err
    kept = json.loads((tmp_path / PICTURES_FILE).read_text(encoding="utf-8"))
    assert len(kept["groups"][0]["figures"]) == 7
    assert main(["report", str(tmp_path)]) in (0, None)
    assert "What was learned" in (tmp_path / "report.html").read_text(encoding="utf-8")
