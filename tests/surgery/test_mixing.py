"""Several units in one swap: one plan, one proof, one history, and no place claimed twice."""

from __future__ import annotations

import copy
import json
from itertools import pairwise

import pytest
import torch
from networks import Plain, randomize
from torch import nn

import convswap
from convswap.errors import SurgeryError, UsageError
from convswap.surgery import MixedPlan, Mixture, applying
from convswap.surgery.history import history_of
from convswap.units import get_unit

MIXTURE = {"layer1.*": "circle", "layer3.*": ("ic", {"gate": "closed"})}
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return randomize(convswap.create_model("cifar_resnet8", num_classes=10)).eval()


def units_in(model: nn.Module) -> dict[str, str]:
    kinds = {get_unit(name).cls: name for name in convswap.list_units()}
    return {path: kinds[type(module)] for path, module in model.named_modules() if type(module) in kinds}


def test_every_place_takes_its_unit_and_the_function_is_kept() -> None:
    model = resnet().double()
    before = copy.deepcopy(model.state_dict())
    plan = convswap.plan_swap(model, MIXTURE, example_input=IMAGE.double())
    assert isinstance(plan, MixedPlan)
    swapped = plan.apply()
    assert units_in(swapped) == {
        "layer1.0.conv1": "circle",
        "layer1.0.conv2": "circle",
        "layer3.0.conv1": "ic",
        "layer3.0.conv2": "ic",
    }
    assert swapped.layer3[0].conv1.options["gate"] == "closed"
    torch.testing.assert_close(swapped(IMAGE.double()), model(IMAGE.double()), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert units_in(model) == {}


def test_the_plan_as_table_and_json() -> None:
    plan = convswap.plan_swap(resnet(), MIXTURE, example_input=IMAGE)
    data = json.loads(plan.to_json())
    assert data["id"] == Mixture.of(MIXTURE).id
    assert Mixture.of(data["mixture"]) == Mixture.of(MIXTURE)
    assert [(row["path"], row["unit"]) for row in data["replacements"]] == [
        ("layer1.0.conv1", "circle"),
        ("layer1.0.conv2", "circle"),
        ("layer3.0.conv1", "ic"),
        ("layer3.0.conv2", "ic"),
    ]
    text = str(plan)
    assert f"mixed plan {data['id']}" in text
    assert "swap to circle where layer1.*" in text
    assert "swap to ic (gate='closed') where layer3.*" in text
    assert "total: 4 replaced" in text
    singles = [convswap.plan_swap(resnet(), "circle", where="layer1.*", example_input=IMAGE)]
    singles += [convswap.plan_swap(resnet(), "ic", where="layer3.*", example_input=IMAGE, gate="closed")]
    assert list(plan.replacements) == [row for single in singles for row in single.replacements]


def test_one_history_is_repeated_at_load(tmp_path) -> None:
    swapped = convswap.swap(resnet(), MIXTURE, example_input=IMAGE)
    assert [record["unit"] for record in history_of(swapped)] == ["circle", "ic"]
    loaded = convswap.load(convswap.save(swapped, tmp_path / "mixed.safetensors"))
    assert units_in(loaded) == units_in(swapped)
    assert torch.equal(loaded(IMAGE), swapped(IMAGE))
    fused = convswap.fuse(swapped, IMAGE)
    assert units_in(fused) == {}


def test_the_order_of_the_entries_changes_no_drawn_number() -> None:
    mixture = {"layer1.*": "ic", "layer2.*": "minimum_block", "layer3.*": "dendritic"}
    states = []
    for entries in (mixture, dict(reversed(mixture.items()))):
        model = resnet()
        torch.manual_seed(1)
        states.append(convswap.swap(model, entries, start="fresh", example_input=IMAGE).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_block_units_beside_convolutions() -> None:
    swapped = convswap.swap(resnet(), {"layer3.*": "circle", "layer1.*": "half_identity"}, example_input=IMAGE)
    assert units_in(swapped)["layer1.0"] == "half_identity"
    assert units_in(swapped)["layer3.0.conv1"] == "circle"
    assert swapped(IMAGE).shape == (2, 10)


def test_entries_with_one_unit_are_one_swap() -> None:
    """What xnor takes over of its host shows only where all its places are known."""
    whole = convswap.plan_swap(resnet(), "xnor", where="layer*.*", example_input=IMAGE)
    mixed = convswap.plan_swap(resnet(), {"layer[12].*": "xnor", "layer3.*": "xnor"}, example_input=IMAGE)
    assert len(mixed.plans) == 1
    assert mixed.replacements == whole.replacements
    assert any(row.absorbed for row in mixed.replacements)


def test_nothing_is_replaced_twice() -> None:
    with pytest.raises(SurgeryError, match=r"'\*\.conv1' and 'layer1\.\*' .*both select layer1\.0\.conv1; .*narrower"):
        convswap.plan_swap(resnet(), {"layer1.*": "circle", "*.conv1": "ic"}, example_input=IMAGE)
    with pytest.raises(SurgeryError, match=r"'half_identity' .*layer1\.0, and 'circle' .*layer1\.0\.conv1; leave"):
        convswap.plan_swap(resnet(), {"layer1.0.conv1": "circle", "layer1.0": "half_identity"}, example_input=IMAGE)
    with pytest.raises(SurgeryError, match=r"'circle' .*layer1\.0\.conv2, and 'half_identity' .*layer1\.0; leave"):
        convswap.plan_swap(resnet(), {"*.conv2 & layer1.*": "circle", "layer1.0": "half_identity"}, example_input=IMAGE)


def test_a_selection_that_does_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"entry 'layer9\.\*' \(circle\) of the mixed plan: .*matches none"):
        convswap.plan_swap(resnet(), {"layer9.*": "circle", "layer1.*": "ic"}, example_input=IMAGE)
    even = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    with pytest.raises(SurgeryError, match=r"none of the places of '0' in the mixed plan can take 'circle': 0: .*2x2"):
        convswap.plan_swap(even, {"0": "circle", "1": "circle", "2": "ic"})


def test_skipped_places_and_notes_name_their_unit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    plan = convswap.plan_swap(model, {"0, 1": "circle", "2": "ic"})
    assert [(skip.path, skip.reason.partition(":")[0]) for skip in plan.skipped] == [("0", "circle")]
    assert "note: circle, ic: an exact start is what the unit declares" in str(plan)


@pytest.mark.parametrize("given", [{"where": "3x3"}, {"radius": 1.2}])
def test_where_and_options_belong_into_the_mapping(given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(given))}= was given beside several units"):
        convswap.swap(resnet(), MIXTURE, **given)  # type: ignore[call-overload]


