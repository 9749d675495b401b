"""A unit's options: written once, as the keyword arguments of `setup`, and read from there everywhere else.

The bases have the only constructor. A unit writes

    def setup(self, *, temperature: float = 30.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature!r} is not allowed; it must be above 0")
        self.weight = nn.Parameter(torch.empty(..., **self.place))

The constructor stores the geometry, then the options as `unit.options`, and calls `setup` with all of them. Within
`setup`, and only there, `self.place` holds `device` and `dtype` for what is built. A subclass of a unit that takes
`**options` in its `setup` and passes them to `super().setup(**options)` has its parent's options too.
`inspect.signature(cls)` shows the geometry, the options, `device` and `dtype`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from ...errors import UsageError

PLACE = ("device", "dtype")


class UnknownOptionError(UsageError, TypeError):
    """A unit was given an option that it does not have; a `TypeError`, as for any function."""


class Configured:
    """Mixin of the bases, before `nn.Module`: options, their storage, and the constructor's signature.

    Attributes:
        options: the unit's options by name, defaults included, as given to the constructor (lists as tuples, 1.0 as 1).
            They are part of the unit's identity: a checkpoint resumes, and a saved model loads, only with the same
            options.
        place: `device` and `dtype`, during `setup` only.
    """

    options: dict[str, Any]
    place: dict[str, Any]
    _base_init: ClassVar[Callable[..., None]]
    _declared: ClassVar[Mapping[str, inspect.Parameter]]
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if Configured in cls.__bases__:
            cls._base_init = cls.__init__
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls._declared = _declared_options(cls)
        if not writes_constructor(cls):
            *geometry, device, dtype, _ = own
            _refuse_taken(cls, {p.name for p in own})
            own = [*geometry, *cls._declared.values(), device, dtype]
        cls.__signature__ = inspect.Signature(own)

    def setup(self) -> None:
        """Check the options and build the parameters; a unit writes them as `setup(self, *, option=default, ...)`.

        Raises:
            ValueError: an option has a value that is not allowed.
        """

    def _set_up(self, given: Mapping[str, Any], **place: Any) -> None:
        """The end of every constructor: store the options and let the unit build itself."""
        cls = type(self)
        refuse_unknown(cls.__name__, cls._declared, given)
        for name, parameter in cls._declared.items():
            if name not in given and parameter.default is parameter.empty:
                raise UsageError(f"{cls.__name__} needs the option {name!r}; it has no default")
        chosen = {name: given.get(name, parameter.default) for name, parameter in cls._declared.items()}
        self.options = {name: frozen(value) for name, value in chosen.items()}
        self.place = place
        self.setup(**chosen)
        del self.place

    def _with_options(self, text: str) -> str:
        """A repr with the options that differ from their defaults."""
        defaults = options_of(type(self))
        changed = [f"{n}={v!r}" for n, v in self.options.items() if repr(v) != repr(frozen(defaults[n]))]
        return ", ".join([text, *changed])


def writes_constructor(cls: type[Configured]) -> bool:
    """Does the class write `__init__` itself, instead of declaring its options in `setup`?"""
    return cls.__init__ is not cls._base_init


def options_of(cls: type) -> dict[str, Any]:
    """A unit's options and their defaults (`inspect.Parameter.empty` if there is none), in their order.

    A class that writes its own constructor has that constructor's keyword-only arguments.
    """
    if issubclass(cls, Configured) and not writes_constructor(cls):
        return {name: parameter.default for name, parameter in cls._declared.items()}
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in PLACE}


def described_options(module: object) -> list[str]:
    """One line for each option of a unit, `option radius=1.2`, to compare units by; none for other modules."""
    if not isinstance(module, Configured):
        return []
    return [f"option {name}={value!r}" for name, value in module.options.items()]


def refuse_unknown(who: str, known: Iterable[str], given: Iterable[str]) -> None:
    """Raise an `UnknownOptionError` for an option that `who` does not have, with the nearest it has."""
    names = list(known)
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are: {', '.join(names) or 'none'}"
            raise UnknownOptionError(f"{who} has no option {name!r}; {hint}")


def frozen(value: Any) -> Any:
    """The value with tuples for lists and whole numbers without `.0`, so that equal options have equal text.

    JSON has no tuples, and 1 and 1.0 are the same radius.
    """
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value


def _declared_options(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of `setup`, and of the parent's `setup` if it passes `**options` on."""
    chain = []
    for base in cls.__mro__:
        if "setup" in vars(base):
            parameters = list(inspect.signature(vars(base)["setup"]).parameters.values())[1:]
            chain.append(parameters)
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    found: dict[str, inspect.Parameter] = {}
    for parameters in reversed(chain):
        for p in parameters:
            if p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY):
                raise UsageError(f"{cls.__qualname__}.setup takes {p}; write its options as setup(self, *, option=...)")
            if p.kind is not p.VAR_KEYWORD:
                found[p.name] = p.replace(kind=p.KEYWORD_ONLY)
    return found


def _refuse_taken(cls: type[Configured], taken: set[str]) -> None:
    for name in cls._declared:
        if name in taken:
            raise UsageError(f"{cls.__qualname__}: {name!r} is an argument of the constructor; rename the option")
