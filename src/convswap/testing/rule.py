"""A rule of the contract: a function of a case, with a name, one sentence, and a message when it is broken."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch

from ..errors import ConvswapError
from .case import Case

CONVOLUTIONS = ("weight", "feature")
ALL = (*CONVOLUTIONS, "block")


class ContractError(ConvswapError, AssertionError):
    """A unit breaks rules of the contract. The message says which, and what the unit must do."""


class NotApplicable(pytest.skip.Exception):  # type: ignore[name-defined]
    """The rule does not apply to this case, or this machine cannot check it. pytest shows a skipped test."""


def demand(holds: bool, found: str) -> None:
    """Raise a `ContractError` with the finding unless the condition holds (`assert` vanishes under `-O`)."""
    if not holds:
        raise ContractError(found)


@dataclass(frozen=True, repr=False)
class Rule:
    """One rule of the contract. Call it with a case: it returns, or raises `ContractError` or `NotApplicable`.

    Attributes:
        name: the function's name.
        sentence: what the unit must do, the first line of the function's docstring.
        kinds: the kinds of unit that it concerns.
        check: the function itself.
        only: a further condition on the case, or None.
    """

    name: str
    sentence: str
    kinds: tuple[str, ...]
    check: Callable[[Case], None]
    only: Callable[[Case], bool] | None = None

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def concerns(self, case: Case) -> bool:
        """Does the rule apply to this case?"""
        return case.spec.kind in self.kinds and (self.only is None or self.only(case))

    def __call__(self, case: Case) -> None:
        """Check the rule, always from the same random numbers. The caller's random state and warnings stay unchanged.

        Raises:
            ContractError: the unit breaks the rule.
            NotApplicable: the rule does not apply to this case, or cannot be checked here.
        """
        if not self.concerns(case):
            raise NotApplicable(f"{self.name} does not concern {case}")
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                dtype = torch.get_default_dtype()
                self.check(case)
                demand(torch.get_default_dtype() == dtype, "the unit changed torch's default dtype")
        except Exception as error:
            raise ContractError(
                f"{case} breaks the rule {self.name!r}: {self.sentence} Found: {_told(error)}"
            ) from error


def _told(error: Exception) -> str:
    """The failure in one paragraph, with the example that Hypothesis found."""
    text = str(error) if isinstance(error, ContractError) else f"{type(error).__name__}: {error}"
    return " ".join("; ".join([text, *getattr(error, "__notes__", [])]).split())


def rule(
    kinds: Iterable[str] = ALL, *, only: Callable[[Case], bool] | None = None
) -> Callable[[Callable[[Case], None]], Rule]:
    """Decorator that makes a `Rule` of a function. The first line of the function's docstring is the sentence."""

    def make(function: Callable[[Case], None]) -> Rule:
        sentence = (inspect.getdoc(function) or "").partition("\n")[0]
        return Rule(function.__name__, sentence, tuple(kinds), function, only)

    return make
