"""A made-up study with its findings, which take seconds to analyse."""

import pytest

from intruders.studies.results import Results
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import Finding
from tests.reports.page.conftest import kept_page
from tests.research.pages.made_up_study import made_up_study

__all__ = ["kept_page", "study"]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Finding]]:
    """Only read, but for the folder of its report."""
    results = made_up_study(tmp_path_factory.mktemp("study") / "made-up")
    return results, analyse_all(results)
