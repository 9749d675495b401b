"""The predictions that a trial keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convswap.data import load_data
from convswap.errors import StoreError
from convswap.lab import Trial, run_trial
from convswap.lab.predictions import PREDICTIONS_FILE, PredictionFiles
from convswap.lab.run import MODEL
from convswap.models import load
from convswap.train import evaluate
from convswap.train.recipes import digits_recipe


def test_a_trial_keeps_the_predictions_of_its_last_epoch(tmp_path: Path) -> None:
    data = load_data("digits")
    trial = Trial(
        model="cifar_resnet8",
        data="digits",
        data_fingerprint=data.fingerprint,
        recipe=digits_recipe(epochs=1).as_dict(),
        seed=0,
    )
    result = run_trial(trial, tmp_path / trial.id, data=data, device="cpu", progress=False)
    correct = PredictionFiles(tmp_path).correct(trial.id)
    assert correct is not None
    assert len(correct) == len(data.test)
    assert correct.mean() == pytest.approx(result["test_accuracy"], abs=1e-12)
    again = evaluate(load(tmp_path / trial.id / MODEL).eval(), data, device="cpu").predictions
    with np.load(tmp_path / trial.id / PREDICTIONS_FILE) as saved:
        assert saved["predictions"].tolist() == again.tolist()
        assert saved["labels"].dtype == np.uint8
    assert (tmp_path / trial.id / PREDICTIONS_FILE).stat().st_size < 2000


def test_an_older_trial_has_none(tmp_path: Path) -> None:
    assert PredictionFiles(tmp_path).correct("0" * 16) is None


def test_damaged_files_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a" / PREDICTIONS_FILE
    path.parent.mkdir()
    files = PredictionFiles(tmp_path)
    np.savez_compressed(path, predictions=np.zeros(5), labels=np.zeros(5))
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"predictions\.npz is damaged .*delete it"):
            files.correct("a")
    np.savez_compressed(path, predictions=np.zeros(5), labels=np.zeros(4))
    with pytest.raises(StoreError, match="damaged"):
        files.correct("a")
    np.savez_compressed(path, labels=np.zeros(4))
    with pytest.raises(StoreError, match="damaged"):
        files.correct("a")
