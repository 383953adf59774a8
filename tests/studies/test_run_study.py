"""Studies of tiny models, run, stopped, broken and gone on with."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from intruders.audits.audit import audit
from intruders.errors import DiskFullError, SettingError
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.studies.results import load_results
from intruders.studies.run_study import StudyOutcome, StudyProgress, run_study
from intruders.studies.runs import expand
from intruders.studies.stage import RunAtWork
from intruders.studies.stages import STAGES
from intruders.system import processes
from intruders.system.files import stop_on_full_disk
from intruders.system.folders import LOCK
from tests.studies.tiny_study import BRIEF, LORA, parsed, stages_do, tiny_study
from tests.tiny import short_task


def files(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_mtime_ns
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def only_lora(llama: Path, **changes: Any) -> dict[str, Any]:
    return tiny_study(llama, methods=[LORA], measure=BRIEF, audit_steps=None, **changes)


def test_every_run_is_finished_and_in_the_tables(done: tuple[Path, StudyOutcome]) -> None:
    out, outcome = done
    assert (outcome.runs, outcome.finished, outcome.failed, outcome.others) == (2, 2, {}, [])
    results = load_results(out)
    assert results.name == "tiny"
    assert list(results.runs["status"]) == ["finished"] * 2
    assert list(results.runs["method"]) == ["lora", "full"]
    lora, full = results.runs["run_id"]
    for name in ("matrices", "vectors", "traces"):
        assert set(getattr(results, name)["run_id"]) == {lora, full}, name
    assert set(results.interventions["run_id"]) == {lora}
    skipped = json.loads((out / "runs" / full / "intervention.json").read_text())["skipped"]
    assert skipped == "the run has no intruders to scale"


def test_the_tables_say_what_an_audit_of_base_and_model_says(
    done: tuple[Path, StudyOutcome], llama: Path
) -> None:
    out, _ = done
    results = load_results(out)
    for row in results.runs.itertuples():
        again = audit(llama, out / "runs" / str(row.run_id) / "model", k=4, cache=False)
        of_run = results.matrices[results.matrices["run_id"] == row.run_id]
        assert row.intruders == again.intruders == of_run["intruders"].sum()
        assert (row.k, row.epsilon, row.matrices) == (4, 0.5, 14)
        sizes = [matrix.update.frobenius for matrix in again.matrices]
        assert list(of_run["frobenius"]) == pytest.approx(sizes)
    assert results.runs["intruders"].iloc[0] > 0, "or the interventions show nothing"


def test_losses_are_evaluates_the_bases_measured_once(done: tuple[Path, StudyOutcome], llama: Path) -> None:
    out, _ = done
    runs = load_results(out).runs
    model = str(out / "runs" / runs["run_id"].iloc[0] / "model")
    found = evaluate(
        model,
        base=str(llama),
        losses=LossSettings(("pydoc",), max_documents=2, max_tokens=64, window=32),
        scores=ScoreSettings(tasks=(short_task(llama.parent),), max_examples=2, max_new_tokens=8),
    )
    (loss,) = found.losses
    assert loss.base_loss is not None
    assert loss.difference is not None
    first = runs.iloc[0]
    assert first["loss"] == pytest.approx(loss.loss.estimate, rel=1e-6)
    assert first["base_loss"] == pytest.approx(loss.base_loss.estimate, rel=1e-6)
    assert first["loss_change"] == pytest.approx(loss.difference.estimate, rel=1e-5)
    assert first["accuracy"] == found.scores[0].accuracy.estimate
    assert runs["base_loss"].nunique() == 1
    assert len(list((out / "bases").iterdir())) == 1


def test_the_interventions_take_the_audit_that_is_there(
    done: tuple[Path, StudyOutcome], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(done[0], tmp_path / "out")

    again = "intruders.audits.audit.audit_pairing"
    monkeypatch.setattr(again, lambda *given, **named: pytest.fail("audited again"))
    document = tiny_study(llama)
    document["experiments"]["matched"]["measure"]["intervene"]["scales"] = [0.5]
    outcome = run_study(parsed(document), out)
    assert (outcome.finished, outcome.failed) == (2, {})
    assert set(load_results(out).interventions["scale"]) == {0.5, 1.0}


def test_a_run_that_leaves_the_file_leaves_the_tables_alone(llama: Path, tmp_path: Path) -> None:
    run_study(parsed(only_lora(llama)), tmp_path / "out")
    outcome = run_study(parsed(only_lora(llama, steps=1)), tmp_path / "out")
    assert (outcome.runs, outcome.finished, len(outcome.others)) == (1, 1, 1)
    assert list(load_results(tmp_path / "out").runs["steps"]) == [1]
    assert (tmp_path / "out" / "runs" / outcome.others[0] / "audit.json").is_file()


def breaking(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException, for_run: str = "") -> None:
    [whole] = [stage.do for stage in STAGES if stage.name == name]

    def broken(at: RunAtWork) -> None:
        if for_run in str(at.run):
            raise error
        whole(at)

    stages_do(monkeypatch, broken, name)


def test_a_failed_run_is_tried_again(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = parsed(tiny_study(llama, measure=BRIEF))
    with monkeypatch.context() as patched:
        breaking(patched, "audit", RuntimeError("out\nof luck"), "method='lora'")
        outcome = run_study(study, tmp_path / "out")
    assert outcome.finished == 1
    ((failed, said),) = outcome.failed.items()
    assert "lora" in failed
    assert said == "RuntimeError: out of luck"
    results = load_results(tmp_path / "out")
    assert list(results.runs["status"]) == ["failed", "finished"]
    assert results.runs["error"].iloc[0] == said
    assert results.failed == [failed]
    assert "in broken" in (tmp_path / "out" / "runs" / failed / "error.txt").read_text(), "where it happened"
    trained = files(tmp_path / "out" / "runs" / failed / "model")
    again = run_study(study, tmp_path / "out")
    assert (again.finished, again.failed) == (2, {})
    assert files(tmp_path / "out" / "runs" / failed / "model") == trained, "what was finished is kept"
    assert load_results(tmp_path / "out").runs["error"].isna().all()


def test_settings_that_only_the_data_can_refuse_fail_their_run_alone(llama: Path, tmp_path: Path) -> None:
    document = only_lora(llama)
    matched = document["experiments"]["matched"]
    document["experiments"]["no-task"] = matched | {"task": "no-such-task"}
    document["experiments"]["no-text"] = matched | {"measure": BRIEF | {"loss_on": ["no-such-text"]}}
    outcome = run_study(parsed(document), tmp_path / "out")
    assert outcome.finished == 1
    (_, of_task), (failed, of_text) = outcome.failed.items()
    assert "task 'no-such-task' is not known" in of_task
    assert "corpus 'no-such-text' is not known" in of_text
    assert not (tmp_path / "out" / "runs" / failed / "model").exists(), "it is told before the training"


@pytest.mark.parametrize("by", ["Ctrl-C", "disk", "quota", "training"])
def test_what_ends_the_study_keeps_what_is_finished(
    by: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a training raises when torch's own writer fills the disk, which names neither disk nor number.
    with pytest.raises(DiskFullError) as caught, stop_on_full_disk(tmp_path):
        raise RuntimeError(
            "[enforce fail at inline_container.cc:659] . PytorchStreamWriter failed writing file"
        )
    full, said = DiskFullError, r"the disk of .* is full.* run the same command again"
    endings: dict[str, tuple[BaseException, type[BaseException], str | None]] = {
        "Ctrl-C": (KeyboardInterrupt(), KeyboardInterrupt, None),
        "disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), full, said),
        "quota": (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), full, said),
        "training": (caught.value, full, said),
    }
    error, ends, words = endings[by]
    study = parsed(tiny_study(llama, measure=BRIEF))
    with monkeypatch.context() as patched:
        breaking(patched, "audit", error, "method='full'")
        with pytest.raises(ends, match=words):
            run_study(study, tmp_path / "out")
    assert list(load_results(tmp_path / "out").runs["status"]) == ["finished", "pending"]
    before = files(tmp_path / "out" / "runs")
    assert run_study(study, tmp_path / "out").finished == 2
    lora = {name: time for name, time in before.items() if "-lora-" in name}
    assert lora.items() <= files(tmp_path / "out" / "runs").items()


def test_a_training_that_was_killed_before_its_record_starts_anew(llama: Path, tmp_path: Path) -> None:
    study = parsed(only_lora(llama))
    (run,) = expand(study)
    model = tmp_path / "out" / "runs" / run.id / "model"
    (model / ".scratch.0123456789ab.part").mkdir(parents=True)
    (model / ".run.json.0123456789ab.part").write_text("{")
    (model / LOCK).touch()
    (tmp_path / "out" / "study.json").write_text(json.dumps({"schema": 1, "name": "tiny"}))
    assert run_study(study, tmp_path / "out").finished == 1


def test_two_calls_do_not_share_a_folder(llama: Path, tmp_path: Path) -> None:
    study = parsed(only_lora(llama))
    seen: list[str] = []

    def second(done: int, total: int) -> None:
        with pytest.raises(SettingError, match="is in use by another process"):
            run_study(study, tmp_path / "out")
        seen.append("refused")

    run_study(study, tmp_path / "out", progress=StudyProgress(on_start=second))
    assert seen == ["refused"]


def test_what_is_no_number_of_jobs_or_no_study_is_refused(llama: Path, tmp_path: Path) -> None:
    for jobs in (0, -1, True, 1.5):
        with pytest.raises(SettingError, match="jobs is"):
            run_study(parsed(only_lora(llama)), tmp_path / "out", jobs=jobs)  # type: ignore[arg-type]
    for file in (str(tmp_path / "study.yaml"), tmp_path / "study.yaml"):
        with pytest.raises(SettingError, match=r"study is .*study\.yaml'\)?; expected .*; pass read_study\("):
            run_study(file, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_sequence_and_a_kind_that_is_a_plugin(bert: Path, llama: Path, tmp_path: Path) -> None:
    document = {
        "experiments": {
            "in-turn": {
                "kind": "sequence", "base": str(bert), "tasks": ["pydoc-topics-1", "pydoc-topics-2"], "steps": 1,
                "max_train_samples": 8, "max_eval_samples": 4, "max_length": 32, "precision": "fp32", "rank": 1,
                "measure": {"audit": {"k": 3, "exclude": ["*pooler*"]}},
            },
            "alone": {
                "kind": "random-rank-one", "base": str(llama), "multiples": [0.01, 5], "include": ["*.q_proj.*"],
            },
        }
    }  # fmt: skip
    outcome = run_study(parsed(document), tmp_path / "out")
    [error] = outcome.failed.values()
    assert "kind is 'random-rank-one', which is a plugin that is not installed" in error
    results = load_results(tmp_path / "out")
    assert list(results.runs["kind"]) == ["sequence", "random-rank-one"]
    assert list(results.runs["status"]) == ["finished", "failed"]
    assert results.runs["task"].iloc[0] == "pydoc-topics-1,pydoc-topics-2"
    sequences = results.sequences[["stage", "task_index"]].to_records(index=False).tolist()
    assert sequences == [(0, 0), (1, 0), (1, 1)]
    assert set(results.sequences["vectors"]) == {2 * 6 * 3}, "two layers of six matrices, three vectors each"
    assert results.mechanism.empty


def test_runs_side_by_side_one_killed(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills one process costs its run alone, says so, and the next call resumes it."""
    # New starts of Python, which load torch and PEFT each, are in test_run_study_killed and test_processes.
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    # Forked processes hold one another's pipes, so that an idle one does not hear that there is no more to do.
    monkeypatch.setattr(processes, "_PATIENCE", 0.1)
    methods = [{"method": "lora", "rank": [1, 2, 3], "alpha": 16, "lr": 0.5}]
    study = parsed(tiny_study(llama, methods=methods, measure=BRIEF))
    out = tmp_path / "out"
    first, *_ = expand(study)
    [audited] = [stage.do for stage in STAGES if stage.name == "audit"]

    def killed(at: RunAtWork) -> None:
        if at.run.id == first.id:
            os.kill(os.getpid(), signal.SIGKILL)
        audited(at)

    with monkeypatch.context() as patched:
        stages_do(patched, killed, "audit")
        outcome = run_study(study, out, jobs=2)
    [(failed, said)] = outcome.failed.items()
    assert failed == first.id
    assert "ended by signal 9" in said
    assert outcome.finished == 2, "the others proceed"
    again = run_study(study, out)
    assert (again.finished, again.failed) == (3, {})
    assert set(load_results(out).runs["status"]) == {"finished"}
