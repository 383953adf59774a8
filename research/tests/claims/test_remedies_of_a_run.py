"""What the claim on remedies says of a study that compared them."""

from __future__ import annotations

from pathlib import Path

from intruders.studies.results import load_results
from intruders_research.claims.every_claim import analyse_all, charts_of
from tests.studies.test_run_study_remedies import done

__all__ = ["done"]


def test_the_claim_lists_what_each_remedy_gains(done: Path) -> None:
    (finding,) = analyse_all(load_results(done), ["remedies"])
    table = finding.tables["Gain at equal task loss"]
    for _, of_setting in table.groupby("setting"):
        verdicts = dict(zip(of_setting["remedy"], of_setting["verdict"], strict=True))
        assert verdicts == {"lines": "undecided", "trim": "undecided", "surgery": "not run"}
    drawn = [chart.name for chart in charts_of([finding])["remedies"]]
    assert len([name for name in drawn if name.startswith("remedies-gain")]) == 2
