"""What the commands share to refuse options, and to write and print results."""

from pathlib import Path

import pytest

from intruders.cli.output import note, refuse_given, say
from intruders.cli.study import print_outcome
from intruders.errors import SettingError
from intruders.studies.run_study import StudyOutcome


@pytest.mark.parametrize(
    ("value", "shown"),
    [(7, "7"), (0, "0"), ("sst2", "'sst2'"), (Path("r.html"), "'r.html'"), (True, "given")],
)
def test_an_option_without_effect_is_refused_with_its_value(value: object, shown: str) -> None:
    said = ("is for a measured model", "pass --measure")
    with pytest.raises(SettingError, match=f"^data-seed is {shown}, which {'; '.join(said)}$"):
        refuse_given({"task": None, "data_seed": value}, *said)
    refuse_given({"task": None, "data_seed": None}, *said)


def test_a_terminal_obeys_nothing_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and messages come from files of others: \N{ESCAPE} would color, move and clear."""
    say(["run\x1b[2J of a study"])
    note("refused 'adapter\x1b[2J'")
    printed = capsys.readouterr()
    assert printed.out == "run\N{REPLACEMENT CHARACTER}[2J of a study\n"
    assert printed.err == "refused 'adapter\N{REPLACEMENT CHARACTER}[2J'\n"


def test_an_outcome_has_no_control_characters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    failed, refused = {"a\x1b[1m": "disk\x07 full"}, {"c": "\x1b[0m"}
    print_outcome(StudyOutcome(tmp_path, 2, 0, failed, others=["b"], refused=refused))
    assert capsys.readouterr().out.splitlines() == [
        "0 of 2 runs finished, 1 failed",
        "  not taken over: c: \N{REPLACEMENT CHARACTER}[0m",
        "  a\N{REPLACEMENT CHARACTER}[1m: disk\N{REPLACEMENT CHARACTER} full",
        "  1 run of an earlier version of the file kept, not in the tables",
    ]


def test_prose_alone_is_folded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    row, copied = "query  384 x 384  rank 1  18", "/a folder/of a name/that is long"
    say(["  - one two three four five", row])
    say([copied], whole=True)
    assert capsys.readouterr().out.splitlines() == ["  - one two three", "    four five", row, copied]
