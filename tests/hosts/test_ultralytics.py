"""YOLO with units: trained by ultralytics' own trainer, saved, continued, fused and exported by it."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.surgery.sites import is_unit
from convswap.units import get_unit

os.environ["YOLO_OFFLINE"] = "True"
ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is AGPL-3.0 and in no extra: install it yourself")

from ultralytics.nn.tasks import DetectionModel  # noqa: E402

from convswap.hosts.ultralytics import adapt, unit_trainer  # noqa: E402

WHERE = "model.[1-4].*"
IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def units(model: nn.Module) -> int:
    return sum(map(is_unit, model.modules()))


def opened(model: nn.Module) -> nn.Module:
    """The gates of ic start closed: open them as training would, in float64."""
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for unit in filter(is_unit, model.modules()):
            for parameter in unit.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def boxes(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(x)
    return output[0] if isinstance(output, tuple) else output


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four images with a square each, and the arguments of a short training."""
    root = tmp_path_factory.mktemp("squares")
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for number in range(4):
            picture = np.random.default_rng(number).integers(0, 60, (64, 64, 3), dtype=np.uint8)
            picture[19:45, 19:45] += 150
            Image.fromarray(picture).save(root / "images" / part / f"{number}.png")
            (root / "labels" / part / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: square}}\n")
    quiet = {"plots": False, "verbose": False, "amp": False, "workers": 0, "device": "cpu", "exist_ok": True}
    short = {"epochs": 1, "imgsz": 64, "batch": 2, "optimizer": "SGD", "project": str(root / "runs")}
    return {"data": str(root / "data.yaml"), **quiet, **short}


@pytest.fixture(scope="module")
def plain() -> Any:
    """A YOLO that holds trained weights, as one from a .pt file does."""
    torch.manual_seed(0)
    yolo = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    yolo.ckpt = {"model": yolo.model, "train_args": {}}
    return yolo


@pytest.fixture(scope="module")
def trained(settings: dict[str, Any]) -> Any:
    """A YOLOv8n from scratch, trained with ic units by ultralytics."""
    yolo = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    yolo.train(trainer=unit_trainer(yolo, "ic", where=WHERE), name="ic", **settings)
    return yolo


def test_the_trained_network_has_the_units(trained: Any) -> None:
    """Swapping before `train()` trained 0 units, without a word."""
    planned = len(trained.trainer.plan.replacements)
    assert planned == 12
    assert units(trained.trainer.model) == units(trained.trainer.ema.ema) == planned
    reloaded = ultralytics.YOLO(trained.trainer.last)
    assert units(reloaded.model) == planned
    assert isinstance(reloaded.model, DetectionModel)


def test_the_units_were_trained(trained: Any) -> None:
    gates = [p for n, p in trained.trainer.model.named_parameters() if "gate" in n or "scale" in n]
    assert gates
    assert any(gate.abs().max() > 0 for gate in gates), "ic's gates start closed"


@pytest.mark.parametrize("unit", ["ic", "quantized", "ghost", "circle", "xnor"])
def test_its_fuse_keeps_the_function(unit: str) -> None:
    """ultralytics' own fuse was 2.4e-6 (ic) and 4.1e-2 (quantized) off here; ghost and xnor crashed."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    swapped = convswap.swap(DetectionModel("yolov8n.yaml", verbose=False).eval(), unit, where=WHERE, example_input=x)
    model, x = adapt(opened(swapped)), x.double()
    before = boxes(model, x)
    fused = model.fuse(verbose=False)
    assert fused is model
    assert units(fused) == 0
    assert fused.is_fused()
    torch.testing.assert_close(boxes(fused.fuse(), x), before, rtol=1e-9, atol=1e-9)


def test_trained_weights_reach_the_units(plain: Any, settings: dict[str, Any]) -> None:
    """A swapped model given to ultralytics' trainer lost its function: weights 79 % off, strictly loaded."""
    trainer = unit_trainer(plain, "circle", where=WHERE)(overrides={**settings, "model": "yolov8n.yaml", "name": "t"})
    model = trainer.get_model(plain.model.yaml, plain.model, False)
    for path in ("model.1.conv", "model.2.m.0.cv1.conv"):
        weight = plain.model.get_submodule(path).weight
        torch.testing.assert_close(model.get_submodule(path).effective_weight(), weight, rtol=1e-4, atol=1e-5)
    again = trainer.get_model(plain.model.yaml, model, False)
    for name, tensor in model.state_dict().items():
        assert name.startswith("model.22.cv3") or torch.equal(again.state_dict()[name], tensor), name
    assert again.is_fused() is False


