"""Commands from what their verbs take: what is typed reaches the verb as a value, checked as anywhere else."""

from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from intruders.audits.audit_settings import Compute
from intruders.cli import options
from intruders.cli.command import as_command
from intruders.cli.from_verb import REQUIRED, Taken, argument, command, flag, of_settings, option
from intruders.errors import SettingError
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


def run(found: dict[str, Any], *typed: str, **how: Any) -> str:
    settings = of_settings("looks", how.pop("settings", Looks), **how)
    app = made_of(found, argument("name", str, "Name."), option("out", str, "Out.", "here"), settings)
    done = CliRunner().invoke(app, typed, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


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


def test_some_fields_alone() -> None:
    text = run({}, "--help", only=["k", "rank"], without=["rank"])
    assert "--k" in text
    assert "--rank" not in text
    assert "--alpha" not in text


def test_the_error_is_that_of_the_settings() -> None:
    with pytest.raises(SettingError, match="k is 0; expected 1 or more"):
        run({}, "a", "--k", "0")


@pytest.mark.parametrize("over_a_file", [False, True])
def test_the_help_says_what_holds_without_the_option(over_a_file: bool) -> None:
    app = made_of({}, of_settings("looks", Looks, over_a_file=over_a_file))
    made = {one.name: one for one in typer.main.get_command(app).params}
    assert made["rank"].help == "Its rank. [default: as it needs]"
    assert made["rank"].opts == ["--rank", "--r"]
    # A default that is the option's own is added by typer.
    assert made["k"].help == ("How many. [default: 10]" if over_a_file else "How many.")
    assert made["k"].default == (None if over_a_file else 10)
    assert made["scales"].help == ("Scales. [default: 0,0.5]" if over_a_file else "Scales.")
    assert (made["k"].metavar, made["k"].rich_help_panel) == ("N", "Looks")
    assert made["train_all"].secondary_opts == []


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


def test_a_field_can_be_an_argument_of_its_own() -> None:
    got: dict[str, Any] = {}
    done = CliRunner().invoke(made_of(got, of_settings({"k": "number"}, Looks)), ["--k", "3"])
    assert (done.exit_code, got) == (0, {"number": 3})


def test_an_option_can_be_required() -> None:
    app = made_of({}, option("out", str, "Where.", REQUIRED), flag("fast", "Fast."))
    assert CliRunner().invoke(app, ["--fast"]).exit_code == 2


def test_the_help_ends_where_the_examples_begin() -> None:
    @command()
    def audits() -> None:
        """Audit.

        With words.

        Examples:
          # One of a model
          intruders audit base tuned \\
            --k 3
          # And another
          intruders audit base 'a b'
        """

    made = as_command("audits", audits)
    assert made.help == "Audit.\n\nWith words."
    assert made.epilog == (
        "# One of a model\nintruders audit base tuned --k 3\n\n# And another\nintruders audit base 'a b'"
    )
