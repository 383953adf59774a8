"""`intruders advise` as a person types it, on a study and with verdicts."""

from __future__ import annotations

from pathlib import Path

from tests.commands import without_loading
from tests.made_up import made_up_audit
from tests.reports.advised import scale_document, write, write_study
from tests.research_commands import IN_A_PROCESS
from tests.studies.planted import matched, study


def test_a_saved_audit_and_a_study_are_advised_on_without_loading_torch(tmp_path: Path) -> None:
    """Which takes several times as long as the rest of the command."""
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    audit.save(tmp_path / "audit.json")
    write(tmp_path / "scale.json", scale_document(audit, 0.36))
    folder = write_study(tmp_path / "study", study(runs=matched()))
    done = without_loading(
        ["torch"], ["advise", tmp_path, "--study", folder], ["advise", folder], before=IN_A_PROCESS
    )
    assert done.returncode == 0, done.stderr
    assert "(audit)" in done.stdout
    assert "(study)" in done.stdout
