"""Settings as values: read, checked and said the same way whoever gives them."""

import inspect
import re
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intruders
from intruders.audits.audit import audit
from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.errors import SettingError
from intruders.experiments.experiment_settings import INTERPOLATE, SweepSettings
from intruders.mitigation.remedies.remedy_table import CONTROLS, INTRUDERS, SHRINK_OUTPUT
from intruders.settings import Settings, setting, settings_of
from intruders.settings.settings_class import short_names
from intruders.settings.yaml_text import read_yaml
from tests.checkpoints.models import tiny_llama


@dataclass(frozen=True)
class Inner(Settings):
    k: int = setting(10, "Number of vectors.", expected="a whole number of vectors, 1 or more", least=1)
    patterns: tuple[str, ...] = setting((), "Matrices.", item="pattern")
    later: bool = setting(False, "New.", new_in="0.2")


@dataclass(frozen=True)
class Outer(Settings):
    name: str = setting(help="Its name.")
    rank: int = setting(8, "Its rank.", least=1, long_names=["r"], adapter_only=True)
    share: float = setting(0.5, least=0, below=1)
    rate: float = setting(1e-4, above=0, long_names=["learning_rate"])
    most: int | None = setting(None, least=1)
    alpha: float | str = setting("2r")
    modules: str | tuple[str, ...] = setting("all", item="module", by_commas=True)
    columns: tuple[str, ...] = setting((), item="column", by_commas=True)
    scales: tuple[float, ...] = setting((0.0, 0.5), item="scale", least=0, may_be_empty=False)
    kind: str = setting("plain", choices=("plain", "orthonormal"))
    control: tuple[str, ...] = setting((), item="control", choices=("shrink", "random"))
    is_loud: bool = setting(False)
    inner: Inner = setting(Inner())
    maybe: Inner | None = setting(None)
    cache: object = None  # no setting


@dataclass(frozen=True)
class Wider(Inner):
    """One more.

    Attributes:
      cache: where it is kept.

    Examples:
      ``Wider(k=2)``
    """

    kind: str = setting("plain", "Kind of noise.", choices=("plain", "orthonormal"))
    maybe: int | None = setting(
        None, "A number of which very much has to be told, so much that one line is too short."
    )
    cache: object = None


def test_the_docstring_lists_every_setting() -> None:
    """Those of a base first, before what the class itself says of its other fields."""
    assert inspect.getdoc(Wider) == (
        "One more.\n\n"
        "Attributes:\n"
        "  k: Number of vectors. Default: 10.\n"
        "  patterns: Matrices. Default: none.\n"
        "  later: New. Default: False.\n"
        "  kind: Kind of noise. One of plain, orthonormal. Default: plain.\n"
        "  maybe: A number of which very much has to be told, so much that one line is too short. Default:\n"
        "    none.\n"
        "  cache: where it is kept.\n\n"
        "Examples:\n  ``Wider(k=2)``"
    )


