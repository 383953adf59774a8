"""Results as a contract: files of this version are read, newer ones refused, and all fit their schemas."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from jsonschema import Draft202012Validator

import intruders
from intruders.audits.result.audit_result import Audit
from intruders.audits.scales.critical_scales_result import CriticalScales
from intruders.errors import ResultFileError
from intruders.studies.study_folder import RunRecord, StudyFolder
from intruders.studies.tables import check_table_schema
from intruders.system.documents import of_schema, read_document
from intruders.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "schema-1"
SCHEMAS = ROOT / "docs" / "reference" / "schemas"
# Of every document the fixture of its newest schema.
NEWEST = {
    file.name: file
    for folder in ("schema-1", "schema-2")
    for file in (FIXTURES.parent / folder).glob("*.json")
}
DOCUMENTS = sorted(NEWEST)


# Every file of the package that numbers a document, and the fixtures of it; or why it has none.
WRITTEN: dict[str, str] = {
    "audits/result/audit_result.py": "audit.json",
    "audits/fleet/fleet_result.py": "fleet.json",
    "audits/scales/critical_scales_result.py": "scale.json",
    "audits/update_alone.py": "update.json overlap.json",
    "checkpoints/merges/verify.py": "verification.json",
    "checkpoints/pairing/inspect.py": "inspection.json",
    "measures/verify_served.py": "served.json",
    "experiments/attribution.py": "attribution.json",
    "experiments/remedy_comparison.py": "remedies.json",
    "experiments/healing.py": "heal.json",
    "experiments/sweep.py": "intervention.json",
    "training/sequence_result.py": "sequence.json",
    "measures/evaluation.py": "evaluation.json",
    "mitigation/mitigation_result.py": "intruders.json",
    "mitigation/write_at_scale.py": "written.json",
    "checkpoints/writing/training_record.py": "run.json",
    "studies/tables.py": "findings.json",
    "studies/study_folder.py": "study/study.json study/killed/run.json",
    "experiments/choose_scale.py": "in the document of the scales, under choice",
    "studies/run_study.py": "what one call did; the results are the tables of the folder",
    "audits/fleet/fleet_files.py": "kept work: another number is computed again",
    "cli/housekeeping.py": "a list for the terminal, which no command reads",
    "checkpoints/pairing/served.py": "an answer for the terminal and for scripts, which no command reads",
    "system/store.py": "kept work: another number is measured again",
    "training/callback/training_start.py": "beside the trace of a training, and read by one that resumes it alone",
    "training/callback/limits.py": "beside the weights of a training that goes on, and read by that training alone",
    "studies/measure_stages.py": "in the folder of a study's run, whose tables have its numbers",
    "studies/stage.py": "in the folder of a study's run, whose tables have its numbers",
}
_NUMBERS = re.compile(r"^_?SCHEMA = \d|\(JsonResult\):|\"schema\": \d", re.MULTILINE)


def test_every_document_that_is_written_has_a_fixture_or_a_reason() -> None:
    package = Path(intruders.__file__).parent
    numbering = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if _NUMBERS.search(file.read_text(encoding="utf-8"))
    }
    assert numbering == set(WRITTEN)
    for named in WRITTEN.values():
        for name in named.split() if named.endswith(".json") else []:
            assert name in NEWEST or (FIXTURES / name).is_file() or (ROOT / name).is_file(), name


def test_readers_refuse_a_newer_document_with_its_number(tmp_path: Path) -> None:
    """Each by the function that its command calls, and the same file is read before; test_results.py has results."""
    files = shutil.copytree(FIXTURES, tmp_path / "files")
    readers: dict[Path, Callable[[], object]] = {
        files / "run.json": lambda: RunFolder(files).record,
        files / "interrupted" / "run.json": lambda: RunFolder(files / "interrupted").record,
        files / "study" / "study.json": lambda: StudyFolder(files / "study").document(),
        files / "study" / "killed" / "run.json": lambda: RunRecord(files / "study" / "killed").read(),
    }
    for file, read in readers.items():
        assert read()
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 2}))
        newer = rf"{re.escape(file.name)}.* newer version of intruders \(schema 2, this one reads 1\)"
        with pytest.raises(ResultFileError, match=newer):
            read()


def test_work_that_did_not_end() -> None:
    """A training that was interrupted after a step, and a study's run that was killed, are known as such."""
    interrupted = RunFolder(FIXTURES / "interrupted")
    assert RunFolder(FIXTURES).is_finished
    assert not interrupted.is_finished
    assert interrupted.record["status"] == "running"
    killed = RunRecord(FIXTURES / "study" / "killed").read()
    assert (killed["status"], killed["stages"], killed["error"]) == ("running", {}, None)


