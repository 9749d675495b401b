"""Mixtures as data: their form, their file, their id, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convswap.errors import UsageError
from convswap.surgery import Mixture

ENTRIES = {"layer1.*": "circle", "layer[34].*": ("ic", {"gate": "closed"})}


def test_the_entries_survive_json() -> None:
    mixture = Mixture.of(ENTRIES)
    assert mixture.as_dict() == {"layer1.*": "circle", "layer[34].*": ["ic", {"gate": "closed"}]}
    assert Mixture.from_json(mixture.to_json()) == mixture
    assert Mixture.of(mixture) is mixture
    assert str(mixture) == "circle where layer1.*; ic (gate='closed') where layer[34].*"


def test_the_id_is_known() -> None:
    # A change here means that every mixed trial in the world trains again.
    assert Mixture.of(ENTRIES).id == "86bd5439d2a89453"


def test_the_id_is_the_hash_of_the_content_alone() -> None:
    mixture = Mixture.of(ENTRIES)
    assert Mixture.of(dict(reversed(ENTRIES.items()))).id == mixture.id
    assert Mixture.of({"layer1.*": ["circle", {}], "layer[34].*": ["ic", {"gate": "closed"}]}).id == mixture.id
    one, other = {"gate": "closed", "w_init": "zero"}, {"w_init": "zero", "gate": "closed"}
    assert Mixture.of({"all": ("ic", one)}).id == Mixture.of({"all": ("ic", other)}).id
    others = [
        {"layer1.*": "circle"},
        ENTRIES | {"layer1.*": "ic"},
        ENTRIES | {"layer[34].*": "ic"},
        {"layer2.*": "circle", "layer[34].*": ("ic", {"gate": "closed"})},
    ]
    assert len({mixture.id, *(Mixture.of(entries).id for entries in others)}) == 5


@given(st.permutations([("layer1.*", "circle"), ("layer2.*", "ghost"), ("layer3.*", "ic"), ("first", "niff")]))
@settings(deadline=None)
def test_the_order_means_nothing(entries: list[tuple[str, str]]) -> None:
    assert Mixture.of(dict(entries)) == Mixture.of(dict(sorted(entries)))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "needs at least one entry"),
        (["circle"], "is a mapping such as"),
        (None, "is a mapping such as"),
        ({3: "circle"}, "key must be a selection such as 'layer1.*', not 3"),
        ({"": "circle"}, "entry '' of the mixed plan: .*empty condition"),
        ({"layer1.* | layer2.*": "circle"}, "entry 'layer1.* | layer2.*' of the mixed plan: .*not well-formed"),
        ({"layer1.*": "circel"}, "entry 'layer1.*' of the mixed plan: .*did you mean 'circle'"),
        ({"layer1.*": ("circle", {"radios": 1})}, "entry 'layer1.*' of the mixed plan: .*'radios'"),
        ({"layer1.*": ("circle", {"radius": {1}})}, "options .* must be made of JSON values"),
        ({"layer1.*": ("circle", {"radius": float("nan")})}, "options .* must be made of JSON values"),
        ({"layer1.*": ("circle",)}, r"\('circle',\) is not allowed; give a unit's name"),
        ({"layer1.*": {"unit": "circle"}}, "is not allowed; give a unit's name"),
        ({"layer1.*": ["circle", "radius"]}, "is not allowed; give a unit's name"),
        ({"layer1.*": None}, "None is not allowed; give a unit's name"),
    ],
    ids=str,
)
def test_what_is_no_mixture_is_refused_in_one_line(entries: object, message: str) -> None:
    with pytest.raises(
        UsageError, match=message.replace("*", r"\*").replace(r".\*", ".*").replace("|", r"\|")
    ) as caught:
        Mixture.of(entries)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(deadline=None)
def test_json_that_is_no_mixture_is_refused_by_name(value: object) -> None:
    with pytest.raises(UsageError, match="mixed plan"):
        Mixture.from_json(json.dumps(value))


def test_files(tmp_path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(ENTRIES))
    assert Mixture.read(file) == Mixture.of(ENTRIES)
    with pytest.raises(UsageError, match=r"mixed plan '.*absent\.json': no such file"):
        Mixture.read(tmp_path / "absent.json")
    with pytest.raises(UsageError, match="is a folder"):
        Mixture.read(tmp_path)
    for content, message in [
        (b"", "this is not JSON"),
        (b"{'layer1.*': 'circle'}", "this is not JSON"),
        (b"\xff\xfe", "cannot be read as text"),
        (b'{"layer1.*": "circle", "layer1.*": "ic"}', "the key 'layer1.*' stands twice"),
        (b"[]", "is a mapping such as"),
        (b"{}", "needs at least one entry"),
    ]:
        file.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            Mixture.read(file)
        assert str(file) in str(caught.value)
        assert message in str(caught.value)
