"""What commands print and write is what was recorded; a change that is meant is recorded anew, and read as a diff."""

from pathlib import Path

import pytest

from tests.recorded.cases import CHAINS, make_models
from tests.recorded.record import HERE, differences


@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_commands_do_what_was_recorded(chain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that is meant: ``python -m tests.recorded.record --write``."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "cache-of-bases"))
    work = tmp_path / "work"
    work.mkdir()
    make_models(work, chain)
    assert differences(CHAINS[chain], work, HERE) == []


def test_every_recorded_file_has_a_case() -> None:
    assert sorted(file.stem for file in HERE.glob("*.txt")) == sorted(
        case.name for chain in CHAINS.values() for case in chain
    )


def test_every_command_is_recorded() -> None:
    from intruders.cli.main import GROUPS

    commands = {member.__name__ for members in GROUPS.values() for member in members}
    assert commands == {case.words[0] for chain in CHAINS.values() for case in chain} - {"--help"}