def test_other_units_than_the_checkpoint_s_are_refused(trained: Any, settings: dict[str, Any]) -> None:
    given = {**settings, "model": "yolov8n.yaml", "name": "other"}
    other = unit_trainer(trained, "circle")(overrides=given)
    with pytest.raises(UsageError, match=r"the checkpoint holds ic .*unit='circle'"):
        other.get_model(trained.model.yaml, trained.model, False)
    fused = adapt(copy.deepcopy(ultralytics.YOLO(trained.trainer.last).model)).fuse(verbose=False)
    with pytest.raises(UsageError, match="not allowed; give a YOLO"):
        unit_trainer(nn.Module, "ic")
    assert units(fused) == 0


def test_training_goes_on_from_a_checkpoint_with_units(trained: Any, settings: dict[str, Any]) -> None:
    yolo = ultralytics.YOLO(trained.trainer.last)
    yolo.train(trainer=unit_trainer(yolo, "ic"), name="on", **settings)
    assert units(yolo.trainer.model) == 12


def test_lost_units_are_refused(settings: dict[str, Any]) -> None:
    def rebuild(trainer: Any) -> None:
        trainer.model = DetectionModel("yolov8n.yaml", nc=1, verbose=False)

    yolo = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    yolo.add_callback("on_pretrain_routine_end", rebuild)
    with pytest.raises(SurgeryError, match="model has 0 of 12 units"):
        yolo.train(trainer=unit_trainer(yolo, "ic", where=WHERE), name="lost", **settings)


def test_predict_val_and_export_take_it(trained: Any, settings: dict[str, Any]) -> None:
    """Fused by convswap, all three crashed: 'Identity' object has no attribute 'running_mean'."""
    yolo = ultralytics.YOLO(trained.trainer.last)
    x = torch.rand(1, 3, 64, 64)
    before = boxes(yolo.model, x)
    yolo.model = adapt(convswap.fuse(yolo.model, x))
    given = {"imgsz": 64, "device": "cpu", "verbose": False}
    assert len(yolo.predict(IMAGE, conf=1e-6, **given)) == 1
    assert yolo.val(data=settings["data"], plots=False, workers=0, project=settings["project"], **given) is not None
    file = yolo.export(format="torchscript", imgsz=64, device="cpu")
    exported = torch.jit.load(file)(x)
    torch.testing.assert_close(exported[0] if isinstance(exported, tuple) else exported, before, rtol=1e-3, atol=1e-2)
    swapped = ultralytics.YOLO(trained.trainer.last)
    assert units(swapped.model) == 12
    assert len(swapped.predict(IMAGE, conf=1e-6, **given)) == 1
    assert Path(file).is_file()


@pytest.mark.parametrize("name", ["yolov8n", "yolov10n", "yolo11n"])
@pytest.mark.parametrize("unit", ["binary_weight", "xnor", "quantized", "ghost"])
def test_the_box_integral_stays_and_binary_units_leave_the_outputs(name: str, unit: str) -> None:
    """The box integral was swapped for a random or constant unit: every box wrong."""
    model = DetectionModel(f"{name}.yaml", verbose=False).eval()
    plan = convswap.plan_swap(model, unit, example_input=torch.rand(1, 3, 64, 64))
    taken = {row.path for row in plan.replacements}
    assert not [path for path in taken if "dfl" in path]
    if "output" in get_unit(unit).default_where:
        assert not [p for p in taken if p.endswith(".2") and ".cv" in p], "the last convolutions of the six branches"
