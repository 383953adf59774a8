"""The figures of a study: a file for each analysis, which draws what is in the finding's tables."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from ...studies.analyse import ANALYSES
from ...studies.findings import Finding
from ..chart import Chart, Grid
from .common import Palette, by_method_and_rank


def charts_of(findings: Sequence[Finding]) -> dict[str, list[Chart | Grid]]:
    """Charts by name of the analysis; every setting has one colour in all of them."""
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
        finding.name: import_module(f".{finding.name}", __package__).charts(finding, palette)
        for finding in findings
        if finding.name in ANALYSES
    }
