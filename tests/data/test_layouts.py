"""Which folders are parts and classes: understood in any case and spelling, or refused in one line, never guessed."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from convswap.data import suffixes
from convswap.data.parts import PART_NAMES, looks_like_part, part_of

from .layouts import folder, image, load, refused, split


@pytest.fixture(autouse=True)
def _no_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of phones are files that nobody reads here, whether pillow-heif is installed or not."""
    monkeypatch.setattr(suffixes, "find_spec", lambda name: None)


@pytest.mark.parametrize("test", [name for part in ("val", "test") for name in PART_NAMES[part]])
@pytest.mark.parametrize("form", [str.lower, str.upper, str.title])
def test_every_name_of_a_part_is_understood_in_any_case(tmp_path: Path, test: str, form) -> None:
    data = load(split(tmp_path, form("training"), form(test)))
    assert data.class_names == ("ant", "bee")
    assert (len(data.train), len(data.test), data.validation) == (6, 6, None)
    assert all(form(test) in path.parts for path in data.test.paths)


UNCLEAR = [
    "train2",
    "test_set",
    "Validation (1)",
    "unlabelled",
    "trainA",
    "testdata",
    "fold_1",
    "hold-out",
    "train - Copy",
]


@pytest.mark.parametrize("name", UNCLEAR)
@pytest.mark.parametrize("beside", ["classes", "parts"])
def test_what_looks_like_a_part_is_refused_with_the_rename(tmp_path: Path, name: str, beside: str) -> None:
    root = folder(tmp_path, {"ant": 3, "bee": 3}) if beside == "classes" else split(tmp_path, "train", "val")
    split(root, name)
    part = looks_like_part(name)
    assert part is not None
    refused(root, name, "looks like a part", f"rename it to {part}" if part else "train or val or test")


@pytest.mark.parametrize(
    "name", ["train station", "test tube", "evaluators", "trains", "vallota", "devil", "ants", "fold"]
)
def test_classes_that_only_begin_like_a_part_stay_classes(tmp_path: Path, name: str) -> None:
    assert part_of(name) is None
    assert looks_like_part(name) is None
    assert load(folder(tmp_path, {"ant": 3, name: 3})).class_names == tuple(sorted(["ant", name]))


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    refused(split(tmp_path, "train", "val", "Valid"), "two folders for one part", "'Valid'", "'val'")


@pytest.mark.parametrize(
    ("layout", "fragments"),
    [
        ({"train/ant": 2, "train/bee": 2, "val/ant": 2, "val/bee": 2, "extra": 2}, ["beside them", "'extra'"]),
        ({"val/ant": 2, "val/bee": 2}, ["'val' but no train folder"]),
        ({"photos/ant": 2, "photos/bee": 2}, ["one folder only; name that one", "/photos"]),
        ({"photos/train/ant": 2, "photos/val/ant": 2}, ["one folder only; name that one", "/photos"]),
        ({"one/train/ant": 2, "two/ant": 2, "two/bee": 2}, ["side by side", "/one"]),
        ({"one/train/ant": 2, "two/train/ant": 2}, ["holds data sets ('one', 'two')", "/one/train"]),
        ({"ant/train": 2, "ant/val": 2, "bee/train": 2, "bee/val": 2}, ["parts above them: PATH/train/CLASS"]),
        ({"train/ant/val": 2, "train/bee": 2, "val/ant": 2, "val/bee": 2}, ["train/ant/val is a part inside a class"]),
        ({"train/ant": 2, "train/bee": 2, "train/valid": 2, "test/ant": 2}, ["train/valid may be a part or a class"]),
        ({"train/images": 2, "train/labels": 2, "val/images": 2}, ["'images', 'labels'", "boxes or masks"]),
        ({"train/ant": 2, "train/bee": 2, "val": 4}, ["val has no class folders; its 4 images have no label"]),
        ({"train/ant": 2, "train/bee": 2, "val/ant": 2, "val/cow": 2}, ["class 'cow', which", "lacks"]),
        ({"train/ant": 2, "train/bee": 2, "val/ant": 2, "val/bees": 2}, ["class 'bees'", "did you mean 'bee'?"]),
        ({"ant": 2, "Ant": 2}, ["'Ant' and 'ant'", "differ only in case"]),
        ({"ant": 2, "ant ": 2}, ["'ant' and 'ant '", "differ only in case, spaces"]),
        ({"ant": 2, "bee": 0}, ["class folder", "bee holds no image; put images there, or remove the folder"]),
        ({"train/ant": 2, "train/bee": 2, "val/ant": 2, "val/bee": 0}, ["val/bee holds no image"]),
    ],
)
def test_a_layout_that_could_mean_two_things_is_refused(tmp_path: Path, layout, fragments: list[str]) -> None:
    refused(folder(tmp_path, layout), *fragments)


