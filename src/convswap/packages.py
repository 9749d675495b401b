"""The packages of the extras: the names of each package, and what needs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """A package that `pip install convswap` alone does not bring.

    Attributes:
        name: what Python imports.
        purpose: what needs the package, for sentences such as "PURPOSE needs it".
        extra: the extra that brings the package.
        distribution: what pip installs, where its name differs.
    """

    name: str
    purpose: str
    extra: str = "lab"
    distribution: str = ""

    @property
    def installed_as(self) -> str:
        """The name pip knows."""
        return self.distribution or self.name

    @property
    def how_to_install(self) -> str:
        """The command that brings the package."""
        return f'pip install "convswap[{self.extra}]"'


OPTIONAL = (
    Package("typer", "the command line"),
    Package("rich", "every table and progress bar on the terminal"),
    Package("timm", "every model by name"),
    Package("torchvision", "reading image folders, downloading data sets, torchvision's models"),
    Package("lightning_fabric", "training", distribution="lightning-fabric"),
    Package("numpy", "loading data"),
    Package("sklearn", "the embedded digits", distribution="scikit-learn"),
    Package("scipy", "every interval and test"),
    Package("filelock", "opening a lab"),
    Package("altair", "the charts of the report"),
    Package("vl_convert", "a report that opens without a network", distribution="vl-convert-python"),
    Package("jinja2", "the report"),
    Package("markupsafe", "the report"),
    Package("PIL", "reading and writing images", distribution="pillow"),
    Package("pillow_heif", "reading .heic photographs", extra="heic", distribution="pillow-heif"),
    Package("matplotlib", "the pictures of see and of the report"),
    Package("pytest", "checking units", extra="testing"),
    Package("hypothesis", "checking units", extra="testing"),
    Package("segmentation_models_pytorch", "a recipe", "hosts", "segmentation-models-pytorch"),
    Package("lightning", "a recipe", "hosts"),
    Package("torch_pruning", "pruning", "prune", "torch-pruning"),
    Package("onnx", "ONNX export", extra="onnx"),
    Package("onnxscript", "ONNX export", extra="onnx"),
    Package("onnxruntime", "running ONNX models", extra="onnx"),
)


def find_optional(name: str) -> Package | None:
    """The row of an imported name (`PIL.Image`), or None if no extra brings that package."""
    top = name.partition(".")[0]
    return next((package for package in OPTIONAL if package.name == top), None)