def test_values_take_the_type_of_their_setting() -> None:
    found = Outer(
        name="a", share=0, alpha=16, scales=[0, 1], control=["random", "random"], modules=["q", "v"]
    )  # type: ignore[arg-type]
    assert [type(value) for value in (found.share, found.alpha, *found.scales)] == [float] * 4
    assert (found.control, found.modules) == (("random",), ("q", "v"))
    assert replace(found, rank=2).rank == 2


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"rate": "1e-3"}, {"rate": 1e-3}),  # YAML's own reader takes this for text
        ({"rank": "1e1"}, {"rank": 10}),
        ({"rank": 4.0}, {"rank": 4}),
        ({"r": 2, "learning-rate": 1}, {"rank": 2, "rate": 1.0}),
        ({"is-loud": True}, {"is_loud": True}),
        ({"alpha": "16"}, {"alpha": "16"}),
        ({"columns": "a,b"}, {"columns": ("a", "b")}),
        ({"modules": "q_proj,v_proj"}, {"modules": ("q_proj", "v_proj")}),
        ({"modules": r"layers\.\d{1,2}\.q"}, {"modules": r"layers\.\d{1,2}\.q"}),
        ({"scales": 0.3}, {"scales": (0.3,)}),
        ({"scales": ["1e-1"]}, {"scales": (0.1,)}),
        ({"inner": {"patterns": "*.q,*"}}, {"inner": Inner(patterns=("*.q,*",))}),
        ({"inner": {"k": 3}}, {"inner": Inner(k=3)}),
        ({"inner": None}, {}),  # a key with nothing under it
        ({"maybe": True}, {"maybe": Inner()}),
        ({"maybe": False}, {"maybe": None}),
        ({"most": None}, {"most": None}),
    ],
)
def test_a_mapping_is_read_as_a_file_writes_it(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert Outer.from_mapping({"name": "a"} | given) == Outer(name="a", **wanted)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "rank is 0; expected 1 or more"),
    ({"rank": 1.5}, "rank is 1.5; expected a whole number, 1 or more"),
    ({"rank": True}, "rank is True; expected a whole number"),
    ({"share": 1}, "share is 1.0; expected 0 or more and below 1"),
    ({"share": float("nan")}, "share is nan; expected 0 or more and below 1"),
    ({"rate": 0}, "rate is 0.0; expected a positive number"),
    ({"rate": "fast"}, "rate is 'fast'; expected a number"),
    ({"scales": [float("inf")]}, "scale is inf; expected 0 or more"),
    ({"name": ["a"]}, "name is ['a']; expected text"),
    ({"kind": "orthogonal"}, "kind 'orthogonal' is not known; did you mean 'orthonormal'?"),
    ({"kind": "x"}, "kind is 'x'; expected one of plain, orthonormal"),
    ({"is_loud": "yes"}, "is_loud is 'yes'; expected true or false"),
    ({"scales": []}, "scales is []; expected at least one scale"),
    ({"scales": ["half"]}, "scales is 'half'; expected a number"),
    ({"scales": [-1]}, "scale is -1.0; expected 0 or more"),
    ({"modules": [3]}, "modules: 3 is not a module; expected text"),
    ({"inner": {"k": 0}}, "inner: k is 0; expected a whole number of vectors, 1 or more"),
    ({"inner": {"kk": 0}}, "inner: 'kk' is not a setting; did you mean 'k'?"),
    ({"inner": 3}, "inner is 3; expected settings by name (NAME: VALUE)"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[said for _, said in WRONG])
def test_one_text_of_error_whoever_gives_it(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(said)}"):
        Outer(**{"name": "a"} | given)
    with pytest.raises(SettingError, match=f"^here: {re.escape(said)}"):
        Outer.from_mapping({"name": "a"} | given, "here")
    file = tmp_path / "settings.yaml"
    file.write_text("name: a\n")
    with pytest.raises(SettingError, match=f"^config '.*': {re.escape(said)}"):
        Outer.from_file(file, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "name must be given"),
        ({"name": ""}, "name must be given"),
        ({"name": "a", "rnak": 1}, "'rnak' is not a setting; did you mean 'rank'?"),
        ({"name": "a", "zzz": 1}, "'zzz' is not a setting; known are name, rank,"),
        ({"name": "a", "rank": 1, "r": 2}, "'r' sets 'rank' a second time"),
        ({"name": "a", "cache": 1}, "'cache' is not a setting"),
    ],
)
def test_names_are_checked(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        Outer.from_mapping(given)


def test_a_file_is_read_and_what_is_given_goes_over_it(tmp_path: Path) -> None:
    assert short_names(Outer, {"r": 3, "methods": []}, beside=["methods"]) == {"rank": 3, "methods": []}
    file = tmp_path / "settings.yaml"
    file.write_text("name: a\nr: 4\nrate: 1e-3\ninner:\n  k: 2\n")
    assert Outer.from_file(file, rank=5) == Outer("a", rank=5, rate=1e-3, inner=Inner(2))


def test_a_key_is_given_once_and_what_a_merge_brings_in_is_none() -> None:
    """YAML's own loader replaces a mapping's keys by the merged ones, wherever else its anchor is used."""
    with pytest.raises(SettingError, match=r"^here: 'rank' is given twice"):
        read_yaml("rank: 1\nrank: 2\n", "here")
    text = """
common: &common {lr: 2, x: 1}
first: {inner: &deep {<<: *common, lr: 1}}
second: {<<: *deep, rank: 3}
"""
    assert read_yaml(text, "here") == {
        "common": {"lr": 2, "x": 1},
        "first": {"inner": {"lr": 1, "x": 1}},
        "second": {"lr": 1, "x": 1, "rank": 3},
    }
    assert read_yaml('{1: a, "1": b}', "here") == {1: "a", "1": "b"}
    with pytest.raises(SettingError, match=r"^here: 'lr' is given twice in what starts at line 3; keep one"):
        read_yaml("common: &common {x: 1}\nfirst:\n  {<<: *common, lr: 1, lr: 2}\n", "here")
    (inside,) = read_yaml("&a [*a]", "here")
    assert inside is inside[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2024-30-01", "'2024-30-01' at line 2 cannot be read as YAML's type timestamp"),
        ("1" * 5000, f"'{'1' * 40}...' at line 2 cannot be read as YAML's type int"),
        ("!!int abc", "'abc' at line 2 cannot be read as YAML's type int"),
        ("!!int ''", "'' at line 2 cannot be read as YAML's type int"),
        ("!!bool abc", "'abc' at line 2 cannot be read as YAML's type bool"),
        ("!!timestamp abc", "'abc' at line 2 cannot be read as YAML's type timestamp"),
        (r'"a\ud800"', r"'a\ud800' at line 2 has half a character"),
    ],
)
def test_a_value_that_cannot_be_constructed_is_named(value: str, said: str) -> None:
    with pytest.raises(SettingError, match=f"^here: {re.escape(said)}"):
        read_yaml(f"lr: 1\nname: {value}\n", "here")


