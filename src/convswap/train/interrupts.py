"""Ctrl-C and requests to stop: all end a training alike, and wait while they would do harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

_REQUESTS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""A batch system asks to stop, or the terminal was closed. Not every system knows the second."""
_unheard: list[str] = []
"""Signals whose interrupt was raised. Whoever catches one ends the block of `requests_interrupt`, which clears them."""
Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Let Ctrl-C and requests to stop wait until the block is done.

    Outside the main thread, which signals do not reach, do nothing. Signals that nobody handles keep their effect.
    """
    pending: list[tuple[Handler, int, FrameType | None]] = []

    def later(handler: Handler) -> Handler:
        return lambda number, frame: pending.append((handler, number, frame))

    handled = {number: handler for number in (signal.SIGINT, *_REQUESTS) if callable(handler := _handler(number))}
    try:
        with _handlers({number: later(handler) for number, handler in handled.items()}):
            yield
    finally:
        for handler, number, frame in pending[:1]:
            handler(number, frame)


@contextlib.contextmanager
def requests_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does. A signal that is ignored, as under nohup, stays so.

    All three are raised again by `raise_unheard` if Python dropped the first exception.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        _unheard.append(signal.Signals(number).name)
        raise KeyboardInterrupt(_unheard[-1])

    stopping: dict[int, Handler] = {number: stop for number in _REQUESTS if _handler(number) is not signal.SIG_IGN}
    if _handler(signal.SIGINT) is signal.default_int_handler:
        stopping[signal.SIGINT] = stop
    try:
        with _handlers(stopping):
            yield
    finally:
        _unheard.clear()


def raise_unheard() -> None:
    """Raise an interrupt once more whose exception was lost. The training calls this at every step.

    Python drops what a signal handler raises while the interpreter runs certain callbacks, for example those around a
    fork. A data loader forks its workers at every epoch, so a request to stop could be ignored there.
    """
    if _unheard:
        raise KeyboardInterrupt(_unheard[-1])


def _handler(number: int) -> Any:
    return signal.getsignal(number)


@contextlib.contextmanager
def _handlers(new: dict[int, Handler]) -> Iterator[None]:
    """Handle signals like this within the block. Outside the main thread, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in new.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
