"""Networks that others trained, rebuilt of our units: they get exactly as many images right as the authors' arithmetic.

`python -m benchmarks.studies.oracles` asks the same of all 10,000 test images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.oracles import ORACLES, forms, predictions


@pytest.mark.parametrize("name", ORACLES)
def test_a_trained_network_gives_its_figure(name: str, shared: Path, data_root: Path) -> None:
    oracle, data = ORACLES[name], np.load(data_root / "cifar10.npz")
    images, labels = data["x_test"][:1000], data["y_test"][:1000]
    found = {
        form: predictions(model, oracle, images) for form, model in forms(oracle, shared / "data" / "weights").items()
    }
    plain = found["as rebuilt"]
    assert (plain == labels).sum() == oracle.figure[1]
    for form, classes in found.items():
        assert (classes == plain).all(), form
