"""What the commands share to refuse options, and to write and print results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intruders.cli.output import put_results, refuse_given, report_if_possible
from intruders.errors import MissingDependencyError, SettingError


@pytest.mark.parametrize(
    ("value", "shown"),
    [(7, "7"), (0, "0"), ("sst2", "'sst2'"), (Path("r.html"), "'r.html'"), (True, "given")],
)
def test_an_option_without_effect_is_refused_with_its_value(value: object, shown: str) -> None:
    with pytest.raises(SettingError) as refused:
        refuse_given({"task": None, "data_seed": value}, "is for a measured model", "pass --measure")
    assert str(refused.value) == f"data-seed is {shown}, which is for a measured model; pass --measure"


def test_options_that_were_not_given_are_not_refused() -> None:
    refuse_given({"task": None, "data_seed": None}, "is for a measured model", "pass --measure")


def test_a_report_that_fails_leaves_the_result(tmp_path: Path) -> None:
    def fail(page: Path) -> None:
        raise OSError(f"{page} cannot be written")

    with pytest.raises(OSError, match=r"page\.html cannot be written"):
        put_results({"k": 10}, str(tmp_path / "r.json"), tmp_path / "page.html", fail)
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == {"k": 10}


def test_no_report_is_a_note_where_its_packages_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with report_if_possible():
        raise MissingDependencyError("a report needs the package 'plotly'")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "no report is written: a report needs the package 'plotly'\n")
