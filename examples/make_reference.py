"""Write the pages of the reference that are made from the code: one per command, their index, and all settings.

    python examples/make_reference.py          # writes docs/reference/cli and docs/reference/settings.md
    python examples/make_reference.py --check  # exits with 1 and names the pages that differ; make lint runs this

A page of a command contains what ``intruders COMMAND --help-all`` prints, from the same parameters.
"""

import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import typer

from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.cli.command import as_command
from intruders.cli.main import app
from intruders.experiments.experiment_settings import AttributionSettings, HealSettings, SweepSettings
from intruders.measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from intruders.settings import Setting, settings_of
from intruders.studies import study
from intruders.training.finetune_config import FinetuneConfig
from intruders_research.read_study import Power

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDER = "reference/cli"
SETTINGS = "reference/settings.md"
RESEARCH = "reference/cli/research.md"
# What each class of settings is for, in the order of the page.
CLASSES = {
    FinetuneConfig: "A run: `intruders finetune`, the methods of a study, `intruders.FinetuneConfig`",
    AuditSettings: "An audit: `audit` under `measure`, `intruders.AuditSettings`",
    Compute: "Where an audit is computed: options of most commands, `intruders.Compute`",
    LossSettings: "Losses: `intruders evaluate`, `intruders.LossSettings`",
    ScoreSettings: "Scores: `intruders evaluate`, `intruders.ScoreSettings`",
    HarnessSettings: "Tasks of lm-evaluation-harness: `intruders evaluate` and `remedies`, `intruders.HarnessSettings`",
    SweepSettings: "Interventions: `intervene` under `measure`, `intruders.SweepSettings`",
    AttributionSettings: "Attributions: `intruders attribute`, `intruders.AttributionSettings`",
    HealSettings: "Healing: `intruders heal`, `intruders.HealSettings`",
    study.ComparisonMeasure: "Comparisons of remedies: `remedies` under `measure`",
    study.KLMeasure: "The KL divergence to the base: `kl_to_base` under `measure`",
    study.Study: "A study: the file itself",
    study.OfEveryKind: "An experiment of a study",
    study.OfSequence: "An experiment with `kind: sequence`",
    study.OfRandomTerms: "An experiment with `kind: random-rank-one`",
    study.Measure: "What a study measures: `measure` of an experiment",
    Power: "The plan for a number of seeds: `power` of a study",
    study.Resources: "What Ray reserves for a run: `resources` of a study",
}
# The command whose page says what the settings of a class mean.
EXPLAINED = {
    FinetuneConfig: "finetune",
    AuditSettings: "audit",
    Compute: "audit",
    LossSettings: "evaluate",
    ScoreSettings: "evaluate",
    HarnessSettings: "evaluate",
    SweepSettings: "intervene",
    AttributionSettings: "attribute",
    HealSettings: "heal",
    study.ComparisonMeasure: "remedies",
    study.OfSequence: "sequence",
    study.Measure: "evaluate",
}