def test_a_roboflow_export_works(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "valid", "test")
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        (root / name).write_text("exported")
    data = load(root)
    assert (len(data.train), len(data.validation or ()), len(data.test)) == (6, 6, 6)
    assert str(data.description) == (
        "2 classes (ant 3, bee 3), 6 training, 6 validation and 6 test images of 6x4, RGB; valid is watched during "
        "training, test is run once at the end"
    )


@pytest.mark.parametrize(("wanted", "tested", "idle"), [("val", "valid", "test"), ("test", "test", "valid")])
def test_eval_split_chooses(tmp_path: Path, wanted: str, tested: str, idle: str) -> None:
    data = load(split(tmp_path, "train", "valid", "test"), eval_split=wanted)
    assert data.validation is None
    assert {path.parts[-3] for path in data.test.paths} == {tested}
    assert f"{idle} is not used" in str(data.description)
    assert data.options == {"eval_split": wanted}
    assert load(tmp_path, eval_split=wanted).fingerprint == data.fingerprint != load(tmp_path).fingerprint


def test_eval_split_of_an_absent_part_is_refused(tmp_path: Path) -> None:
    refused(split(tmp_path / "a", "train", "valid"), "eval_split='test'", "valid", eval_split="test")
    refused(folder(tmp_path / "b", {"ant": 5, "bee": 5}), "eval_split='val'", "a fifth", eval_split="val")
    refused(tmp_path / "a", "eval_split='both' is not allowed; choose one of", eval_split="both")


def test_a_part_without_labels_can_be_left_out(tmp_path: Path) -> None:
    root = folder(split(tmp_path, "train", "val"), {"test": 4})
    refused(root, "test has no class folders; its 4 images have no label")
    assert len(load(root, eval_split="val").test) == 6


def test_an_accent_stored_in_another_way_is_the_same_class(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    data = load(folder(tmp_path, {f"train/{one}": 2, "train/bee": 2, f"val/{other}": 3, "val/bee": 2}))
    assert data.class_names == ("bee", one)
    assert data.test.labels == [0, 0, 1, 1, 1]
    refused(folder(tmp_path, {f"train/{other}": 2}), "the way accents are stored")


def test_a_class_without_evaluation_images_is_named(tmp_path: Path) -> None:
    data = load(folder(split(tmp_path, "train", "val"), {"train/cow": 2}))
    assert data.test.labels == [0, 0, 0, 1, 1, 1]
    assert "val has no image of cow" in str(data.description)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".thumbnails"])
@pytest.mark.parametrize("place", ["", "train", "train/ant", "train/ant/deep"])
def test_hidden_folders_are_never_read(tmp_path: Path, name: str, place: str) -> None:
    root = split(tmp_path, "train", "val")
    before = load(root)
    image(root / place / name / "ant" / "0.png")
    image(root / place / "._0.png" if place else root / "._0.png")
    after = load(root)
    assert after.fingerprint == before.fingerprint
    assert after.class_names == ("ant", "bee")
    assert f"1 hidden folder is not read ({name})" in str(after.description)


@pytest.mark.parametrize(
    ("link", "target", "fragment"),
    [
        ("train/ant/up", "..", "is a link back to"),
        ("train/ant/self", ".", "is a link back to"),
        ("train/ant/top", "../../..", "is a link to a folder above it"),
        ("train/ant/beyond", "../../../..", "is a link to a folder above it"),
        ("train/cow", "ant", "is a link back to"),
        ("val/zoo", "../train", "is a link back to"),
    ],
)
def test_a_link_into_the_tree_is_refused_by_name(tmp_path: Path, link: str, target: str, fragment: str) -> None:
    root = split(tmp_path / "set", "train", "val")
    (root / link).symlink_to(target, target_is_directory=True)
    refused(root, f"{link} {fragment}", "its images would count twice; remove the link")


def test_a_folder_linked_twice_is_refused(tmp_path: Path) -> None:
    root, other = split(tmp_path / "set", "train", "val"), folder(tmp_path / "other", {".": 3})
    (root / "train" / "cow").symlink_to(other)
    (root / "val" / "cow").symlink_to(other)
    refused(root, "val/cow is the same folder as", "train/cow")


def test_a_circle_outside_is_refused(tmp_path: Path) -> None:
    root, other = split(tmp_path / "set", "train", "val"), folder(tmp_path / "other", {".": 3})
    (other / "again").symlink_to(other)
    (root / "train" / "cow").symlink_to(other)
    refused(root, "train/cow/again is the same folder as", "train/cow")


