"""`intruders advise` as a person types it."""

from __future__ import annotations

from pathlib import Path

from research.tests.advice.study_folder import write_study
from research.tests.planted import matched
from tests.commands import without_loading
from tests.research_commands import IN_A_PROCESS
from tests.studies.planted import study


def test_a_study_is_advised_on_without_loading_torch(tmp_path: Path) -> None:
    """Which takes several times as long as the rest of the command."""
    folder = write_study(tmp_path / "study", study(runs=matched()))
    done = without_loading(["torch"], ["advise", folder], before=IN_A_PROCESS)
    assert done.returncode == 0, done.stderr
    assert "(study)" in done.stdout