def pages() -> dict[str, str]:
    """Return the Markdown of each generated page by its path under docs."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {f"{FOLDER}/{name}.md": command_page(name, command) for name, command in commands.items()}
    made = {f"{FOLDER}/index.md": index_page(commands), SETTINGS: settings_page(found)}
    return made | {RESEARCH: research_page(commands)} | found


def research_commands() -> dict[str, Any]:
    """Return the commands of ``intruders-research``, some of which replace one of ours, by name."""
    project = tomllib.loads((ROOT / "research" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    homes = project["entry-points"][group := "intruders.commands"]
    return {name: as_command(name, EntryPoint(name, home, group).load()) for name, home in homes.items()}


def research_page(commands: dict[str, Any]) -> str:
    """Return the page of what ``intruders-research`` adds: whole commands, and options of ours."""
    parts = ["# Commands of research", ""]
    parts += ["The package `intruders-research` answers claims of papers from the tables of studies.", ""]
    parts += ["```bash", "pip install ./research", "intruders verdicts runs/quickstart", "```", ""]
    for name, command in research_commands().items():
        ours = commands.get(name)
        with command.make_context(name, [], resilient_parsing=True) as context:
            rows = [row for found in groups(command, context).values() for row in found]
            usage = " ".join(["intruders", name, *command.collect_usage_pieces(context)])
        if ours is not None:
            with ours.make_context(name, [], resilient_parsing=True) as context:
                shared = {row for found in groups(ours, context).values() for row in found}
            rows = [row for row in rows if row not in shared]
            if not rows:
                continue  # what it writes is another page, by the same options
        about = command.short_help if ours is None else f"Beside the options of [{name}]({name}.md):"
        parts += [f"## {name}", "", about, "", "```text", usage, "```", ""]
        parts += ["| name | meaning |", "|---|---|", *rows, ""]
    return "\n".join(
        [*parts, "**Next:** [all commands](index.md) · [analyses](../../concepts/statistics.md#analyses)", ""]
    )


def index_page(commands: dict[str, Any]) -> str:
    rows = [
        f"| [`{name}`]({name}.md) | {command.short_help} | {command.rich_help_panel} |"
        for name, command in commands.items()
    ]
    return "\n".join(
        [
            "# Commands",
            "",
            "Each page contains what `intruders COMMAND --help-all` prints:",
            "",
            "```bash",
            "intruders COMMAND --help      # the options that most need",
            "intruders COMMAND --help-all  # every option",
            "```",
            "",
            "| command | what it does | group |",
            "|---|---|---|",
            *rows,
            "",
            "**Next:** [exit status](../environment.md) · [Python](../python.md)",
            "",
        ]
    )


def command_page(name: str, command: Any) -> str:
    summary, _, rest = command.help.strip().partition("\n")
    with command.make_context(name, [], resilient_parsing=True) as context:
        usage = " ".join(["intruders", name, *command.collect_usage_pieces(context)])
        tables = [
            line
            for title, rows in groups(command, context).items()
            for line in (f"## {title}", "", "| name | meaning |", "|---|---|", *rows, "")
        ]
    parts = [f"# intruders {name}", "", summary, ""]
    parts += ["```bash", command.epilog, "```", ""]
    parts += [in_a_cell(rest), ""] if rest.strip() else []
    parts += ["```text", usage, "```", "", *tables]
    parts += ["**Next:** [all commands](index.md) · [exit status](../environment.md)", ""]
    return "\n".join(parts)


def groups(command: Any, context: Any) -> dict[str, list[str]]:
    """Return the rows of each group of parameters, in the order of the command's help."""
    found: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or parameter.name == "help":
            continue
        is_argument = parameter.param_type_name == "argument"
        title = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
        name = (parameter.metavar or parameter.name.upper()) if is_argument else record[0]
        found.setdefault(title, []).append(f"| `{name.replace('|', '/')}` | {in_a_cell(record[1])} |")
    return found


def settings_page(commands: dict[str, str]) -> str:
    """Return the tables of all settings: what YAML files, constructors and options take.

    What the page of a command says of an option is not said again.
    """
    parts = ["# Settings", "", "YAML files, Python and the command line take the same settings:", ""]
    parts += [
        "```yaml",
        "lr: 1e-3             # the short name",
        "learning_rate: 1e-3  # the same setting",
        "```",
        "",
    ]
    for cls, purpose in CLASSES.items():
        rows = [setting_row(one) for one in settings_of(cls).values()]
        parts += [f"## {purpose}", ""]
        if command := EXPLAINED.get(cls):
            explained = commands[f"{FOLDER}/{command}.md"]
            known = [row.split("|")[1].split(",")[0].strip() for row, meaning in rows if meaning in explained]
            rows = [(row, meaning) for row, meaning in rows if meaning not in explained]
            parts += [f"As the options on [the page of {command}](cli/{command}.md): {', '.join(known)}.", ""]
        if rows:
            whole = [f"{row} {meaning} |" for row, meaning in rows]
            parts += ["| setting | default | meaning |", "|---|---|---|", *whole, ""]
    return "\n".join([*parts, "**Next:** [study files](study.md) · [fine-tuning](finetune.md)", ""])


def setting_row(one: Setting) -> tuple[str, str]:
    """Return the cells of a setting's names and default, and the one of its meaning."""
    names = ", ".join(f"`{name}`" for name in (one.name, *one.long_names))
    default = "as below" if type(one.default) in CLASSES else one.default_text
    return f"| {names} | {in_a_cell(default)} |", in_a_cell(one.meaning)


def in_a_cell(text: str) -> str:
    """Escape what Markdown would read as a table, emphasis or a tag."""
    return re.sub(r"([|*<>_\[\]])", r"\\\1", " ".join(text.split()))


def drifted() -> list[str]:
    """Return the pages under docs that are not what the code says: changed, missing or of a command that is gone."""
    made = pages()
    stored = {file.relative_to(DOCS).as_posix() for file in (DOCS / FOLDER).glob("*.md")} | {SETTINGS}
    return sorted(
        path
        for path in {*made, *stored}
        if path not in made
        or not (DOCS / path).is_file()
        or (DOCS / path).read_text(encoding="utf-8") != made[path]
    )


def write() -> None:
    """Write every page, and remove those of commands that are gone."""
    made = pages()
    for path in drifted():
        if path in made:
            (DOCS / path).parent.mkdir(exist_ok=True)
            (DOCS / path).write_text(made[path], encoding="utf-8")
        else:
            (DOCS / path).unlink()
        print(path)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        different = drifted()
        for path in different:
            print(
                f"docs/{path} is not what the code says; run: python examples/make_reference.py",
                file=sys.stderr,
            )
        sys.exit(bool(different))
    write()
