"""Every rule can fail: units that break one are caught by it, and the message says what they must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from liars import LIES, Doubles, HidesOptions, Honest, HonestBlock, HonestWeight, Lie, Riddle, WrongShape, case_of

from convswap.measure.costs.model import Counts, register_cost, unregister_cost
from convswap.testing import RULES, ContractError, NotApplicable, check_unit
from convswap.units.contract import registry

# What no small unit can break alone: flops, whole networks and exporters fail with everything else.
UNTRIED = {
    "swaps_into_a_network_trains_fuses_and_saves",
    "cast_as_a_whole_computes_and_trains",
    "double_and_back_is_lossless",
    "training_goes_on_alike_from_a_state_dict",
    "building_in_inference_mode_spoils_no_cache",
    "meta_device_knows_its_shapes",
    "meta_convolution_gives_a_meta_unit",
    "declared_exact_is_exact_by_default",
    "starts_from_low_precision",
    "fuses_in_low_precision",
    "flops_are_countable",
    "saves_and_loads_after_training",
    "compiled_training_still_draws",
    "onnx_computes_the_same",
    "shapes_alone_say_the_cost",
}


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_lying_unit_is_caught_by_the_rule(lie: Lie) -> None:
    rule = RULES[lie.rule]
    with pytest.raises(ContractError) as caught:
        rule(lie.case())
    message = str(caught.value)
    assert message.startswith(f"{lie.case()} breaks the rule {lie.rule!r}: {rule.sentence} Found: ")
    assert lie.says in message


def test_every_rule_is_tried_with_a_liar_or_named_here() -> None:
    assert {lie.rule for lie in LIES} | UNTRIED == set(RULES)
    assert not {lie.rule for lie in LIES} & UNTRIED


@pytest.mark.parametrize("cls", [Honest, HonestWeight, HonestBlock])
@pytest.mark.parametrize("name", sorted({lie.rule for lie in LIES}))
def test_honest_units_pass_the_same_rules(cls: Any, name: str) -> None:
    case = case_of(cls)
    if not RULES[name].concerns(case):
        with pytest.raises(NotApplicable):
            RULES[name](case)
        return
    RULES[name](case)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def register(cls: Any, **row: Any) -> str:
        monkeypatch.setitem(registry._UNITS, "liar", case_of(cls, name="liar", **row).spec)
        return "liar"

    registry.list_units()
    return register


@pytest.mark.parametrize(
    ("cls", "row", "rules"),
    [
        (Doubles, {"warm_start": "exact"}, {"warm_start_is_as_declared", "warm_start_is_as_declared_at_home"}),
        (HidesOptions, {}, {"constructor_is_that_of_conv2d"}),
        (WrongShape, {}, {"shape_and_dtype_are_those_of_conv2d"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_check_unit_lists_what_a_liar_breaks(registered: Any, cls: Any, row: Any, rules: set[str]) -> None:
    chosen = ["constructor*", "shape*", "warm_start*"]
    name, seen = registered(cls, **row), []
    report = check_unit(name, rules=chosen, raise_failures=False, progress=lambda *a: seen.append(a))
    assert {result.rule for result in report.failed} >= rules
    assert [a[:2] for a in seen] == [(n, len(report.results)) for n in range(1, len(seen) + 1)]
    assert all(result.message in str(report) for result in report.failed)
    with pytest.raises(ContractError, match=f"unit 'liar' breaks {len(report.failed)} of") as caught:
        check_unit(name, rules=chosen)
    assert all(result.rule in str(caught.value) for result in report.failed)  # the drawn geometry may differ
    with pytest.raises(ContractError, match="breaks the rule"):
        check_unit(name, rules=chosen, raise_first=True)
    assert not check_unit(name, rules=chosen, skip="*").results


def test_the_command_line_exits_with_1(registered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from convswap.cli import main

    name = registered(WrongShape)
    assert main(["check-unit", name, "--rules", "shape_and*"]) == 1
    printed = capsys.readouterr()
    assert "liar: 0 passed, 1 failed, 0 not applicable" in printed.out
    assert "must be (" in printed.out
    assert "unit 'liar' breaks 1 rule of the contract" in printed.err
    assert main(["check-unit", name, "--rules", "constructor*"]) == 0
    assert main(["check-unit", name, "--rules", "constuctor_is_that"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_an_operator_without_a_formula_passes_once_it_has_one() -> None:
    @register_cost("convswap_liars::riddle")
    def _(call: Any) -> Counts:
        return Counts(special=call.written)

    try:
        for name in ("every_operator_has_a_cost", "fused_form_has_a_cost"):
            RULES[name](case_of(Riddle))
    finally:
        unregister_cost("convswap_liars::riddle")


def test_every_rule_has_a_sentence_and_the_page_lists_them() -> None:
    from convswap.testing import rules_table

    for rule in RULES.values():
        assert " must " in rule.sentence or "must " in rule.sentence, rule
        assert rule.sentence.endswith("."), rule
    page = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
    assert rules_table() in page.read_text(encoding="utf-8")
