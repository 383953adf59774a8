"""The study's file: what is read, and what is refused in one line that says what to do."""

from pathlib import Path
from typing import Any

import pytest

from intruders.errors import SettingError
from intruders.experiments.experiment_settings import SweepSettings
from intruders.studies.study import Resources, read_study, study_from_text
from tests.studies.tiny_study import parsed, tiny_study

MINIMAL: dict[str, Any] = {"experiments": {"one": {"base": "b", "task": "word-problems", "steps": 1}}}


def with_experiment(**settings: Any) -> dict[str, Any]:
    return {"experiments": {"one": MINIMAL["experiments"]["one"] | settings}}


def of_kind(kind: str, **settings: Any) -> dict[str, Any]:
    return {"experiments": {"one": {"kind": kind, "base": "b"} | settings}}


def test_every_key_is_read(tmp_path: Path) -> None:
    document = tiny_study(tmp_path / "llama", seeds=[3, 4]) | {
        "seeds": [0, 1],
        "analyses": ["structure", "rank"],
        "resources": {"gpus": 1, "cpus": 4},
    }
    document["experiments"]["in-turn"] = {
        "kind": "sequence", "base": "b", "tasks": ["pydoc-topics-1", "pydoc-topics-2"], "adapters": "keep",
        "steps": 5, "methods": [{"method": "lora", "r": 2, "learning_rate": 1e-3}],
    }  # fmt: skip
    document["experiments"]["mechanism"] = {
        "kind": "random-rank-one", "base": ["b", "c"], "multiples": [0.5, 1], "include": ["*.q_proj.*"],
    }  # fmt: skip
    study = parsed(document)
    matched, sequence, mechanism = study.experiments
    assert (study.name, study.analyses, study.resources) == ("tiny", ("structure", "rank"), Resources(1, 4))
    assert [one.seeds for one in study.experiments] == [(3, 4), (0, 1), (0, 1)]
    assert matched.measure.intervene == SweepSettings((0.0,), ("shrink",))
    assert matched.measure.loss_on == ("pydoc",)
    assert sequence.tasks == ("pydoc-topics-1", "pydoc-topics-2")
    assert sequence.adapters == "keep"
    assert sequence.methods == ({"method": "lora", "rank": 2, "lr": 1e-3},), "long names are the short ones"
    assert (mechanism.multiples, mechanism.include) == ((0.5, 1.0), ("*.q_proj.*",))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (MINIMAL | {"seed": [0]}, ["'seed'", "did you mean 'seeds'"]),
        (MINIMAL | {"support": {"rank": 3}}, ["support of 'rank'", "expected a text"]),
        (MINIMAL | {"power": 3}, ["power", "3"]),
        (MINIMAL | {"seeds": []}, ["seeds", "at least one seed"]),
        (MINIMAL | {"seeds": [2**32]}, ["seed is 4294967296; expected a whole number from 0 to 4294967295"]),
        (MINIMAL | {"name": 3}, ["name is 3", "expected text"]),
        ({"experiments": {}}, ["no experiments"]),
        ({"experiments": ["one"]}, ["['one']", "settings by name"]),
        ({"experiments": {"one": "lora"}}, ["experiment 'one'", "'lora'"]),
        (with_experiment(rankk=1), ["experiment 'one'", "'rankk'", "did you mean 'rank'"]),
        (with_experiment(kind="finetuning"), ["'finetuning'", "finetune, sequence, random-rank-one"]),
        (with_experiment(methods=[]), ["methods", "at least one method"]),
        (with_experiment(methods=[{"rnak": 1}]), ["method 1", "'rnak'", "did you mean 'rank'"]),
        (with_experiment(methods=["lora"]), ["method 1", "'lora'", "settings by name"]),
        (with_experiment(seed=1), ["seed is not for a study", "seeds"]),
        (with_experiment(methods=[{"out": "x"}]), ["out is not for a study"]),
        (with_experiment(rank=1, r=2), ["'rank'", "'r'", "the same setting"]),
        (with_experiment(tasks=["a"]), ["'tasks'", "did you mean 'task'"]),
        (with_experiment(measure={"audits": {}}), ["'audits'", "did you mean 'audit'"]),
        (with_experiment(measure={"audit": {"k": 0}}), ["measure: audit", "k is 0"]),
        (with_experiment(measure={"loss_on": [3]}), ["loss_on", "3 is not a corpus"]),
        (with_experiment(measure={"intervene": {"scales": ["half"]}}), ["scales is 'half'", "a number"]),
        (with_experiment(measure={"intervene": {"controls": ["interpolate"]}}), ["'interpolate'", "no loss"]),
        (with_experiment(measure={"attribute": {"nodes": 5}}), ["attribute is given, but no loss_on gives"]),
        (with_experiment(measure={"remedies": {"only": ["line"]}}), ["did you mean 'lines'"]),
        (of_kind("sequence", steps=1), ["tasks", "at least one task"]),
        (of_kind("sequence", steps=1, task="a", tasks=["a"]), ["tasks: [...]"]),
        (of_kind("random-rank-one"), ["multiples", "at least one"]),
        (of_kind("random-rank-one", multiples=[0]), ["multiple of ||W0|| is 0", "above 0"]),
        (of_kind("random-rank-one", multiples=[1], lr=1), ["'lr'", "known are"]),
    ],
)
def test_what_cannot_be_used_is_refused(document: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        parsed(document)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in ("study 'file.yaml'", *words) if word not in message] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *[(text, "is not YAML") for text in ("a: [1", "\t- x", "experiments: {one: *nowhere}", "[" * 2000)],
        *[(text, "settings by name|no experiments") for text in ("", "- one", "just words", "3")],
    ],
)
def test_what_is_no_yaml_or_no_mapping_is_refused(text: str, said: str) -> None:
    with pytest.raises(SettingError, match=f"^study 'file.yaml'.*({said})[^\n]*$"):
        study_from_text(text, name="file", where="study 'file.yaml'")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"study '.*missing\.yaml' cannot be read: No such file"):
        read_study(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="cannot be read"):
        read_study(tmp_path / "binary.yaml")
