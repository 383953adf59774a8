"""intruders study as a person types it, with verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cli.test_study import file
from tests.commands import in_this_process

__all__ = ["file"]


def test_a_study_ends_with_its_verdicts_and_where_they_are(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = in_this_process("study", file, "--out", out)
    assert first.returncode == 0, first.stderr
    assert "2 of 2 runs finished, 0 failed" in first.stdout
    assert first.stderr.count("finished, ") == 2, "one line a run where there is no terminal"
    assert "\r" not in first.stderr
    findings = json.loads((out / "findings.json").read_text())["findings"]
    for finding in findings:
        assert finding["verdict"] in first.stdout
    assert [finding["name"] for finding in findings][:2] == ["structure", "rank"]
    second = in_this_process("study", file, "--out", out, "--resume")
    assert second.stdout == first.stdout
    assert "2 of 2 runs are finished already" in second.stderr


def test_only_the_analyses_of_the_file_are_made(file: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(file.read_text()) | {"analyses": ["threshold", "structure"]}
    file.write_text(yaml.safe_dump(document))
    assert in_this_process("study", file, "--out", tmp_path / "out").returncode == 0
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    assert [finding["name"] for finding in findings] == ["structure", "threshold"]
