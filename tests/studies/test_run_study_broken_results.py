"""A result of a run that is cut off or is something else: what is said of it, and that nothing else is lost."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from intruders.errors import ResultFileError
from intruders.studies.results import load_results
from intruders.studies.run_study import StudyOutcome, run_study
from intruders.studies.runs import expand
from tests.studies.tiny_study import contents, parsed, tiny_study


@pytest.mark.parametrize(
    ("file", "removed"),
    [
        ("audit.json", "audit.json"), ("evaluation/evaluation.json", "evaluation"),
        ("scale.json", "scale.json"), ("outputs.json", "outputs.json"),
        ("intervention.json", "intervention.json"), ("model/run.json", ""), ("model/intruders.parquet", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", [None, b"", b'{"schema": 1}', b"[1]"])
def test_a_broken_result_is_named_with_what_to_remove(
    done: tuple[Path, StudyOutcome],
    llama: Path,
    tmp_path: Path,
    file: str,
    removed: str,
    content: bytes | None,
) -> None:
    out, study = shutil.copytree(done[0], tmp_path / "out"), parsed(tiny_study(llama))
    run = next(run for run in expand(study) if "lora" in run.id)
    folder = out / "runs" / run.id
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    before = contents(out)
    with pytest.raises(ResultFileError) as caught:
        run_study(study, out)
    assert str(caught.value).startswith(f"'{folder / file.partition('/')[0]}")
    assert f"; remove '{folder / removed}', and run the study again" in str(caught.value)
    assert "\n" not in str(caught.value)
    after = contents(out)
    kept = [name for name in before if name.startswith(("runs/", "bases/")) or name.endswith(".parquet")]
    assert [name for name in kept if after.get(name) != before[name]] == [], "nothing is lost"


def test_what_is_removed_of_a_broken_result_is_made_again(
    done: tuple[Path, StudyOutcome], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study = shutil.copytree(done[0], tmp_path / "out"), parsed(tiny_study(llama))
    for run, damaged in zip(expand(study), ("audit.json", "evaluation/evaluation.json"), strict=True):
        (out / "runs" / run.id / damaged).write_text("{")
        record = out / "runs" / run.id / "run.json"
        document = json.loads(record.read_text())
        for stage in ("audit", "evaluate"):
            document["stages"][stage]["seconds"] = 0.0
        record.write_text(json.dumps(document, indent=2) + "\n")
    models = contents(out / "runs")
    # As where a stage takes as long as before, to the millisecond: the record of the run is then what it was.
    monkeypatch.setattr("intruders.studies.work.time.perf_counter", lambda: 0.0)
    for _ in range(2):
        with pytest.raises(ResultFileError) as caught:
            run_study(study, out)
        named = Path(str(caught.value).partition("remove '")[2].partition("'")[0])
        shutil.rmtree(named) if named.is_dir() else named.unlink()
    assert run_study(study, out).finished == 2
    after = contents(out / "runs")
    assert {name: content for name, content in models.items() if "/model/" in name}.items() <= after.items()
    ours, theirs = load_results(out), load_results(done[0])
    for table in ("runs", "losses", "matrices", "vectors", "interventions", "traces"):
        pd.testing.assert_frame_equal(getattr(ours, table), getattr(theirs, table))
