"""How an error reaches a person: one line, and exit status 2."""

from __future__ import annotations

import sys

import pytest

from intruders.cli import main as cli


def test_a_package_of_an_extra_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train() -> None:
        import peft  # noqa: F401

    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(sys.modules["intruders.cli.main"], "app", train)
    with pytest.raises(SystemExit) as stopped:
        cli()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "'peft', which is not installed; run pip install '.[train]'" in said
    assert len(said.splitlines()) == 1


def test_any_other_missing_module_is_a_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its status is not 1, which a gate of CI would take for the audit's answer."""

    def broken() -> None:
        import no_such_module_of_any_extra  # type: ignore[import-not-found]  # noqa: F401

    monkeypatch.setattr(sys.modules["intruders.cli.main"], "app", broken)
    with pytest.raises(SystemExit) as stopped:
        cli()
    assert stopped.value.code == 70
    assert "Traceback" in capsys.readouterr().err
