"""The typer application, with one module per verb."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from .._version import __version__
from ..errors import UsageError
from . import (
    verb_check_unit,
    verb_compare,
    verb_doctor,
    verb_fuse,
    verb_plan,
    verb_prune,
    verb_recipes,
    verb_regularizers,
    verb_remove_residuals,
    verb_replace_pooling,
    verb_report,
    verb_see,
    verb_train,
    verb_trials,
    verb_units,
)

app = typer.Typer(
    name="convswap",
    help="Swap any convolution unit into any CNN: train, compare, see, fuse.",
    epilog="Start with: convswap compare (about a minute, nothing to download).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (
    *(verb_compare, verb_units, verb_plan, verb_train, verb_fuse, verb_prune, verb_see, verb_report),
    *(verb_remove_residuals, verb_replace_pooling, verb_recipes, verb_regularizers, verb_trials),
    *(verb_check_unit, verb_doctor),
):
    app.command(verb.NAME)(verb.run)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"convswap {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


# Since 0.2x typer has its own copy of click; older versions use the package. This finds the base class in either.
_WrongCommandLine = cast(
    type[Exception], next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
)


def invoke(arguments: list[str]) -> int:
    """Parse and run. A fault that typer finds in the command line becomes a `UsageError`."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("convswap", list(arguments), obj=tuple(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        return int(done.exit_code)
    except _WrongCommandLine as wrong:
        verb = arguments[0] if arguments[0] in {v.name for v in app.registered_commands} else ""
        help_line = " ".join(part for part in ("convswap", verb, "--help") if part)
        message = str(getattr(wrong, "format_message", wrong.__str__)()).strip().rstrip(".")
        raise UsageError(f"{message[:1].lower()}{message[1:]}; see {help_line}") from None
    return 0