def schema_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return schema


def faults(document: dict[str, Any], name: str) -> list[str]:
    """What does not fit the published schema of that name."""
    return [error.message for error in Draft202012Validator(schema_of(name)).iter_errors(document)]


def test_published_findings_fit_the_published_schema() -> None:
    """Of a study that ran, not of the made-up one that the schema was made from."""
    findings = ROOT / "docs" / "results" / "data" / "minilm" / "findings.json"
    assert faults(json.loads(findings.read_text(encoding="utf-8")), "findings") == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_read_by_its_number_and_fits_its_published_schema(name: str) -> None:
    number, stem = int(NEWEST[name].parent.name.removeprefix("schema-")), Path(name).stem
    document = read_document(NEWEST[name], "a result", number)
    assert document is not None
    assert document["schema"] == number
    assert faults(document, stem) == []
    Draft202012Validator.check_schema(schema_of(stem))
    for key in schema_of(stem)["required"]:
        assert faults({other: value for other, value in document.items() if other != key}, stem), key


def test_what_is_written_today_fits_the_published_schemas(tmp_path: Path) -> None:
    """Of other numbers than the fixtures', a fleet with a damaged adapter, an evaluation without a base, and an audit
    of before the subspaces.
    """
    from tests.house.test_results import fleet
    from tests.made_up import BERT, made_up_audit
    from tests.reports.made_up_remedies import without_winner

    (tmp_path / "adapter_config.json").write_text("{")
    base = {"up.weight": torch.eye(4)}
    sources = [{"up.weight": torch.ones(4, 4)}, str(tmp_path)]
    audit = made_up_audit(1, BERT, width=8)
    earlier = audit.to_document()
    for matrix in earlier["matrices"]:
        matrix["subspaces"] = None
    made: list[tuple[str, Any]] = [
        ("audit", audit),
        ("audit", Audit.from_document(earlier)),
        ("fleet", fleet(Path())),
        ("fleet", intruders.audit_fleet(base, sources, k=2, cache=False)),
        ("evaluation", intruders.Evaluation(model="tuned", base=None, losses=[], scores=[], harness=[])),
        ("remedies", without_winner()),
    ]
    for name, result in made:
        assert faults(json.loads(json.dumps(result.to_document())), name) == [], name


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_an_audit_with_nan(ending: str) -> None:
    audit = Audit.load(FIXTURES / f"audit.{ending}")
    assert math.isnan(audit.matrices[0].update.effective_rank)
    assert not math.isnan(audit.matrices[1].update.effective_rank)
    assert len(audit.to_pandas()) == audit.vectors


def test_a_scale_that_was_not_found_is_infinite() -> None:
    assert CriticalScales.load(FIXTURES / "scale.json").matrices[1].measured == math.inf


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("audit.parquet", 2, "schema 2, this one reads 1"),
        ("adapters.parquet", 1, "has schema 1; expected 2"),
        ("adapters.parquet", 3, "schema 3, this one reads 2"),
    ],
)
def test_a_table_of_another_schema_is_refused(name: str, number: int, words: str, tmp_path: Path) -> None:
    table = pq.read_table(FIXTURES / name)
    schema = b'"schema": %d' % number
    metadata = {b"intruders": table.schema.metadata[b"intruders"].replace(b'"schema": 1', schema)}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / name)
    with pytest.raises(ResultFileError, match=words):
        Audit.load(tmp_path / name) if name == "audit.parquet" else intruders.FleetAudit.load(tmp_path)


def test_a_study_with_a_run_that_failed() -> None:
    file = FIXTURES / "study" / "runs.parquet"
    check_table_schema(file)
    assert {row["status"] for row in pq.read_table(file).to_pylist()} == {"finished", "failed"}


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    """As a copy that was interrupted leaves it: our own writer replaces a file only when it is complete."""
    for name in ("audit.json", "audit.parquet"):
        content = (FIXTURES / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ResultFileError, match=name):
            Audit.load(tmp_path / name)
    with pytest.raises(ResultFileError, match=r"audit\.json"):
        read_document(tmp_path / "audit.json", "a result", 1)


def test_a_document_of_another_number_is_refused() -> None:
    assert of_schema({"loss": 1.0}, "a.json", "a result", 1) == {"loss": 1.0}
    with pytest.raises(ResultFileError, match=r"'a.json' has schema 1; expected 3"):
        of_schema({"schema": 1}, "a.json", "a result", 3)
    for schema in ("1", True, None, 1.5):
        with pytest.raises(ResultFileError, match="is not a result"):
            of_schema({"schema": schema}, "a.json", "a result", 3)
