"""Commands from what their verbs take: what is typed reaches the verb as a value, checked as anywhere else."""

from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from intruders.audits.audit_settings import Compute
from intruders.cli import options
from intruders.cli.from_verb import Taken, command, of_settings
from intruders.models.loading_settings import Loading
from intruders.settings import Settings, setting


@dataclass(frozen=True)
class Looks(Settings):
    k: int = setting(10, "How many.")
    scales: tuple[float, ...] = setting((0.0, 0.5), "Scales.", by_commas=True)


def made_of(found: dict[str, Any], *taken: Taken) -> typer.Typer:
    """An application with one command, which says what its function received."""
    app = typer.Typer(add_completion=False)
    app.command()(command(*taken)(lambda **received: found.update(received)))
    return app


@pytest.mark.parametrize(
    ("settings", "over_a_file", "typed", "wanted"),
    [
        (Looks, True, ["--k", "10"], {"k": 10}),
        (Looks, True, [], {}),
        (Looks(k=4, scales=(0.25,)), False, ["--k", "3"], Looks(k=3, scales=(0.25,))),
    ],
)
def test_over_a_file_only_what_was_typed_is_passed_on_and_defaults_are_those_given(
    settings: type[Settings] | Settings, over_a_file: bool, typed: list[str], wanted: object
) -> None:
    found: dict[str, Any] = {}
    done = CliRunner().invoke(made_of(found, of_settings("looks", settings, over_a_file=over_a_file)), typed)
    assert done.exit_code == 0, done.output
    assert found == {"looks": wanted}


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
