"""A trial: one (model, surgery, data, recipe, seed) as plain data, with a content hash as its id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import StoreError, UsageError, check_choice, check_whole
from ..train.seeding import MOST_SEED
from .mixed import is_mixed, short_id

BASELINE = "conv"
"""The unit whose trials train the network as it is. Every other unit is compared with this one."""
ENOUGH_SEEDS = 3
"""A result from fewer finished seeds is shown, but neither ranked nor tested."""

_KEYS = {
    "weights": ["file", "sha256"],
    "normalization": ["mean", "std"],
    "network": ["source", "structure"],
    "parent": ["file", "run", "sha256"],
    "teacher": ["file", "kind", "model", "sha256"],
}
_LATER = {"teacher"}
"""Fields that a description leaves out where they are None, so that older descriptions and ids stay valid."""
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
    "network": (dict, type(None)),
    "parent": (dict, type(None)),
    "data_options": (dict,),
    "teacher": (dict, type(None)),
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
        unit: registry name, or `mixed:NAME` for several units at once.
        unit_options: the unit's options, or the content of the mixed plan (`Mixture.as_dict()`).
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
        network: None, or `{"structure", "source"}` of the network that `model` names, see `describe_network`. A
            training refuses to begin with another network than the described one.
        parent: None, or `{"file", "run", "sha256"}` of the saved model that the training goes on from, with its units:
            see `describe_parent`. `unit` is then swapped in on top, or is `conv` and nothing is swapped.
        data_options: the options of `load_data` that decide what the data are, off their defaults (`Data.options`).
        teacher: None, or `{"kind", "file", "model", "sha256"}` of the trained network that the recipe's
            `logit_distillation` listens to, see `convswap.lab.teacher`.
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
    network: dict[str, str | None] | None = None
    parent: dict[str, str | None] | None = None
    data_options: dict[str, str] = field(default_factory=dict)
    teacher: dict[str, str | None] | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        for name, types in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise UsageError(f"{name}={value!r} is not allowed; it must be {_type_names(types)}")
            if isinstance(value, dict):
                object.__setattr__(self, name, _plain(name, value))
        check_choice("start", self.start, ("fresh", "warm"))
        check_whole("seed", self.seed, 0, MOST_SEED)
        for name, keys in _KEYS.items():
            value = getattr(self, name)
            if value is not None and sorted(value) != keys:
                raise UsageError(f"{name}={value!r} is not allowed; it must have exactly the keys {str(keys)[1:-1]}")
        if self.parent is not None and (self.weights is not None or self.pretrained):
            raise UsageError("parent= excludes weights= and pretrained=: the parent's weights are the start")
        if is_mixed(self.unit) and self.where is not None:
            raise UsageError(f"where={self.where!r} is not allowed; the entries of {self.unit!r} have their own places")
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
        identity = self._as_dict()
        # "imagefolder:/some/where" may be the same data at another path. The fingerprint identifies the data.
        identity["data"] = self.data.partition(":")[0]
        if self.weights is not None:
            identity["weights"] = self.weights["sha256"]
        if self.parent is not None:
            identity["parent"] = {key: self.parent[key] for key in ("run", "sha256")}
        if self.teacher is not None:
            identity["teacher"] = {key: self.teacher[key] for key in ("kind", "model", "sha256")}
        return identity

    def differences(self, other: Trial) -> list[str]:
        """The names of what makes this other work than `other`. Empty if both have one id."""
        mine, theirs = self.identity(), other.identity()
        return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]

    def to_json(self) -> str:
        """The description as canonical JSON."""
        return canonical_json(self._as_dict())

    def _as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None or name not in _LATER}

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
        missing = known - values.keys() - _LATER
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
        """The unit with its options and placement, for display: `circle(radius='learnable') where 3x3`.

        For a mixed plan its name and the first digits of its content's hash: `mixed:plan 86bd54`.
        """
        options = ", ".join(f"{key}={value!r}" for key, value in self.unit_options.items())
        text = f"{self.unit}({options})" if options else self.unit
        text = f"{self.unit} {short_id(self.unit_options)}" if is_mixed(self.unit) else text
        text = f"{text} where {self.where}" if self.where else text
        if self.parent is None:
            return text
        start = self.parent["run"] or str(self.parent["sha256"])
        return f"{text} from {start[:8]}" if self.unit != BASELINE else f"on from {start[:8]}"


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


def describe_parent(file: str | Path, run: str | None) -> dict[str, str | None]:
    """A saved model in the form in which a trial holds its parent, with the id of its run if there is one.

    Raises:
        StoreError: the file cannot be read.
    """
    return {**describe_weights(file), "run": run}


def _plain(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy made of JSON types (tuples become lists), or an error that names the field."""
    try:
        copy = json.loads(canonical_json(value))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}={value!r} is not allowed; it must be made of JSON values: {error}") from error
    return copy


def _type_names(types: tuple[type, ...]) -> str:
    return " or ".join("None" if t is type(None) else t.__name__ for t in types)