def test_in_place_with_an_optimizer() -> None:
    model = resnet().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    convswap.plan_swap(model, MIXTURE, example_input=IMAGE).apply(inplace=True, optimizer=optimizer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_an_error_half_way_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = resnet()
    modules = [id(module) for module in model.modules()]
    plan = convswap.plan_swap(model, MIXTURE, example_input=IMAGE)
    build, built = applying.build_unit, []

    def fail_at_the_last(spec, module, *rest):
        built.append(spec.name)
        if len(built) == 4:
            raise MemoryError("no room")
        return build(spec, module, *rest)

    monkeypatch.setattr(applying, "build_unit", fail_at_the_last)
    with pytest.raises(MemoryError):
        plan.apply(inplace=True)
    assert built == ["circle", "circle", "ic", "ic"]
    assert [id(module) for module in model.modules()] == modules


def test_a_model_that_changed_since_is_refused() -> None:
    model = resnet()
    plan = convswap.plan_swap(model, MIXTURE, example_input=IMAGE)
    convswap.plan_swap(model, "circle", where="layer3.*", example_input=IMAGE).apply(inplace=True)
    with pytest.raises(SurgeryError, match=r"layer3\.0\.conv1 changed since the plan was made"):
        plan.apply()


def test_networks_without_a_declared_input() -> None:
    plan = convswap.plan_swap(Plain(), {"conv1": "circle", "conv2": "ic"})
    assert all(row.macs_before is None for row in plan.replacements)
    order = [name for name, _ in Plain().named_modules()]
    paths = [row.path for row in plan.replacements]
    assert all(order.index(a) < order.index(b) for a, b in pairwise(paths))
