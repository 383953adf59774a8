"""intruders study as a person types it, with verdicts."""

import json
from pathlib import Path

import yaml

from tests.cli.test_study import file
from tests.commands import in_this_process

__all__ = ["file"]


def test_only_the_analyses_of_the_file_are_made(file: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(file.read_text()) | {"analyses": ["threshold", "structure"]}
    file.write_text(yaml.safe_dump(document))
    assert in_this_process("study", file, "--out", tmp_path / "out").returncode == 0
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    assert [finding["name"] for finding in findings] == ["structure", "threshold"]
