"""The paper's studies, on tiny random models of the same architectures: the same file, the same code."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from intruders.studies.results import Results, load_results
from intruders.studies.run_study import run_study
from intruders_research.claim_names import CLAIMS
from intruders_research.claims.every_claim import conclude
from intruders_research.cli.study import print_expected
from intruders_research.published.beside_paper import beside_paper
from intruders_research.read_study import read_study
from tests.research.parsed import parsed
from tests.tiny import save_roberta, short_task

EXAMPLES = Path(__file__).parents[2] / "research" / "examples"
# Each method of an experiment once, at the last values of its grids; the rest of the file as it stands.
SMALL: dict[str, Any] = {
    "epochs": 1, "batch_size": 4, "gradient_accumulation_steps": 1, "max_train_samples": 8, "max_eval_samples": 4,
    "max_length": 64, "precision": "fp32", "save_steps": 100,
}  # fmt: skip


def shrunk(name: str, base: Path, tasks: list[str], corpus: Path) -> dict[str, Any]:
    """The example with another base, local data, and fewer rows."""
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    document["seeds"] = [0]
    for experiment in document["experiments"].values():
        experiment["base"] = str(base)
        experiment |= SMALL
        if "tasks" in experiment:
            experiment["tasks"] = tasks
        else:
            experiment["task"] = tasks[0]
        if "audit_steps" in experiment:
            experiment["audit_steps"] = 1
        if "seeds" in experiment:
            experiment["seeds"] = experiment["seeds"][:1]
        by_name = {method.get("method"): method for method in experiment["methods"]}
        experiment["methods"] = [_last(method) for method in by_name.values()]
        measure = experiment["measure"] = {**experiment["measure"], "max_examples": 2}
        if "loss_on" in measure:
            measure |= {"loss_on": [str(corpus)], "max_documents": 2, "window": 24}
        if "intervene" in measure:
            measure["intervene"] = measure["intervene"] | {"scales": [0], "controls": ["neighbours"]}
    return document


def _last(method: dict[str, Any]) -> dict[str, Any]:
    return {key: value[-1] if isinstance(value, list) else value for key, value in method.items()}


PLANNED = [
    "sequence-minilm",
    "intervention-smollm2",
    "rank-smollm2",
    "rates-minilm",
    "causes-minilm",
    "rank-or-movement",
]


@pytest.mark.parametrize("name", PLANNED)
def test_a_planned_study_says_in_advance_what_would_count_and_has_the_seeds_for_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read_study(EXAMPLES / f"{name}.yaml")
    assert study.name == name
    assert study.support.keys() <= set(study.analyses)
    assert study.analyses[0] in study.support
    print_expected(study, None, must_exist=False)
    printed = capsys.readouterr().out.splitlines()
    powers = [line for line in printed if line.startswith("power: ")]
    assert len(powers) == len({line.split(": ")[1] for line in powers}) >= len(study.power)
    assert any("seeds needed for an effect of" in power for power in powers)
    assert not any("which is fewer" in power for power in powers)
    assert sum(line.startswith("support: ") for line in printed) == len(study.support)
    assert any(line.startswith("time: no finished runs in 'runs/") for line in printed)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("A short text.\n\nAnother one, as short.\n")
    return file


@pytest.mark.slow
def test_the_papers_roberta_study(tmp_path: Path, corpus: Path) -> None:
    rows = [
        {"sentence": f"number {n} of the rows", "label": "even" if n % 2 == 0 else "odd"} for n in range(24)
    ]
    tasks = []
    for name in ("first", "second"):
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
        tasks.append(f"{tmp_path / name}.tsv?text=sentence&label=label")
    base = save_roberta(tmp_path / "roberta")
    results = check(
        shrunk("paper-roberta", base, tasks, corpus), tmp_path / "out", {"lora", "b-only", "full"}
    )
    sequences = results.sequences
    is_earlier = sequences["task_index"] < sequences["stage"]
    assert is_earlier.any()
    assert (sequences["head_steps"].notna() == is_earlier).all()


@pytest.mark.slow
def test_the_papers_llama_study(llama: Path, tmp_path: Path, corpus: Path) -> None:
    document = shrunk("paper-llama", llama, [short_task(tmp_path)], corpus)
    for experiment in document["experiments"].values():
        experiment["max_new_tokens"] = 8
    document["experiments"]["code"]["seeds"] = [1]  # or the two would be of one task and seed
    check(document, tmp_path / "out", {"lora", "full"})


def check(document: dict[str, Any], out: Path, methods: set[str]) -> Results:
    outcome = run_study(parsed(document), out)
    assert outcome.failed == {}
    results = load_results(out)
    runs = results.runs
    tuned = runs[runs["kind"] == "finetune"]
    assert set(tuned["method"]) == methods
    assert tuned[["loss", "base_loss", "accuracy", "intruders"]].notna().all(axis=None)
    assert set(results.interventions["which"]) <= {"top"}
    assert len(conclude(out, CLAIMS)) == len(CLAIMS)
    beside = beside_paper(results)
    assert beside
    assert all(table.known == 0 for table in beside)  # it is another base
    return results