def test_plain_values_and_what_differs_from_the_defaults() -> None:
    found = Outer("a", scales=(0.5,), inner=Inner(3, ("*.q",)))
    inner = {"k": 3, "patterns": ["*.q"], "later": False}
    assert found.changed() == {"name": "a", "scales": [0.5], "inner": inner}
    assert found.as_dict()["inner"] == inner
    assert Outer.from_mapping(found.as_dict()) == found
    assert found.recorded()["inner"] == {"k": 3, "patterns": ["*.q"]}
    assert Inner(later=True).recorded() == {"k": 10, "patterns": [], "later": True}


def test_reading_settings_imports_nothing_heavy() -> None:
    code = (
        "import sys, intruders.settings, intruders.data.columns, intruders.training.finetune_config,"
        "intruders.audits.audit_settings, intruders.measures.measure_settings;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "pandas", "pyarrow", "transformers", "yaml", "typer"}
    assert not set(done.stdout.split()) & heavy


def test_the_keywords_of_audit_are_its_settings() -> None:
    given = {
        name: one.default
        for name, one in inspect.signature(intruders.audit).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY and name != "progress"
    }
    settings = AuditSettings().values() | {one.name: one.default for one in fields(Compute)}
    assert given == settings


def test_an_audit_gives_its_settings_back() -> None:
    numbers = {"k": 3, "epsilon": 0.25}
    settings = AuditSettings(("*.q_proj.*",), include_embeddings=True, skip_non_finite=True, **numbers)
    found = audit(tiny_llama(0), tiny_llama(1), **vars(settings), cache=False)
    assert AuditSettings.of(found) == settings
    assert {matrix.name.split(".")[-2] for matrix in found.matrices} == {"q_proj"}


def test_the_controls_are_those_of_the_mitigation() -> None:
    chosen = {INTRUDERS, INTERPOLATE, SHRINK_OUTPUT, *CONTROLS}
    assert set(settings_of(SweepSettings)["controls"].choices) == chosen


def test_numbers_of_numpy_and_a_device_of_torch_are_read_as_pythons() -> None:
    """What is recorded of them is plain JSON."""
    assert Compute(device=torch.device("cpu")).device == "cpu"  # type: ignore[arg-type]
    assert Compute(device=torch.device("cuda", 1)).device == "cuda:1"  # type: ignore[arg-type]
    read = AuditSettings(k=np.int64(5), epsilon=np.float32(0.5))  # type: ignore[arg-type]
    assert (read.k, read.epsilon) == (5, 0.5)
    assert (type(read.k), type(read.epsilon)) == (int, float)
    with pytest.raises(SettingError, match=r"k is np\.float32\(5\.0\); expected a whole number"):
        AuditSettings(k=np.float32(5))  # type: ignore[arg-type]
