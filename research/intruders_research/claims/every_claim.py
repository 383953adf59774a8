"""All claims: analyzed on a study's tables, written down, and drawn."""

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from intruders.charts.chart import Chart, Grid
from intruders.studies.results import Results, load_results
from intruders.studies.study_folder import FINDINGS
from intruders.studies.tables import SCHEMA
from intruders.system.files import write_atomically
from intruders.system.plugins import CLAIMS as CLAIMS_OF_PLUGINS
from intruders.system.plugins import plugins_of

from ..claim_names import CLAIMS, check_analyses
from .shared.claim import Claim, Effect, Finding
from .shared.pictures import Palette, by_method_and_rank


class ClaimFile(Protocol):
    """The contents of a claim's file."""

    CLAIM: Claim

    def analyse(self, results: Results) -> Finding:
        """Return the finding that a study's tables allow."""
        ...

    def charts(self, finding: Finding, palette: Palette) -> Iterable[Chart | Grid]:
        """Draw the finding's tables."""
        ...


def _file_of(name: str) -> ClaimFile:
    """Import a claim by its name, so that a new claim is a file and an entry of ``CLAIMS``, or a plugin."""
    others = plugins_of(CLAIMS_OF_PLUGINS)
    return cast(ClaimFile, others[name] if name in others else import_module(f".{name}", __package__))


def analyse_all(results: Results, names: Sequence[str] | None = None) -> list[Finding]:
    """Return the findings of the analyses ``names``, in the order of ``CLAIMS``; all if there are none.

    Raises SettingError for a name that is none.
    """
    chosen = check_analyses(names) if names else CLAIMS
    # Those of plugins come last, and only by name.
    ordered = [*(name for name in CLAIMS if name in chosen), *(name for name in chosen if name not in CLAIMS)]
    return [_file_of(name).analyse(results) for name in ordered]


def every_claim() -> list[Claim]:
    """Return all claims, in the order of the report."""
    return [_file_of(name).CLAIM for name in CLAIMS]


def conclude(folder: Path, names: Sequence[str]) -> list[Finding]:
    """Return the findings of the analyses ``names``, and write them to ``findings.json`` in the study's folder."""
    findings = analyse_all(load_results(folder), names)
    document = {"schema": SCHEMA, "findings": [_plain(finding) for finding in findings]}
    content = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / FINDINGS, content.encode())
    return findings


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values, without its tables, which follow from the study's."""
    texts = ("name", "question", "claim", "verdict", "shown", "decision")
    return {name: getattr(finding, name) for name in texts} | {
        "answers": [_answer(answer) for answer in finding.answers],
        "effects": [_effect(effect) for effect in finding.effects],
        "seeds": int(finding.seeds),
        "runs": int(finding.runs),
        "notes": list(finding.notes),
    }


def _answer(answer: Effect) -> dict[str, Any]:
    """Return an effect that the claim speaks of as JSON values, with its decision."""
    return _on(answer) | {
        "decision": answer.decision,
        **answer.over_seeds.as_dict(),
        "expected": answer.side,
        "seeds": int(answer.seeds),
        "p_adjusted": answer.adjusted,
        "lacking": answer.lacking,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {"name": effect.name} | _on(effect) | effect.interval.as_dict() | {"seeds": int(effect.seeds)}


def _on(effect: Effect) -> dict[str, Any]:
    return {"where": effect.where} | effect.on.columns | {"what": effect.what}


def charts_of(findings: Sequence[Finding]) -> dict[str, list[Chart | Grid]]:
    """Draw the charts of all findings, by analysis; a setting has the same color in all of them."""
    palette = Palette()
    settings = {
        str(setting)
        for finding in findings
        for table in finding.tables.values()
        if "setting" in table
        for setting in table["setting"].unique()
    }
    for setting in by_method_and_rank(settings):
        palette.tone(setting)
    return {
        finding.name: list(_file_of(finding.name).charts(finding, palette))
        for finding in findings
        if finding.name in CLAIMS or finding.name in plugins_of(CLAIMS_OF_PLUGINS)
    }
