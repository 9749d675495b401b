"""Reading `--option unit.key=value`, `--units a,b` and files into arguments of the public functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, unknown_name

if TYPE_CHECKING:
    from ..units import UnitSpec


def options_of(spec: UnitSpec) -> dict[str, Any]:
    """A unit's options and their defaults."""
    from ..units.contract import options

    return options.options_of(spec.cls)


def parse_units(text: str) -> dict[str, dict[str, Any]]:
    """`"conv,circle"` as checked unit names, without repetitions. `mixed:FILE` becomes `mixed:NAME` and its content."""
    from ..lab.mixed import is_mixed
    from ..units import get_unit

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--units is empty; give names separated by commas, e.g. --units conv,circle")
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if not is_mixed(name):
            found[get_unit(name).name] = {}
            continue
        mixed, content = _mixed(name)
        if mixed in found:
            raise UsageError(f"--units {text!r} has two plans called {mixed!r}; rename one of the files")
        found[mixed] = content
    return found


def _mixed(name: str) -> tuple[str, dict[str, Any]]:
    """`mixed:FILE` as the name of the plan, which is the file's without folder and suffix, and its content."""
    from ..lab.mixed import PREFIX
    from ..surgery import Mixture

    path = Path(name.removeprefix(PREFIX))
    if not path.name:
        raise UsageError(f"{name!r} names no file; give {PREFIX}FILE, e.g. {PREFIX}plan.json")
    return f"{PREFIX}{path.stem}", Mixture.read(path).as_dict()


def parse_options(assignments: Iterable[str], units: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`["circle.radius=1.2"]` as `{"circle": {"radius": 1.2}}`. With only one unit, its name may be left out.

    Mixed plans keep their content: their options stand in their files.

    A value that parses as JSON (`1.2`, `true`, `null`, `[1, 2]`) is read as JSON. Any other value is a string.
    """
    from ..lab.mixed import is_mixed
    from ..units import get_unit

    result = {unit: dict(content) for unit, content in units.items()}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        unit, dot, key = name.rpartition(".")
        if not equals or not key or (not dot and len(units) != 1):
            form = "KEY=VALUE" if len(units) == 1 else "UNIT.KEY=VALUE"
            raise UsageError(f"--option {assignment!r} is not of the form {form}")
        unit = unit or next(iter(units))
        if unit not in result:
            raise UsageError(f"--option {assignment!r}: unit {unit!r} is not among {', '.join(units)}")
        if is_mixed(unit):
            raise UsageError(f"--option {assignment!r}: the options of {unit!r} stand in its file")
        known = options_of(get_unit(unit))
        if key not in known:
            raise unknown_name(f"option of unit {unit}", key, known)
        result[unit][key] = _typed(value)
    return result


def parse_where(selections: Iterable[str], units: Iterable[str]) -> dict[str, str | None]:
    """`["3x3", "pide=same & *.1"]` as one selection per unit: its own, else the one without a name, else None."""
    own: dict[str, str] = {}
    for text in selections:
        unit, equals, selection = (part.strip() for part in text.partition("="))
        name = unit if equals else ""
        if equals and unit not in units:
            raise UsageError(f"--where {text!r}: unit {unit!r} is not among {', '.join(units)}")
        if name in own:
            whose = f"of unit {name!r}" if name else "of all units"
            raise UsageError(f"--where {text!r}: the places {whose} are already given as {own[name]!r}")
        own[name] = selection if equals else text
        refuse_places(text, [name] if name else units)
    return {unit: own.get(unit, own.get("")) for unit in units}


def refuse_places(where: str | None, units: Iterable[str]) -> None:
    """Raise if `--where` is given for one of these and it is a mixed plan, which has its own places."""
    from ..lab.mixed import is_mixed

    mixed = [unit for unit in units if is_mixed(unit)]
    if where is not None and mixed:
        raise UsageError(
            f"--where {where!r}: the places of {mixed[0]!r} stand in its file; leave --where out, or say whose places "
            "it means, as in --where 'circle=3x3' of compare"
        )


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """`["ema=0.999", "schedule=cosine"]` as fields of a recipe.

    Raises:
        UsageError: an assignment has no `=`, or a field is unknown or given twice.
    """
    from dataclasses import fields

    from ..train import Recipe

    known = [field.name for field in fields(Recipe)]
    found: dict[str, Any] = {}
    for assignment in assignments:
        field, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals or not field:
            raise UsageError(f"--set {assignment!r} is not of the form FIELD=VALUE, e.g. --set ema=0.999")
        if field not in known:
            raise unknown_name("recipe field", field, known, otherwise="see convswap recipes small_image")
        if field in found:
            raise UsageError(f"--set gives {field} twice, as {found[field]!r} and {_typed(value)!r}; give it once")
        found[field] = _typed(value)
    return found


def _typed(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except ValueError:
        return value


def _refuse_constant(name: str) -> float:
    """`NaN` and `Infinity` are not JSON: leave them to the unit as strings."""
    raise ValueError(name)


def existing_file(option: str, path: Path | None) -> Path | None:
    """The path itself. If no file lies there, a `UsageError` names the option."""
    if path is not None and not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"{option} {path}: {reason}; a file is needed")
    return path


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `--channels`, `--background`, `--eval-split` and `--hold-out` that are not at their default."""
    from ..data.options import DataOptions

    return DataOptions(**options).as_dict()


def absolute_data(name: str) -> str:
    """A data set's name with its path made absolute, so that a trial can be evaluated from another folder."""
    kind, _, rest = name.partition(":")
    return f"{kind}:{Path(rest).expanduser().absolute()}" if rest and kind in ("npz", "imagefolder") else name
