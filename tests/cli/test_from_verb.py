"""Commands from what their verbs take: what is typed reaches the verb as a value, checked as anywhere else."""

from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from intruders.audits.audit_settings import Compute
from intruders.cli import options
from intruders.cli.from_verb import Taken, argument, command, of_settings, option
from intruders.models.loading_settings import Loading
from intruders.settings import Settings, setting


@dataclass(frozen=True)
class Looks(Settings):
    k: int = setting(10, "How many.", least=1, metavar="N", panel="Looks")
    rank: int | None = setting(None, "Its rank.", long_names=["r"], unless_given="default: as it needs")
    scales: tuple[float, ...] = setting((0.0, 0.5), "Scales.", by_commas=True)
    patterns: tuple[str, ...] = setting((), "Names.", item="pattern", option="pattern")
    train_all: bool = setting(False, "All of them.")
    alpha: float | str = setting("2r", "Alpha.")


def made_of(found: dict[str, Any], *taken: Taken) -> typer.Typer:
    """An application with one command, which says what its function received."""
    app = typer.Typer(add_completion=False)
    app.command()(command(*taken)(lambda **received: found.update(received)))
    return app


def run(
    found: dict[str, Any], *typed: str, settings: type[Settings] | Settings = Looks, over_a_file: bool = False
) -> None:
    taken = of_settings("looks", settings, over_a_file=over_a_file)
    app = made_of(found, argument("name", str, "Name."), option("out", str, "Out.", "here"), taken)
    done = CliRunner().invoke(app, typed)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ([], Looks()),
        (["--k", "3", "--r", "2"], Looks(k=3, rank=2)),
        (["--scales", "0,1"], Looks(scales=(0.0, 1.0))),
        (["--pattern", "*.a,*", "--pattern", "*.b"], Looks(patterns=("*.a,*", "*.b"))),
        (["--train-all", "--alpha", "16"], Looks(train_all=True, alpha="16")),
    ],
)
def test_options_become_settings(typed: list[str], wanted: Looks) -> None:
    found: dict[str, Any] = {}
    run(found, "a", *typed)
    assert found == {"name": "a", "out": "here", "looks": wanted}


def test_over_a_file_only_what_was_typed_is_passed_on() -> None:
    found: dict[str, Any] = {}
    run(found, "a", "--k", "10", over_a_file=True)
    assert found["looks"] == {"k": 10}
    run(found, "a", over_a_file=True)
    assert found["looks"] == {}
    run(found, "a", settings=Looks(k=4, scales=(0.25,)))
    assert found["looks"] == Looks(k=4, scales=(0.25,)), "the defaults are those given"


@pytest.mark.parametrize(
    ("typed", "cache", "device"),
    [
        ([], True, "auto"),
        (["--no-cache", "--cache", "bases"], False, "auto"),
        (["--cache", "bases", "--device", "cpu"], "bases", "cpu"),
    ],
)
@pytest.mark.parametrize("loads", [False, True])
def test_commands_get_device_and_cache(typed: list[str], cache: str | bool, device: str, loads: bool) -> None:
    got: dict[str, Any] = {}
    of_command = (
        options.running_models("dtype")
        if loads
        else options.with_cache(of_settings("compute", Compute, only=["device"]))
    )
    done = CliRunner().invoke(made_of(got, of_command), [*typed, *(["--dtype", "float16"] if loads else [])])
    assert done.exit_code == 0, done.output
    wanted: dict[str, Any] = {"compute": Compute(device=device, cache=cache)}
    if loads:
        wanted["loading"] = Loading(dtype="float16", device=device)
        assert options.typed(got["loading"]) == {"dtype": "float16"}
    assert got == wanted
