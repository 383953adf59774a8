"""What the commands print and write with research installed is what was recorded before it was a package of its own."""

import sys
import tempfile
from pathlib import Path

import pytest

from tests.recorded.cases import MEASURED, Case, make_models, write_study
from tests.recorded.record import differences, recorded

HERE = Path(__file__).with_name("recorded")
CASES = [
    Case("study-plan", "study study.yaml --dry-run --out study"),
    Case("study", "study study.yaml --out study", noise=MEASURED),
    Case("study-again", "study study.yaml --out study --resume", noise=MEASURED, contents=False),
    Case("report-study", "report study --out study.html", noise=MEASURED),
    Case("verdicts", "verdicts study", noise=MEASURED),
    Case("publish", "publish study data/tiny", noise=MEASURED),
    Case("forest", "forest data effects.svg", noise=MEASURED),
    Case("study-from-plan", "study study.yaml --from data/tiny --dry-run"),
    Case("study-from", "study study.yaml --from data/tiny --out taken", noise=MEASURED, contents=False),
    Case("advise-study", "advise study --json advice.json", noise=MEASURED),
    Case("study-refused", "study study.yaml --from nowhere --out other"),
]


def make_study(folder: Path) -> None:
    make_models(folder, "studies")
    write_study(folder)


def test_commands_print_and_write_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: ``python -m tests.research.test_research_recorded``."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "cache-of-bases"))
    work = tmp_path / "work"
    work.mkdir()
    make_study(work)
    assert differences(CASES, work, HERE) == []


def test_every_recorded_file_has_a_case() -> None:
    assert sorted(file.stem for file in HERE.glob("*.txt")) == sorted(case.name for case in CASES)


if __name__ == "__main__":
    from tests.research_commands import with_research

    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as temporary:
        with_research(patched)
        place = Path(temporary).resolve()
        make_study(place)
        wanted = sys.argv[1:] or [case.name for case in CASES]
        for case, text in recorded(CASES, place):
            if case.name in wanted:
                (HERE / f"{case.name}.txt").write_text(text, encoding="utf-8")
