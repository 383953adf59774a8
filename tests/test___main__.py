"""The command line as a process of its own: what an interrupt says, and with which status it ends."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import NoReturn

import pytest

from intruders.__main__ import main


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("is_loading", [False, True])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_a_status_that_tells_which_also_while_the_commands_load(
    number: signal.Signals,
    status: int,
    is_loading: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> NoReturn:
        os.kill(os.getpid(), number)
        time.sleep(60)
        raise AssertionError("nobody was interrupted")

    if is_loading:
        loading = type("Loading", (ModuleType,), {"__getattr__": interrupted})("intruders.cli")
        monkeypatch.setitem(sys.modules, "intruders.cli", loading)
    monkeypatch.setattr(sys.modules["intruders.cli.main"], "app", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == status
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_signal_that_the_caller_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr(
        sys.modules["intruders.cli.main"], "app", lambda **how: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0


def test_windows_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no fcntl, so that the commands cannot be imported."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: intruders locks files as Linux and macOS do; on Windows, run it in WSL\n"
    )
