"""A trial: one (model, surgery, data, recipe, seed) as plain data, with a content hash as its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import StoreError, UsageError, check_choice

BASELINE = "conv"
"""The unit whose trials train the network as it is. Every other unit is compared with this one."""
ENOUGH_SEEDS = 3
"""A result from fewer finished seeds is shown, but neither ranked nor tested."""

_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "model_arguments": (dict,),
    "unit": (str,),
    "unit_options": (dict,),
    "where": (str, type(None)),
    "start": (str,),
    "data": (str,),
    "data_fingerprint": (str,),
    "image_size": (int, type(None)),
    "recipe": (dict,),
    "seed": (int,),
    "weights": (dict, type(None)),
    "pretrained": (bool,),
    "normalization": (dict, type(None)),
    "data_options": (dict,),
    "version": (str,),
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The full description of one training. Its computation depends on nothing else.

    A trial of the baseline `conv` trains the untouched network. It has no options, and `where` and `start` are set to
    None and `"fresh"`, so that one baseline serves every placement.

    Attributes:
        model: name for `create_model`.
        model_arguments: further arguments of `create_model`.
        unit: registry name.
        unit_options: the unit's options.
        where: selection string, None for the unit's own placement.
        start: `"fresh"` (training from scratch) or `"warm"` (fine-tuning).
        data: name for `load_data`.
        data_fingerprint: hash of the data's contents.
        image_size: the size that images are brought to, None for the data's own.
        recipe: `Recipe.as_dict()`.
        seed: the seed of everything random.
        weights: None or `{"file", "sha256"}` of the file that training starts from, see `describe_weights`.
        pretrained: start from the model's published weights.
        normalization: None for the data's own, or `{"mean": [...], "std": [...]}` of pixels in 0..1. Trained weights
            need the constants they were trained with.
        data_options: the options of `load_data` that decide what the data are, off their defaults (`Data.options`).
        version: the version of convswap.
    """

    model: str
    data: str
    data_fingerprint: str
    recipe: dict[str, Any]
    seed: int
    model_arguments: dict[str, Any] = field(default_factory=dict)
    unit: str = BASELINE
    unit_options: dict[str, Any] = field(default_factory=dict)
    where: str | None = None
    start: str = "fresh"
    image_size: int | None = None
    weights: dict[str, str] | None = None
    pretrained: bool = False
    normalization: dict[str, list[float]] | None = None
    data_options: dict[str, str] = field(default_factory=dict)
    version: str = __version__

    def __post_init__(self) -> None:
        for name, types in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise UsageError(f"{name}={value!r} is not allowed; it must be {_type_names(types)}")
            if isinstance(value, dict):
                object.__setattr__(self, name, _plain(name, value))
        check_choice("start", self.start, ("fresh", "warm"))
        if self.seed < 0:
            raise UsageError(f"seed={self.seed} is not allowed; choose 0 or a positive number")
        if self.weights is not None and set(self.weights) != {"file", "sha256"}:
            raise UsageError(f"weights={self.weights!r} is not allowed; it must have exactly the keys 'file', 'sha256'")
        if self.normalization is not None and set(self.normalization) != {"mean", "std"}:
            value = self.normalization
            raise UsageError(f"normalization={value!r} is not allowed; it must have exactly the keys 'mean', 'std'")
        if self.unit == BASELINE:
            if self.unit_options:
                raise UsageError(f"unit_options={self.unit_options!r} is not allowed; {BASELINE!r} has no options")
            object.__setattr__(self, "where", None)
            object.__setattr__(self, "start", "fresh")

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """Sixteen hex digits of the description's hash. They are equal for equal work, wherever its files lie."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """The input of the id's hash: the description with file contents in place of paths."""
        identity = self._described()
        # "imagefolder:/some/where" may be the same data at another path. The fingerprint identifies the data.
        identity["data"] = self.data.partition(":")[0]
        if self.weights is not None:
            identity["weights"] = self.weights["sha256"]
        return identity

    def to_json(self) -> str:
        """The description as canonical JSON."""
        return canonical_json(self._described())

    def _described(self) -> dict[str, Any]:
        """The fields. Data options off no default are left out, so that older descriptions and ids stay valid."""
        described = asdict(self)
        if not self.data_options:
            del described["data_options"]
        return described

    @classmethod
    def from_json(cls, text: str) -> Trial:
        """Read a description back.

        Raises:
            StoreError: the text is not a JSON object, a key is missing or unknown, or a value is not allowed.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise StoreError(f"a trial's description is not JSON ({error}): {text[:80]!r}") from error
        if not isinstance(values, dict):
            raise StoreError(f"a trial's description must be a JSON object, got {text[:80]!r}")
        known = {f.name for f in fields(cls)}
        wrong = [f"unknown {sorted(values.keys() - known)}"] if values.keys() - known else []
        missing = known - values.keys() - {"data_options"}
        wrong += [f"missing {sorted(missing)}"] if missing else []
        if wrong:
            raise StoreError(
                f"a trial's description has other keys than convswap {__version__} writes: {', '.join(wrong)}; it is "
                "of another version: use that one, or another folder"
            )
        try:
            return cls(**values)
        except UsageError as error:
            raise StoreError(f"a trial's description is damaged: {error}") from error

    def label(self) -> str:
        """The unit with its options and placement, for display: `circle(radius='learnable') where 3x3`."""
        options = ", ".join(f"{key}={value!r}" for key, value in self.unit_options.items())
        text = f"{self.unit}({options})" if options else self.unit
        return f"{text} where {self.where}" if self.where else text


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, and floats in their shortest exact form.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def describe_weights(file: str | Path) -> dict[str, str]:
    """A weights file in the form that a trial holds: its path, and the hash of its contents, which the id uses.

    Raises:
        StoreError: the file cannot be read.
    """
    path = Path(file).expanduser().absolute()
    try:
        with path.open("rb") as stream:
            return {"file": str(path), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    except OSError as error:
        raise StoreError(f"weights file {str(file)!r} cannot be read: {error.strerror}; check the path") from error


def _plain(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy made of JSON types (tuples become lists), or an error that names the field."""
    try:
        copy = json.loads(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}={value!r} is not allowed; it must be made of JSON values: {error}") from error
    return copy


def _type_names(types: tuple[type, ...]) -> str:
    return " or ".join("None" if t is type(None) else t.__name__ for t in types)
