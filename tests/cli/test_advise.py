"""`intruders advise` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from intruders.cli.advise import advise as command
from intruders.errors import IntrudersError, SettingError
from intruders.reports.advise import advise
from tests.commands import without_loading
from tests.made_up import made_up_audit
from tests.reports.advised import scale_document, topics, write, write_study
from tests.studies.planted import matched, study


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    audit.save(tmp_path / "audit.json")
    write(tmp_path / "scale.json", scale_document(audit, 0.36))
    result = CliRunner().invoke(app, [str(tmp_path), "--json", str(tmp_path / "advice.json")])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80 + len(str(tmp_path))
    document = json.loads((tmp_path / "advice.json").read_text())
    assert document["schema"] == 1
    assert [step["command"] for step in document["steps"]] == [step.line for step in advise(tmp_path).steps]
    assert "what to do, in this order\n1. An audit does not measure forgetting." in result.output
    assert [one["topic"] for one in document["advice"]] == topics(tmp_path)
    piped = CliRunner().invoke(app, [str(tmp_path), "--json", "-"])
    assert json.loads(piped.output) == document
    missing = CliRunner().invoke(app, [str(tmp_path), "--json", str(tmp_path / "no" / "such.json")])
    assert isinstance(missing.exception, IntrudersError)


def test_a_saved_audit_is_advised_on_without_loading_torch(tmp_path: Path) -> None:
    """Which takes several times as long as the rest of the command."""
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    audit.save(tmp_path / "audit.json")
    done = without_loading(["torch"], ["advise", tmp_path])
    assert done.returncode == 0, done.stderr
    assert "(audit)" in done.stdout


def test_the_folder_of_a_study_is_refused_with_where_its_advice_comes_from(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", study(runs=matched()))
    with pytest.raises(SettingError, match=r"is the folder of a study.*pip install \./research"):
        advise(folder)
