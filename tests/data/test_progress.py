"""The progress bar shows where somebody is watching, and never changes what passes through."""

import io
import sys

from convswap.data.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_silent_without_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(track(range(5), "Reading", 5)) == list(range(5))
    assert sys.stderr.getvalue() == ""


def test_drawn_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(track(iter(range(5)), "Reading", 5)) == list(range(5))
    assert "Reading" in sys.stderr.getvalue()


def test_silent_without_rich(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("convswap.data.progress.find_spec", lambda name: None)
    assert list(track(range(5), "Reading", 5)) == list(range(5))
    assert sys.stderr.getvalue() == ""
