"""Run under torchrun by test_parallel.py: train with two processes and write down what came out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from small_training import Bounded, make_data, make_model, make_recipe

from convswap.errors import TrainingError, UsageError
from convswap.train import fit, regularized


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    data = make_data()
    with pytest.raises(UsageError, match="devices=2"):
        fit(make_model(), data, make_recipe(), seed=0, device="cpu", devices=1)
    model = make_model(seed=rank)  # the first process's weights count
    recipe = make_recipe(epochs=2)
    result = fit(model, data, recipe, seed=0, directory=folder, progress=False, device="cpu", devices=2)
    again = fit(make_model(), data, recipe, seed=0, directory=folder, progress=False, device="cpu", devices=2)
    assert again.resumed_after == 2
    torch.save({"model": model.state_dict(), "history": result.history}, folder / f"rank{rank}.pt")
    bounded = Bounded(seed=rank)
    fit(bounded, data, make_recipe(optimizer="adam"), seed=0, progress=False, device="cpu", devices=2)
    assert bounded.calls == 1 + 3 * 3
    assert abs(float(bounded[0].weight.detach().abs().max()) - Bounded.BOUND) < 1e-6
    torch.save(bounded.state_dict(), folder / f"bounded{rank}.pt")
    for methods in (["jocor"], ["mutual_learning"], ["self_distillation", "mixup", "cutout:4"], ["augmix"]):
        trained = make_model(seed=rank)
        name = "-".join(methods).replace(":", "")
        regular = regularized(make_recipe(epochs=2), methods)
        fit(trained, data, regular, seed=0, directory=folder / name, progress=False, device="cpu", devices=2)
        torch.save(trained.state_dict(), folder / f"{name}{rank}.pt")
    broken = make_model()
    if rank == 1:
        broken.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    with pytest.raises(TrainingError) as caught:
        fit(broken, data, recipe, seed=0, progress=False, device="cpu", devices=2)
    (folder / f"error{rank}.txt").write_text(str(caught.value))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
