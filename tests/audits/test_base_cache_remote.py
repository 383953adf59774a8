"""A base cache under a URL whose store fails: an audit needs none, and a preparation is nothing without it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import intruders
from intruders.audits.audit import audit
from intruders.errors import StoreError
from tests.audits.test_base_cache import decisions, models, plain

fsspec = pytest.importorskip("fsspec")
MemoryFileSystem = type(fsspec.filesystem("memory"))

URL = "memory://team/bases"


@pytest.fixture(autouse=True)
def empty_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "mine"))
    system = fsspec.filesystem("memory")
    if system.exists("/team"):
        system.rm("/team", recursive=True)


def failing(*given: Any, **named: Any) -> None:
    raise OSError("503 slow down")


def there() -> int:
    system = fsspec.filesystem("memory")
    return len(system.find("/team")) if system.exists("/team") else 0


@pytest.mark.parametrize("operation", ["put_file", "get_file", "exists"])
def test_an_audit_goes_on_without_a_store_that_fails(
    operation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says so once, the answer is the same, and a later audit sends what is missing there."""
    if operation != "put_file":
        audit(*models(), cache=URL)
        monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "another"))
    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, operation, failing)
        with pytest.warns(UserWarning, match=r"503 slow down; the audit continues") as told:
            found = audit(*models(), cache=URL)
        assert len(told) == 1
        assert decisions(found) == decisions(plain())
        base, tuned = models()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fleet = intruders.audit_fleet(base, [tuned], cache=URL)
        assert (fleet.refused, fleet.intruders) == ({}, plain().intruders)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decisions(audit(*models(), cache=URL)) == decisions(plain())
    assert there() == len(models()[0])


def test_a_preparation_fails_with_its_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    with pytest.raises(StoreError, match="503 slow down"):
        intruders.prepare(models()[0], out=URL)
