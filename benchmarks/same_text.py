"""Heals the runs of research/examples/same-text.yaml, and prints the effects that it names in advance.

python -m benchmarks.same_text runs/same-text --heal
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import intruders
from benchmarks.usual_settings import said
from intruders.experiments.experiment_settings import HealSettings
from intruders.experiments.healing import HEALED, TUNED, Healing
from intruders.experiments.point import CorpusMeasure, HealedPoint, TaskMeasure
from intruders.measures.evaluation import Evaluation
from intruders.measures.intervals import NOTHING, mean_interval
from intruders.studies.results import load_results

CHOSEN, REPORTED = "data/c4/healing.jsonl", "wikitext-2"
RIVALS = ("share", "blocks", "doses", "replay", "self")
SETTINGS = HealSettings(
    learn="weights",
    steps=30,
    rivals=RIVALS,
    max_documents=64,
    max_tokens=96,
    max_examples=64,
    report_examples=500,
)
LITTLE = 0.02  # nats per token


def main(folder: Path, *, heals: bool) -> None:
    runs = load_results(folder).runs
    runs = runs[runs["status"] == "finished"].sort_values("seed")
    for (task, method), group in runs.groupby(["task", "method"]):
        healings: dict[int, Healing] = {}
        for run in group[group["replay"].isna()].itertuples():
            out = folder / "healed" / str(run.run_id)
            if heals and not (out / "heal.json").is_file():
                out.parent.mkdir(exist_ok=True)
                intruders.heal(
                    "smollm2-135m",
                    str(folder / "runs" / str(run.run_id) / "model"),
                    task=str(task),
                    columns=intruders.Columns(**splits_of(Path(str(task)).parent)),
                    loss_on=[CHOSEN, REPORTED],
                    settings=SETTINGS,
                    seed=0,  # the documents that the runs with replay had
                    loading=intruders.Loading(dtype="bfloat16"),
                    out=out,
                )
            if (out / "heal.json").is_file():
                healings[int(run.seed)] = Healing.load(out)
        with_replay = group[group["replay"].notna()].itertuples()
        replayed = {int(run.seed): point_of(folder, str(run.run_id), str(task)) for run in with_replay}
        print(f"\n{task}, {method}: seeds {sorted(healings)} healed, {sorted(replayed)} with replay")
        if healings:
            report(healings)
            both = {seed: healing for seed, healing in healings.items() if seed in replayed}
            print(f"  weights minus replay in training: {difference(both, replayed)}")


def splits_of(folder: Path) -> dict[str, Any]:
    """Return the files of a task that is a folder; nothing of a task by name."""
    files = {f"{split}_file": str(folder / f"{split}.jsonl") for split in ("validation", "test")}
    return {**files, "max_new_tokens": 8} if Path(files["test_file"]).is_file() else {}


def point_of(folder: Path, run_id: str, task: str) -> HealedPoint:
    """Measure a run with replay on the documents and examples that healings report on, and print it."""
    out = folder / "replayed" / run_id
    size = {"max_documents": SETTINGS.max_documents, "max_tokens": SETTINGS.max_tokens}
    rows = splits_of(Path(task).parent) | {"max_examples": SETTINGS.report_examples}
    if not out.is_dir():
        intruders.evaluate(
            str(folder / "runs" / run_id / "model"),
            base="smollm2-135m",
            losses=intruders.LossSettings(loss_on=(CHOSEN, REPORTED), **size),
            scores=intruders.ScoreSettings(tasks=(task,), **rows),
            reported_half=True,
            loading=intruders.Loading(dtype="bfloat16"),
            out=out,
        )
    measured = Evaluation.load(out)
    [score] = measured.scores
    corpora = {loss.name: CorpusMeasure(loss.loss, loss.difference or NOTHING) for loss in measured.losses}
    said_of = "  ".join(f"{name} {one.forgotten.estimate:+.3f}" for name, one in corpora.items())
    print(f"  {run_id}: {said_of}  {score.accuracy.estimate:.3f}", flush=True)
    return HealedPoint(run_id, None, corpora, {task: TaskMeasure(NOTHING, NOTHING, score.accuracy)})


def report(healings: Mapping[Any, Healing], rivals: Sequence[str] = RIVALS) -> None:
    """Print every model's losses and accuracy, and the weights against every rival, by seed and over seeds."""
    little = [
        seed
        for seed, healing in healings.items()
        if healing.tuned_point.corpora[REPORTED].forgotten.estimate < LITTLE
    ]
    print(f"  forgot less than {LITTLE} nats: {little or 'none'}")
    healings = {seed: healing for seed, healing in healings.items() if seed not in little}
    for name in (TUNED, HEALED, *rivals):
        rows = []
        for healing in healings.values():
            point = healing.point(name)
            assert point is not None
            accuracy = point.tasks[healing.task].accuracy
            assert accuracy is not None
            shares = "  ".join(
                f"{one.forgotten.estimate:+.3f} ({'-' if one.healed is None else f'{one.healed.estimate:.0%}'})"
                for one in (point.corpora[CHOSEN], point.corpora[REPORTED])
            )
            rows.append(f"{shares}  {accuracy.estimate:.3f}")
        print(f"  {name:<8} " + "   ".join(rows))
    for rival in (TUNED, *rivals):
        others = {name: healing.point(rival) for name, healing in healings.items()}
        print(f"  weights minus {rival}: {difference(healings, others)}")


def difference(healings: Mapping[Any, Healing], others: Mapping[Any, HealedPoint | None]) -> str:
    """Say the healed models' loss and accuracy minus those of another model each, with their means."""
    losses, accuracies = [], []
    for name, healing in healings.items():
        one, other = healing.healed_point, others[name]
        assert other is not None
        losses.append(one.corpora[REPORTED].loss.estimate - other.corpora[REPORTED].loss.estimate)
        own, of_other = one.tasks[healing.task].accuracy, next(iter(other.tasks.values())).accuracy
        assert own is not None
        assert of_other is not None
        accuracies.append(100 * (own.estimate - of_other.estimate))
    return f"{said(mean_interval(losses))}; points {said(mean_interval(accuracies))}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), heals="--heal" in sys.argv[2:])
