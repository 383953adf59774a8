"""From a study to its runs: the grid, the order, and ids that stay as they are."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from intruders.errors import SettingError
from intruders.studies.runs import Run, expand
from intruders.studies.study import study_from_text
from tests.docs.pages import blocks
from tests.studies.tiny_study import parsed

EXAMPLES = Path(__file__).parents[2] / "examples"


def runs_of(seeds: list[int] | None = None, **settings: Any) -> list[Run]:
    base = {"base": "b", "task": "word-problems", "steps": 10}
    return expand(parsed({"seeds": seeds or [0], "experiments": {"one": base | settings}}))


def ids(runs: list[Run]) -> set[str]:
    return {run.id for run in runs}


def test_a_grid_is_every_combination() -> None:
    runs = runs_of(
        seeds=[0, 1],
        lr=[1e-3, 1e-4],
        methods=[{"method": ["lora", "dora"], "rank": [1, 2, 4]}, {"method": "full"}],
    )
    configs = [run.config for run in runs if run.config is not None]
    wanted = set(itertools.product(["lora", "dora"], [1, 2, 4], [1e-3, 1e-4], [0, 1]))
    wanted |= set(itertools.product(["full"], [8], [1e-3, 1e-4], [0, 1]))
    assert {(config.method, config.rank, config.lr, config.seed) for config in configs} == wanted
    assert len(runs) == len(wanted)
    assert [config.seed for config in configs] == [run.seed for run in runs]


def test_runs_go_seed_by_seed() -> None:
    trained = {"base": "b", "task": "word-problems", "steps": 1}
    terms = {"kind": "random-rank-one", "base": "b", "multiples": [1], "seeds": [7, 2]}
    experiments = {"a": trained, "b": trained | {"seeds": [0]}, "c": terms}
    runs = expand(parsed({"seeds": [2, 0], "experiments": experiments}))
    found = [(run.seed, run.experiment) for run in runs]
    assert found == [(2, "a"), (2, "c"), (0, "a"), (0, "b"), (7, "c")]


def test_a_list_that_a_setting_is_is_no_grid() -> None:
    (one,) = runs_of(target_modules=["q_proj", "v_proj"])
    assert one.config is not None
    assert one.config.target_modules == ("q_proj", "v_proj")
    two = runs_of(target_modules=[["q_proj"], ["v_proj"]])
    assert [run.config.target_modules for run in two if run.config] == [("q_proj",), ("v_proj",)]


def test_an_id_depends_on_every_setting_of_the_training() -> None:
    settings: dict[str, list[Any]] = {
        "base": ["b", "c"], "task": ["word-problems", "pydoc-topics"], "rank": [1, 2], "alpha": [1, "2r"],
        "lr": [1e-3, 2e-3], "steps": [1, 2], "batch_size": [1, 2], "weight_decay": [0, 0.1], "warmup_steps": [0, 3],
        "max_train_samples": [None, 5], "match": [None, "accuracy=0.5"], "data_seed": [0, 1], "audit_steps": [None, 5],
        "replay": [None, "pydoc@0.25"],
    }  # fmt: skip
    for name, values in settings.items():
        runs = runs_of(**{name: values}, **({"eval_steps": 5} if name == "match" else {}))
        assert len(ids(runs)) == 2, name


def test_an_id_is_the_same_however_a_value_is_written() -> None:
    assert ids(runs_of(lr="1e-3")) == ids(runs_of(lr=0.001)) == ids(runs_of(learning_rate=1e-3))
    assert ids(runs_of(rank=8)) == ids(runs_of()), "what is the default need not be written"
    assert ids(runs_of(method="full", rank=3, alpha=7)) == ids(runs_of(method="full")), "full has no rank"


def test_an_id_is_the_name_of_a_folder_everywhere() -> None:
    runs = runs_of(
        task=["data/a b.tsv?text=x&label=y", "word-problems"], alpha="2r", replay="texts/known@0.5"
    )
    sequence = {"kind": "sequence", "base": "b", "tasks": ["t"], "steps": 1}
    for run in [*runs, *expand(parsed({"experiments": {"ä/../x": sequence}}))]:
        assert re.fullmatch(r"[A-Za-z0-9.-]+", run.id)


def test_two_runs_of_one_id_are_refused() -> None:
    with pytest.raises(SettingError, match=r"two runs are the same, 'one-.*rank1.*experiment 'one'"):
        runs_of(methods=[{"rank": [1, 2]}, {"rank": 1}])
    with pytest.raises(SettingError, match="two runs are the same"):
        runs_of(lr=[1e-3, "0.001"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": [1, "two"]}, "rank is 'two'"),
        ({"steps": None}, "neither steps nor epochs"),
        ({"base": None}, "base"),
        ({"lr": {"a": 1}}, "lr is"),
        ({"methods": [{"rank": []}]}, "rank is an empty list"),
        ({"task": []}, "task is an empty list"),
    ],
)
def test_what_fine_tuning_refuses_is_refused_first(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=f"experiment 'one', method 1: .*{words}"):
        runs_of(**settings)


def test_the_files_in_the_documentation_can_be_expanded() -> None:
    page = EXAMPLES.parent / "docs" / "reference" / "study.md"
    files = [block.text for block in blocks(page) if block.language == "yaml"]
    (complete,) = (text for text in files if "name: mine" in text)
    assert len(expand(study_from_text(complete, name="x", where="x"))) == 9
    (kinds,) = (text for text in files if "in-turn:" in text)
    runs = expand(study_from_text(kinds, name="x", where="x"))
    assert [run.kind for run in runs] == ["sequence"] * 3 + ["random-rank-one"]


def test_orders_of_a_sequence_are_a_grid() -> None:
    experiment = {"kind": "sequence", "base": "b", "tasks": ["x", "y", "z"], "steps": 1}

    def ordered(**order: object) -> list[Run]:
        return expand(parsed({"experiments": {"s": experiment | order}}))

    plain, several = ordered(), ordered(order=[[1, 2, 3], [3, 1, 2]])
    assert [run.tasks for run in several] == [("x", "y", "z"), ("z", "x", "y")]
    assert several[0].id == plain[0].id, "the order as it stands is the same run"
    assert [run.tasks for run in ordered(order=[2, 3, 1])] == [("y", "z", "x")]
    for wrong in ([1, 2], [1, 2, 2], "1,2,3", [[1, 2, 3], 3]):
        with pytest.raises(SettingError, match="expected the numbers 1 to 3 of the tasks"):
            ordered(order=wrong)
