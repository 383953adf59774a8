"""Studies published without their models, made into a page again, and published again when they have grown."""

import hashlib
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from intruders.errors import ResultFileError, SettingError
from intruders.measures.evaluation import Evaluation
from intruders.studies.results import load_results
from intruders.studies.runs import expand
from intruders.studies.study_folder import StudyFolder
from intruders.studies.tables import rows_of, write_tables
from intruders_research.planning.earlier_times import time_lines
from intruders_research.published.publish import publish_study
from tests.commands import printed
from tests.research.continued import nothing_is_trained, only_of, same_tables
from tests.research.parsed import parsed, run_study
from tests.research.published.test_published_study import run_script
from tests.studies.tiny_study import contents, cut_off_at, tiny_study


def test_what_is_published_has_no_weights_and_the_tables_evaluations_and_verdicts_of_its_study(
    published: tuple[Path, Path],
) -> None:
    runs, data = published
    same_tables(load_results(runs), load_results(data))
    assert {file.suffix for file in data.iterdir()} == {".json", ".yaml", ".parquet"}
    document = json.loads((data / "published.json").read_text())
    assert len(document["runs"]) == document["planned"] == 2
    for run in document["runs"]:
        assert run["evaluation"] == json.loads(
            (runs / "runs" / run["id"] / "evaluation/evaluation.json").read_text()
        )
    # One stopped at its step and had no score to match: nothing deviates.
    assert document["deviations"] == []
    verdicts = printed("verdicts", data)
    assert f"`intruders report {data}`" in verdicts
    assert "intruders study" not in verdicts, "which would write into the published tables"


def test_an_outsider_finds_documents_answers_and_the_machine_in_the_folder(
    published: tuple[Path, Path],
) -> None:
    runs, data = published
    said = run_script("outsider.py", data)
    of = [Evaluation.load(folder / "evaluation") for folder in sorted((runs / "runs").iterdir())]
    loss = of[0].losses[0]
    (part,) = loss.losses
    kept = (loss.name, len(part.sums), int(part.tokens.sum()), *loss.digests)
    assert f"documents behind a loss (text, documents, tokens, digests): [{kept}]" in said
    assert of[0].machine["processor"] in said
    assert of[0].versions["torch"] in said
    one, other = (fmean(each.scores[0].right) for each in of)
    assert f": {one - other:+.3f} +-" in said


def test_published_and_taken_over_runs_tell_the_times_that_their_study_tells(
    published: tuple[Path, Path], another: Path, llama: Path
) -> None:
    runs, data = published
    planned = expand(parsed(tiny_study(llama, steps=1000)))
    told = [list(time_lines(planned, [str(folder)])) for folder in (runs, data, data.parent, another)]
    assert told[0][0].endswith("from the times of 2 earlier runs")
    assert told == [told[0]] * 4


def test_a_study_that_was_continued_can_be_published_and_taken_over_again(
    few: Path, llama: Path, tmp_path: Path
) -> None:
    publish_study(few, tmp_path / "data")
    outcome = run_study(parsed(tiny_study(llama)), tmp_path / "second", published=tmp_path / "data")
    assert (outcome.finished, len(outcome.taken_over)) == (2, 1)
    publish_study(tmp_path / "second", tmp_path / "data")
    assert len(json.loads((tmp_path / "data" / "published.json").read_text())["runs"]) == 2
    with pytest.raises(SettingError, match="1 finished runs that this study lacks"):
        publish_study(few, tmp_path / "data")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: (data / "study.yaml").write_text((data / "study.yaml").read_text() + "\n"),
        lambda data: (data / "runs.parquet").write_bytes(b"PAR1"),
        lambda data: (data / "vectors.parquet").unlink(),
    ],
    ids=["study.yaml", "runs.parquet", "vectors.parquet"],
)
def test_damaged_tables_are_made_again_by_the_study_that_has_their_runs_alone(
    published: tuple[Path, Path], data: Path, few: Path, another: Path, tmp_path: Path, damage: Any
) -> None:
    damage(data)
    before = contents(data)
    with pytest.raises(SettingError, match="1 finished runs that this study lacks"):
        publish_study(few, data)
    with pytest.raises(SettingError, match="has the tables of the study 'tiny', and this one is 'another'"):
        publish_study(another, data)
    assert contents(data) == before
    publish_study(published[0], data)
    same_tables(load_results(data), load_results(published[1]))


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        (
            {"published.json": '{"schema": 2}'},
            ResultFileError,
            r"was written by a newer version .*schema 2, this one reads 1",
        ),
        (
            {"published.json": '{"schema": 1, "files": {}}'},
            SettingError,
            r"cannot be checked for runs .* restore it, move",
        ),
        ({"published.json": "{"}, SettingError, r"cannot be checked for runs .* move the folder away"),
        (
            {"figures/mine.svg": "mine", "README.md": "mine", "report.html": "mine"},
            SettingError,
            r"has other files .* would be lost: README\.md, figures, report\.html; move them away",
        ),
    ],
    ids=["newer", "without runs", "cut off", "other files"],
)
def test_a_folder_that_has_more_than_published_tables_stays_as_it_is(
    published: tuple[Path, Path], data: Path, changed: dict[str, str], error: type[Exception], told: str
) -> None:
    for name, content in changed.items():
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text(content)
    before = contents(data)
    with pytest.raises(error, match=told):
        publish_study(published[0], data)
    assert contents(data) == before


