"""The verdicts of a study in a store: those that its file asks for."""

import json
from pathlib import Path

import pytest
import yaml

from tests.commands import in_this_process
from tests.studies.test_work import on_machine, url
from tests.studies.tiny_study import BRIEF, tiny_study

__all__ = ["url"]


def test_the_verdicts_in_the_store_are_those_of_its_tables(
    llama: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine("first", tmp_path, monkeypatch)
    document = tiny_study(llama, measure=BRIEF, methods=[{"method": "full", "lr": 1e-3}])
    file = tmp_path / "tiny.yaml"
    for seeds in ([0], [0, 1]):
        file.write_text(yaml.safe_dump(document | {"seeds": seeds, "analyses": ["structure"]}))
        assert in_this_process("study", str(file), "--out", url).returncode == 0
        [here] = (tmp_path / "first").rglob("findings.json")
        assert (tmp_path / "store" / "findings.json").read_bytes() == here.read_bytes()
    assert [finding["name"] for finding in json.loads(here.read_text())["findings"]] == ["structure"]
