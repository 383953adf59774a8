"""What all remedies have in common: names, strengths, refusals, the record."""

from dataclasses import fields
from pathlib import Path

import pytest

from intruders.audits.audit_settings import AuditSettings
from intruders.errors import SettingError
from intruders.experiments.experiment_settings import REMEDIES
from intruders.mitigation import remedies
from intruders.mitigation.remedies.entries import Trim
from intruders.mitigation.remedies.every_remedy import PUBLISHED, published_remedy, remedy_named
from intruders.mitigation.remedies.heads import Heads
from intruders.mitigation.remedies.remedy import Remedy
from intruders.mitigation.remedies.remedy_table import CONTROLS, INTRUDERS
from intruders.mitigation.remedies.singular_values import DGHard, Flatten
from intruders.mitigation.remedies.surgery import Surgery
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_remedy_says_what_its_strength_is(name: str) -> None:
    cls = PUBLISHED[name]
    assert cls.name == name
    own = {field.name: field for field in fields(cls) if "setting" in field.metadata}
    assert cls.strength == next(iter(own))  # the first, so that Remedy(x) is at strength x
    assert all(field.metadata["setting"].help.endswith(".") for field in own.values())
    default = getattr(published_remedy(name), cls.strength)
    assert getattr(published_remedy(name, default), cls.strength) == default
    assert cls.source
    assert cls.strengths  # which a comparison tries
    assert "``W' = W" in (cls.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "strength", "words"),
    [
        ("interpolate", 1.5, "alpha is 1.5; expected 0 or more and at most 1"),
        ("truncate", 0.0, "energy is 0.0; expected a positive number and at most 1"),
    ],
)
def test_wrong_strengths_are_refused(name: str, strength: float, words: str) -> None:
    with pytest.raises(SettingError, match=f"^{words}"):
        published_remedy(name, strength)


@pytest.mark.parametrize(
    ("kind", "remedy", "said"),
    [
        ("by_adapter", Trim(), r"leaves updates of no low rank.*--as checkpoint"),
        ("by_adapter", DGHard(), r"dg-hard' changes nothing in .*: 3 of the 16 singular .* truncate"),
        ("by_adapter", Surgery(), r"has no sensitivities; .*pass --task TASK"),
        ("by_adapter", Surgery(sensitivities={}), r"has no sensitivities of 'model"),
        ("by_adapter", Surgery(modules=("*none",)), r"found no tuned matrix named \*none"),
        ("in_full", Surgery(sensitivities={}), r"remedy 'surgery' cannot change .* low rank"),
        ("in_full", Flatten(), r"remedy 'flatten' cannot change 'model.layers.0.*low rank"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_remedy_says_what_it_cannot_change(
    kind: str, remedy: Remedy, said: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tuned: Tuned = request.getfixturevalue(kind)
    with pytest.raises(SettingError, match=said):
        tuned.after(remedy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_attention_has_no_heads_to_return(tmp_path: Path, by_adapter: Tuned) -> None:
    with pytest.raises(SettingError, match="'heads' found no attention projections"):
        by_adapter.after(Heads(), tmp_path / "out", audit=AuditSettings(include=("*mlp*",)))


def test_every_remedy_is_a_name_of_the_package() -> None:
    assert {getattr(remedies, name) for name in remedies.__all__} == set(PUBLISHED.values())
    assert set(REMEDIES) == {*PUBLISHED, INTRUDERS}  # those of a comparison
    with pytest.raises(AttributeError, match="no_such_remedy"):
        remedies.no_such_remedy  # noqa: B018


@pytest.mark.parametrize("name", [INTRUDERS, *CONTROLS])
def test_scaled_intruders_and_their_controls_are_made_again_from_their_record(name: str) -> None:
    remedy = remedy_named(name, 0.25, 7)
    assert remedy.name == name
    assert remedy.intruder_scale == 0.25
    assert remedy.recorded_by_name() == {"scale": 0.25, "seed": 7}
    assert remedy_named(name, **remedy.recorded_by_name()) == remedy
    assert not remedy.changes_nothing
    assert remedy_named(name, 1.0, 7).changes_nothing
    of_the_top = remedy_named(name, 0.25, 7, "top").recorded_by_name()
    assert of_the_top == {"scale": 0.25, "seed": 7, "which": "top"}