def test_links_to_folders_and_files_elsewhere_work(tmp_path: Path) -> None:
    root, other = split(tmp_path / "set", "train", "val"), folder(tmp_path / "other", {"a": 4, "b": 1})
    (root / "train" / "cow").symlink_to(other / "a")
    (root / "val" / "ant" / "linked.png").symlink_to(other / "b" / "0.png")
    data = load(root)
    assert data.class_names == ("ant", "bee", "cow")
    assert (len(data.train), len(data.test)) == (10, 7)
    (tmp_path / "link").symlink_to(root)
    assert load(tmp_path / "link").fingerprint == data.fingerprint


@pytest.mark.parametrize("place", ["train/ant/lost.png", "train/ant/lost", "train/lost"])
def test_a_link_to_nothing_is_named(tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    root = split(tmp_path, "train", "val")
    (root / place).symlink_to(tmp_path / "nowhere.png")
    refused(root, "1 of 13 images", f"{place} (a link that leads nowhere)", "--skip-unreadable")
    data = load(root, skip_unreadable=True)
    assert len(data.train) == 6
    assert f"1 unreadable file is left out ({place} (a link that leads nowhere))" in str(data.description)


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    os.mkfifo(root / "train" / "ant" / "pipe.png")
    refused(root, "train/ant/pipe.png (not a file)")


@pytest.mark.parametrize("make", [os.link, lambda source, target: os.symlink(Path(source).name, target)])
def test_one_file_twice_counts_once_or_is_refused(tmp_path: Path, make) -> None:
    root = split(tmp_path, "train", "val")
    make(root / "train/ant/0.png", root / "train/ant/twin.png")
    data = load(root)
    assert len(data.train) == 6
    assert "1 link to images already there not counted again (train/ant/twin.png)" in str(data.description)
    os.link(root / "train/ant/1.png", root / "val/bee/leak.png")
    refused(root, "val/bee/leak.png and", "train/ant/1.png are one file")


def test_images_that_nobody_reads_are_counted_and_named_by_class(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    for name in ("train/ant/a.heic", "train/ant/b.HEIC", "val/ant/c.svg", "train/bee/0001", "train/bee/d.npy"):
        (root / name).write_bytes(b"an image of another kind")
    (root / "train/bee/Thumbs.db").write_bytes(b"Windows")
    data = load(root)
    assert data.description is not None
    assert data.description.left_out == {"ant": {".heic": 2, ".svg": 1}, "bee": {"without suffix": 1, ".npy": 1}}
    assert (
        "; 5 files are no images we read (.heic 2 in ant, .svg 1 in ant, without suffix 1 in bee, .npy 1 in bee)"
        in (str(data.description))
    )


@pytest.mark.parametrize(
    ("suffix", "fix"),
    [(".heic", 'pip install "convswap[heic]"'), (".dcm", "convert them to .png"), ("", "give them the suffix")],
)
def test_a_class_of_unread_images_is_refused_with_the_fix(tmp_path: Path, suffix: str, fix: str) -> None:
    root = split(tmp_path, "train", "val")
    for file in (root / "train" / "ant").iterdir():
        file.rename(file.with_suffix(suffix))
    refused(root, "train/ant holds no image that can be read, but 3 files", fix)


def test_images_without_a_class_are_named(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    image(root / "val" / "stray.png")
    image(root / "cover.png")
    assert "2 images in no class folder and not used (cover.png)" in str(load(root).description)


def test_a_folder_that_is_called_like_an_image(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    (root / "train/ant/weird.jpg").mkdir()
    assert "the folder train/ant/weird.jpg holds no image" in str(load(root).description)
    image(root / "train/ant/weird.jpg/inside.png")
    assert len(load(root).train) == 7


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = split(tmp_path, "train", "val")
    odd = Path(os.fsdecode(os.fsencode(root / "train" / "ant") + b"/\xe9.png"))
    image(root / "train/ant/plain.png").rename(odd)
    assert len(load(root).train) == 7
    odd.write_bytes(b"")
    refused(root, r"train/ant/\xe9.png (not an image)")
    odd.unlink()
    image(root / "train/ant/two\nlines.png").write_bytes(b"")
    refused(root, r"train/ant/two\nlines.png (not an image)")
    (root / "train/ant/two\nlines.png").unlink()
    (root / "train" / "bee").rename(Path(os.fsdecode(os.fsencode(root / "train") + b"/b\xff")))
    refused(root, r"train/b\xff: the name is not valid UTF-8")


def test_a_folder_that_may_not_be_read_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = split(tmp_path, "train", "val")
    (root / "train/ant/locked").mkdir()
    scandir = os.scandir

    def scan(path: Path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    refused(root, "train/ant/locked cannot be read (Permission denied)")
