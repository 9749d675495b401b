"""The kept facts on files: unchanged files are not read again, changed ones always are, a damaged file does no harm."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from convswap.data import hash_cache, inspection

from .layouts import image, load, split


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    inspect = inspection._inspect
    monkeypatch.setattr(inspection, "_inspect", lambda path: names.append(path.name) or inspect(path))
    return names


def kept(folder: Path) -> Path:
    (file,) = folder.glob("images-*.json")
    return file


def test_an_unchanged_file_is_read_once(tmp_path: Path, read: list[str]) -> None:
    root, cache = split(tmp_path / "set", "train", "val"), tmp_path / "lab"
    first = load(root, cache=cache)
    assert len(read) == 12
    second = load(root, cache=cache)
    assert len(read) == 12
    assert second.fingerprint == first.fingerprint
    assert str(second.description) == str(first.description)
    image(root / "train" / "ant" / "new.png")
    third = load(root, cache=cache)
    assert read[12:] == ["new.png"]
    assert third.fingerprint == load(root).fingerprint != first.fingerprint


def test_exchanged_images_of_one_size_and_time_are_another_data_set(tmp_path: Path, read: list[str]) -> None:
    """Renaming keeps size and time of writing; so do archives, which give all files one time."""
    root, cache = split(tmp_path / "set", "train", "val"), tmp_path / "lab"
    for file in root.rglob("*.png"):
        file.write_bytes(file.read_bytes().ljust(400, b"\0"))
        os.utime(file, ns=(0, 0))
    before = load(root, cache=cache).fingerprint
    one, other = root / "train/ant/0.png", root / "train/bee/0.png"
    sizes = {path.stat().st_size for path in (one, other)}
    one.rename(root / "x")
    other.rename(one)
    (root / "x").rename(other)
    assert len(sizes) == 1
    assert {path.stat().st_mtime_ns for path in (one, other)} == {0}
    read.clear()
    assert load(root, cache=cache).fingerprint == load(root).fingerprint != before
    assert sorted(read)[:2] == ["0.png", "0.png"]


def test_a_file_rewritten_with_its_size_is_another_data_set(tmp_path: Path) -> None:
    root, cache = split(tmp_path / "set", "train", "val"), tmp_path / "lab"
    before = load(root, cache=cache).fingerprint
    file = root / "val/bee/2.png"
    content = bytearray(file.read_bytes())
    time = file.stat().st_mtime_ns
    content.extend(b"\0")
    file.write_bytes(content)
    os.utime(file, ns=(time, time))
    assert load(root, cache=cache).fingerprint == load(root).fingerprint != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "\0" * 99,
        lambda text: text.replace('"digest"', '"dig"'),
        lambda text: text.replace('"facts": {', '"facts": [{').replace('}, "', '}], "'),
        lambda text: json.dumps({**json.loads(text), "version": "another"}),
        lambda text: json.dumps({**json.loads(text), "files": 3}),
    ],
)
def test_a_damaged_file_does_no_harm(tmp_path: Path, damage, read: list[str]) -> None:
    root, cache = split(tmp_path / "set", "train", "val"), tmp_path / "lab"
    first = load(root, cache=cache)
    whole = kept(cache).read_text()
    kept(cache).write_text(damage(whole))
    read.clear()
    assert load(root, cache=cache).fingerprint == first.fingerprint
    assert len(read) == 12
    assert kept(cache).read_text() == whole


def test_unreadable_files_are_asked_again(tmp_path: Path, read: list[str]) -> None:
    root, cache = split(tmp_path / "set", "train", "val"), tmp_path / "lab"
    (root / "val/bee/2.png").write_bytes(b"")
    load(root, cache=cache, skip_unreadable=True)
    read.clear()
    load(root, cache=cache, skip_unreadable=True)
    assert read == ["2.png"]


def test_a_place_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    root = split(tmp_path / "set", "train", "val")
    (tmp_path / "file").write_text("no folder")
    assert load(root, cache=tmp_path / "file").fingerprint == load(root).fingerprint


def test_two_data_sets_share_a_folder(tmp_path: Path, read: list[str]) -> None:
    one, two = (split(tmp_path / name, "train", "val") for name in ("one", "two"))
    for _ in range(2):
        for root in (one, two):
            load(root, cache=tmp_path / "lab")
    assert len(read) == 24
    assert len(list((tmp_path / "lab").iterdir())) == 2
    assert hash_cache.inspect_entries([], one, None) == []
