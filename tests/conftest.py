"""Settings of the whole suite, and the browser that pages are opened in."""

import gc
import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Two threads of a product on one busy core are ten times slower than one; and sums do not depend on the count.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# bitsandbytes, which PEFT imports, has two functions compiled at once: two seconds in every process of the tests.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
# Plugins of other packages that happen to be installed: a test that wants one asks for it.
os.environ["INTRUDERS_PLUGINS"] = "0"

import jinja2
import pytest
from hypothesis import HealthCheck, settings

from intruders.system.this_process import keep_freed_memory
from intruders.system.versions import available_cores

# The same examples in every run, so that a failure is the commit's and not the day's. Other examples:
# pytest --hypothesis-profile=default
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")

# Every training collects garbage, which takes half a second where torch, transformers and all tests are loaded: more
# than the steps of a tiny model. What is frozen is not looked at. Nothing is collected while the tests are loaded.
gc.disable()

# What a shell starts in the background ignores Ctrl-C, and so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Pages of matrices that are made and dropped a thousand times are a sixth of the engine's tests.
keep_freed_memory()

# What a file is flushed to the disk for is the power that goes off, which no test can show. A flush takes 5 to 8 ms
# where several processes write, and a study of two runs has a hundred.
os.fsync = lambda descriptor: None

# PEFT compiles one and the same page about an adapter whenever it saves one, which takes longer than the rest of it.
jinja2.Environment.compile = cache(jinja2.Environment.compile)  # type: ignore[method-assign]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process more than there are cores: one often waits, for a browser, a process that it started, or Ray."""
    return available_cores() + 1


# Of warnings that pyproject.toml does not name. The process that collects the results gets those of all others.
_UNEXPECTED: list[str] = []


def pytest_warning_recorded(warning_message: Any, nodeid: str) -> None:
    _UNEXPECTED.append(f"{nodeid}: {warning_message.category.__name__}: {warning_message.message}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a suite that warned of something that nobody expects."""
    if (
        _UNEXPECTED
        and session.exitstatus == pytest.ExitCode.OK
        and not hasattr(session.config, "workerinput")
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _UNEXPECTED:
        terminalreporter.section(
            "warnings that nobody expects: assert them, or name them in pyproject.toml", red=True
        )
        terminalreporter.write("\n".join(_UNEXPECTED) + "\n")


# Rooms whose tests take longest: they come first, so that no process has the last of them to itself.
_LONGEST = ("training", "studies", "experiments", "mitigation", "faults", "reports", "audits", "engine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        here = Path(__file__).parent
        room = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else "research"
        return _LONGEST.index(room) if room in _LONGEST else len(_LONGEST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.reports.browsing import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal model; nothing trains on it in place."""
    from tests.tiny import save_llama

    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked model; nothing trains on it in place."""
    from tests.tiny import save_bert

    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """Ray takes a second to import, in every process that collects such a file, and more to start."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("INTRUDERS_TEST", str(os.getpid()))  # by which our workers are known
        patched.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the kind of a picture in its place: drawing takes most of the time of a figure's files."""
    from intruders.charts import drawing

    monkeypatch.setattr(drawing, "picture", lambda figure, kind: kind.encode())


@pytest.fixture(scope="module", autouse=True)
def what_is_loaded_is_not_collected() -> None:
    """Freeze what is alive before the tests of a file."""
    gc.collect()
    gc.freeze()
