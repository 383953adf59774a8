"""The tables of a study, written for others: without models, with what it takes to check and to continue them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.errors import NewerVersionError, ResultFileError, SettingError
from intruders.measures.evaluation import Evaluation
from intruders.studies.measure_stages import EVALUATION
from intruders.studies.results import Results, load_results
from intruders.studies.runs import Run, expand
from intruders.studies.stages import stages_of
from intruders.studies.study import study_from_text
from intruders.studies.study_folder import FINDINGS, PUBLISHED, REPORT, RunRecord, StudyFolder
from intruders.studies.tables import COLUMNS, refuse_newer_tables, rows_of, to_parquet, write_tables
from intruders.studies.work import precisions_of
from intruders.system.files import read_bytes, user_path, write_atomically
from intruders.system.folders import atomic_folder, locked_folder, make_folder
from intruders.system.plain_values import plain
from intruders.version import __version__

from ..claim_names import CLAIMS
from ..claims.every_claim import conclude
from ..claims.shared.equal_score import below_score
from .published_study import SCHEMA, PublishedRun, PublishedStudy, sha256

DEVIATIONS = "deviations.md"  # written by people, and kept when a study is published again
_IN_OUR_PAGES = b"https://pypi.org/project/intruders/"
_MOST_IDS = 5  # of runs that a line names
_COPIED = ("study.yaml", "study.json", *(f"{table}.parquet" for table in COLUMNS))
_MEASURED = ("documents.parquet", "examples.parquet")  # of every run's evaluation


def publish_study(path: str | Path, out: str | Path) -> list[Path]:
    """Write the tables of a study for others, without its models.

    The folder appears in one step. Earlier tables of the same study are replaced, unless they have a finished run
    that this study lacks. A deviations.md in the folder is kept, and so is the record of a run whose own folder was
    removed since, if its rows are the same. A report.html of the earlier tables is removed; ``intruders report`` makes
    it of the new ones.

    Args:
      path: Folder of the study.
      out: A new folder, or one with published tables of the same study.

    Returns:
      The files in ``out``, sorted.

    Raises:
      SettingError: another process uses the study, it has no finished run or is published already, or ``out``
        contains something else, other runs, or a record that cannot be read.
      ResultFileError: ``path`` is not the folder of a study, one of its tables is broken, or a newer version wrote
        ``out``.
    """
    folder, target = StudyFolder(user_path(path)), user_path(out)
    if (folder.path / PUBLISHED).is_file():
        raise SettingError(
            f"'{path}' contains published tables, without the records of the runs; expected the folder of a study; "
            "copy the published folder as it is"
        )
    name = str(folder.document()["name"])
    make_folder(target.parent, "data")
    with locked_folder(folder.path):
        file = folder.path / "study.yaml"
        text = read_bytes(file).decode("utf-8", errors="replace")
        runs = expand(study_from_text(text, name=name, where=f"study '{file}'"))
        _write_tables_again(folder, runs)
        results = load_results(folder.path)
        finished = set(results.runs.loc[results.runs["status"] == "finished", "run_id"])
        done = [run for run in runs if run.id in finished]
        if not done:
            raise SettingError(
                f"the study in '{folder.path}' has no finished run; run it with `intruders study`"
            )
        earlier = _earlier_tables(target, name, {run.digest for run in done})
        records = [_record(run, folder, earlier) for run in done]
        deviations = _deviations(folder, runs, results)
        with atomic_folder(target, force=True) as part:
            for file in (*(folder.path / name for name in _COPIED), target / DEVIATIONS):
                if file.is_file():
                    write_atomically(part / file.name, read_bytes(file))
            for file_name, rows in _measured(done, folder, None if earlier is None else target).items():
                write_atomically(part / file_name, rows.to_parquet(index=False))
            conclude(part, folder.document().get("analyses") or CLAIMS)
            document = {
                "schema": SCHEMA,
                "name": name,
                "published": datetime.now(UTC).date().isoformat(),
                "intruders": __version__,
                "files": {
                    file.name: sha256(read_bytes(file))
                    for file in sorted(part.iterdir())
                    if file.name != DEVIATIONS  # people may correct their words afterwards
                },
                "planned": len(runs),
                "runs": plain(records),
                "deviations": deviations,
            }
            content = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomically(part / PUBLISHED, content.encode())
    return sorted(target.iterdir())


def _write_tables_again(folder: StudyFolder, runs: Sequence[Run]) -> None:
    """Write the tables from the runs, since a kill between two of them leaves rows of a run in some alone.

    They stay as they are if a run that they have as finished cannot give its rows again: without its files, such as a
    model that was removed to save space, they are all that is left of it.
    """
    table = load_results(folder.path).runs
    finished = set(table.loc[table["status"] == "finished", "run_id"])
    records = [(run, RunRecord(folder.run(run.id))) for run in runs if run.id in finished]
    if all(
        record.is_taken_over or all(stage.is_there(record.folder) for stage in stages_of(run))
        for run, record in records
    ):
        refuse_newer_tables(folder)
        write_tables(folder, (rows_of(run, folder.run(run.id)) for run in runs))


def _record(run: Run, folder: StudyFolder, earlier: PublishedStudy | None) -> PublishedRun:
    kept = RunRecord(folder.run(run.id)).read()
    if not kept and earlier is not None:
        kept = _published_record(run, folder, earlier)
    measured = folder.run(run.id) / EVALUATION
    evaluation = Evaluation.load(measured).to_document() if measured.is_dir() else kept.get("evaluation")
    what = (run.id, run.digest, run.experiment, run.settings())
    return PublishedRun(*what, kept.get("stages", {}), kept.get("taken_over"), evaluation)


def _measured(runs: Sequence[Run], folder: StudyFolder, earlier: Path | None) -> dict[str, pd.DataFrame]:
    """Return by file the losses of documents and the answers to examples of every run; of one without its folder now,
    what earlier tables have of it.
    """
    tables = {}
    for name in _MEASURED:
        at = {run.id: folder.run(run.id) / EVALUATION / name for run in runs}
        parts = [pd.read_parquet(file).assign(run_id=run) for run, file in at.items() if file.is_file()]
        if earlier is not None and (earlier / name).is_file():
            rows = pd.read_parquet(earlier / name)
            parts.append(rows[rows["run_id"].isin([run for run, file in at.items() if not file.is_file()])])
        if parts:
            tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def _published_record(run: Run, folder: StudyFolder, earlier: PublishedStudy) -> dict[str, Any]:
    """Return what earlier tables record of a run whose folder was removed since; empty if its rows are others now."""
    record: dict[str, Any] = next((plain(one) for one in earlier.runs if one.digest == run.digest), {})
    try:
        before = earlier.rows_of(run.id)
    except ResultFileError:  # a damaged table
        return {}
    now = replace(earlier, folder=folder.path).rows_of(run.id)
    contents = [{table: to_parquet(table, own) for table, own in rows.items()} for rows in (before, now)]
    return record if contents[0] == contents[1] else {}


def _earlier_tables(target: Path, name: str, digests: set[str]) -> PublishedStudy | None:
    """Return the published tables that are replaced; None for a new or an empty folder.

    Raises:
      SettingError: the folder has other things, the tables of another study, or runs that are not in ``digests``.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / PUBLISHED).is_file():
        raise SettingError(
            f"data '{target}' is not empty and has no {PUBLISHED}; expected a new folder or published tables; "
            "choose another folder"
        )
    ours = {*_COPIED, *_MEASURED, FINDINGS, PUBLISHED, DEVIATIONS}
    others = sorted(
        file.name for file in target.iterdir() if file.name not in ours and not _is_own_page(file)
    )
    if others:
        raise SettingError(
            f"data '{target}' has other files than published tables, which would be lost: {_some(others)}; move them "
            "away, or choose another folder"
        )
    try:
        # Damaged tables are made again. The record alone says whether a run would be lost with them.
        earlier = PublishedStudy.read_record(target)
    except NewerVersionError:
        raise
    except ResultFileError as error:
        raise SettingError(
            f"data '{target}' cannot be checked for runs that this study lacks, because its {PUBLISHED} cannot be "
            "read; restore it, move the folder away, or choose another folder"
        ) from error
    if earlier.name != name:
        raise SettingError(
            f"data '{target}' has the tables of the study {earlier.name!r}, and this one is {name!r}; choose "
            "another folder"
        )
    lost = [run.id for run in earlier.runs if run.digest not in digests]
    if lost:
        raise SettingError(
            f"data '{target}' has {len(lost)} finished runs that this study lacks, the first {lost[0]!r}; take them "
            f"over with `intruders study FILE --out RUNS --from {target}`, or choose another folder"
        )
    return earlier