def test_runs_that_a_changed_file_makes_unfinished_do_not_replace_finished_ones(
    data: Path, few: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study is stopped before it is measured by the new settings. A run that was taken over is then trained."""
    out = shutil.copytree(few, tmp_path / "out")
    document = tiny_study(llama)
    del document["experiments"]["matched"]["methods"][1]
    before = contents(data)
    document["experiments"]["matched"]["measure"]["audit"]["epsilon"] = 0.8
    cut_off_at("", parsed(document), out, monkeypatch)
    runs = load_results(out).runs
    assert list(runs["status"]) == ["pending"]
    assert runs["intruders"].isna().all(), "nothing of the earlier settings"
    with pytest.raises(SettingError, match="has no finished run"):
        publish_study(out, data)
    assert contents(data) == before
    outcome = run_study(parsed(document), out)
    assert (outcome.finished, outcome.failed) == (1, {})
    assert list((out / "runs").rglob("*.safetensors"))
    assert list(load_results(out).runs["status"]) == ["finished"]
    assert list(load_results(out).runs["epsilon"]) == [0.8]


def test_tables_of_a_kill_between_two_of_them_are_written_again_to_be_published(
    published: tuple[Path, Path], llama: Path, tmp_path: Path
) -> None:
    """The second run was taken over; its rows are those that came with it."""
    out = shutil.copytree(published[0], tmp_path / "out")
    first, second = (run.id for run in expand(parsed(tiny_study(llama))))
    shutil.rmtree(out / "runs" / second)
    run_study(parsed(tiny_study(llama)), out, published=published[1])
    for table in ("losses", "matrices", "vectors", "interventions", "traces"):
        only_of(out / f"{table}.parquet", first)
    publish_study(out, tmp_path / "data")
    same_tables(load_results(tmp_path / "data"), load_results(published[1]))


def test_tables_are_kept_where_the_files_of_a_run_were_removed(
    published: tuple[Path, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(published[0], tmp_path / "out")
    for model in (out / "runs").glob("*/model"):
        shutil.rmtree(model)
    publish_study(out, tmp_path / "data")
    same_tables(load_results(tmp_path / "data"), load_results(published[1]))


def test_a_run_whose_folder_was_removed_can_be_taken_over_after_publishing_again(
    published: tuple[Path, Path], data: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(published[0], tmp_path / "runs")
    first, second = (run.id for run in expand(parsed(tiny_study(llama))))
    shutil.rmtree(out / "runs" / second)
    publish_study(out, data)
    before, now = (json.loads((folder / "published.json").read_text()) for folder in (published[1], data))
    assert now["runs"] == before["runs"]
    nothing_is_trained(monkeypatch)
    outcome = run_study(parsed(tiny_study(llama)), tmp_path / "other", published=data)
    assert outcome.taken_over == [first, second]


def test_a_run_with_other_rows_than_were_published_does_not_get_the_record_of_those(
    published: tuple[Path, Path], data: Path, llama: Path, tmp_path: Path
) -> None:
    """Its losses were measured by other settings since, and then its folder was removed."""
    out = shutil.copytree(published[0], tmp_path / "runs")
    second = expand(parsed(tiny_study(llama)))[1].id
    shutil.rmtree(out / "runs" / second)
    losses = pq.read_table(out / "losses.parquet")
    column = losses.schema.get_field_index("loss")
    changed = losses.set_column(column, losses.field(column), pc.add(losses["loss"], 1.0))
    pq.write_table(changed, out / "losses.parquet")
    publish_study(out, data)
    records = {run["id"]: run for run in json.loads((data / "published.json").read_text())["runs"]}
    assert records[second]["stages"] == {}


def test_publishing_refuses_what_is_something_else(published: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(SettingError, match=r"is not empty and has no published\.json"):
        publish_study(published[0], tmp_path / "notes")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
    with pytest.raises(ResultFileError, match="is not the folder of a study"):
        publish_study(tmp_path / "notes", tmp_path / "data")


def test_published_tables_are_not_published_again(
    published: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    """Not even over themselves: they have no records of their runs to go on with."""
    before = contents(data)
    for out in (data, tmp_path / "new"):
        with pytest.raises(SettingError, match="contains published tables, without the records of the runs"):
            publish_study(data, out)
    assert contents(data) == before
    assert not (tmp_path / "new").exists()


def test_the_page_in_a_published_folder_is_no_obstacle_to_publishing_again(
    published: tuple[Path, Path], data: Path
) -> None:
    """A page of the earlier tables beside the new ones would mislead."""
    before = {file.name for file in data.iterdir()}
    for _ in range(2):
        assert printed("report", data) == f"{data / 'report.html'}\n"
        printed("publish", published[0], data)
        assert {file.name for file in data.iterdir()} == before


def test_what_people_wrote_on_deviations_stays_and_what_the_records_show_is_listed(
    published: tuple[Path, Path], data: Path, llama: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(published[0], tmp_path / "out")
    (data / "deviations.md").write_text("Fewer tokens.\n")
    document = tiny_study(llama) | {"seeds": [0, 1]}
    study = parsed(document)
    # The file was changed, and its new runs were not run.
    StudyFolder(out).keep(study, expand(study))
    write_tables(StudyFolder(out), (rows_of(run, out / "runs" / run.id) for run in expand(study)))
    publish_study(out, data)
    assert (data / "deviations.md").read_text() == "Fewer tokens.\n"
    changed, pending = json.loads((data / "published.json").read_text())["deviations"]
    assert changed.startswith("the study file was changed on ")
    assert hashlib.sha256(study.text.encode()).hexdigest() in changed
    assert pending.startswith("2 of 4 runs were planned and have not been run: ")
