"""Models of the user: finding `package.module:function`, and calling it so that a mistake in it is one clear line."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import ConvswapError, UsageError, described, own_frames, unknown_name
from .building import construct

LIBRARIES = ("timm", "torchvision")


def is_own(name: str) -> bool:
    """Does this name of a model mean a function of the user?

    >>> is_own("mine:build"), is_own("resnet18"), is_own("torchvision:resnet18")
    (True, False, False)
    """
    origin, colon, _ = name.partition(":")
    return bool(colon) and origin not in LIBRARIES


def create_own_model(
    name: str, num_classes: int | None, in_channels: int, pretrained: bool, arguments: dict[str, Any]
) -> nn.Module:
    """Import the function that `package.module:function` names, and call it."""
    function = find_function(name)
    return call_own_function(
        name, function, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, **arguments
    )


def call_own_function(
    name: str,
    function: Callable[..., Any],
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Call a user's function with those of these arguments that it accepts, and check that it returns a model.

    Raises:
        UsageError: the function does not fit the arguments, raises an error, or returns something else.
    """
    parameters = inspect.signature(function).parameters
    accepts_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given: dict[str, Any] = {}
    if num_classes is not None and ("num_classes" in parameters or accepts_all):
        given["num_classes"] = num_classes
    elif num_classes is None and "num_classes" in parameters:
        raise UsageError(f"model {name!r} lacks 'num_classes', which its function takes; give it among the arguments")
    if "in_channels" in parameters or (accepts_all and "in_chans" not in parameters):
        given["in_channels"] = in_channels
    elif "in_chans" in parameters:
        given["in_chans"] = in_channels
    if pretrained and "pretrained" not in parameters:
        raise UsageError(f"pretrained=True: {name!r} has no argument 'pretrained'; give weights=PATH instead")
    if pretrained:
        given["pretrained"] = True
    try:
        return construct(name, function, given, arguments)
    except ConvswapError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"model {name!r} fails with {described(error)}{own_frames(error)}") from error


def find_function(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names, found on the Python path or in the current folder.

    Raises:
        UsageError: there is no such module or function, or the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py"):
        raise UsageError(f"model {name!r}: {_without_suffix(Path(module_name), [attribute])}")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise UsageError(
            f"unknown kind of model {name!r}; write a timm name, torchvision:NAME, or package.module:function"
        )
    module = import_own(module_name, f"model {name!r}")
    try:
        function = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        callables = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown_name(f"function in module {module_name!r}", attribute, callables) from None
    if not callable(function):
        raise UsageError(f"model {name!r}: {attribute!r} is a {type(function).__name__}, not a function")
    return function


def import_own(module_name: str, what: str) -> ModuleType:
    """Import a module of the user, from the Python path or the current folder.

    Raises:
        UsageError: there is no such module, or an error is raised in it. The message starts with `what`.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # a console script does not search the current folder; at the end it shadows nothing
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        itself = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        said = f"cannot import {module_name!r}: {'' if itself else 'it fails with '}{error}"
        raise UsageError(f"{what}: {said}{'' if itself else own_frames(error)}") from error
    except ConvswapError as error:
        raise UsageError(f"{what}: cannot import {module_name!r}: {error}{own_frames(error)}") from error
    except SyntaxError as error:
        line = f": {error.text.strip()}" if error.text else ""
        raise UsageError(f"{what}: cannot import {module_name!r}: {described(error)}{line}") from error
    except Exception as error:  # the user's code may raise anything
        said = f"cannot import {module_name!r}: it fails with {described(error)}"
        raise UsageError(f"{what}: {said}{own_frames(error)}") from error


def refuse_file(name: str) -> None:
    """Raise a `UsageError` if the name of a model is the path of a Python file, with the name that is meant."""
    path = Path(name)
    if path.suffix == ".py":
        raise UsageError(f"model {name!r}: {_without_suffix(path, _public_names(path) or ['FUNCTION'])}")


def _without_suffix(path: Path, functions: list[str]) -> str:
    module = path.with_suffix("")
    far = module.is_absolute() or ".." in module.parts
    dotted = module.name if far else ".".join(module.parts)
    names = " or ".join(repr(f"{dotted}:{function}") for function in functions[:3])
    place = f" in the folder {module.parent}" if far else ""
    return f"a function of your own is named by its module and not by its file: write {names}{place}"


def _public_names(path: Path) -> list[str]:
    """The functions and classes that a Python file defines, without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # the caller only wants a hint
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