def _is_own_page(file: Path) -> bool:
    return file.name == REPORT and file.is_file() and _IN_OUR_PAGES in read_bytes(file)


def _deviations(folder: StudyFolder, runs: Sequence[Run], results: Results) -> list[str]:
    """List how the records differ from the file. People add theirs in deviations.md."""
    lines = []
    versions = folder.document().get("files", [])
    for version in versions[1:]:
        lines.append(f"the study file was changed on {version['date']} (SHA-256 {version['sha256']})")
    others = folder.others(runs)
    if others:
        lines.append(
            f"{len(others)} runs of an earlier version of the file are not in the tables: {_some(others)}"
        )
    table = results.runs
    for status, words in (("failed", "failed"), ("pending", "were planned and have not been run")):
        ids = list(table.loc[table["status"] == status, "run_id"])
        if ids:
            lines.append(f"{len(ids)} of {len(table)} runs {words}: {_some(ids)}")
    missed = below_score(table[table["status"] == "finished"])
    if len(missed):
        lines.append(f"{len(missed)} runs did not reach their score: {_some(list(missed['run_id']))}")
    trained_in = Counter(precisions_of(runs, folder).values())
    if len(trained_in) > 1:
        each = " and ".join(f"{count} in {precision}" for precision, count in trained_in.most_common())
        lines.append(f"precision is auto, which differs between machines: {each} were trained")
    copies = sorted({str(source) for source in table["data_source"].dropna() if "copy" in str(source)})
    if copies:
        lines.append(f"local copies of data were read instead of the Hub's: {', '.join(copies)}")
    return lines


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
    return ", ".join(ids[:_MOST_IDS]) + more
