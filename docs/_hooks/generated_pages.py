"""Pages of the site that are made from the code when it is built: one per command, their index, and all settings.

mkdocs calls ``on_config`` and ``on_files``. The tests call :func:`pages`.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from intruders.audits.audit_settings import AuditSettings
from intruders.cli.main import app
from intruders.measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings, SweepSettings
from intruders.settings import Setting, settings_of
from intruders.studies.describe.measures import ComparisonMeasure, Measure
from intruders.studies.describe.study import OfEveryKind, OfRandomTerms, OfSequence, Resources, Study
from intruders.training.finetune_config import FinetuneConfig

FOLDER = "reference/cli"
SETTINGS = "reference/settings.md"
# What each class of settings is for, in the order of the page.
CLASSES = {
    FinetuneConfig: "A run: `intruders finetune`, the methods of a study, `intruders.FinetuneConfig`",
    AuditSettings: "An audit: `audit` under `measure`, `intruders.AuditSettings`",
    LossSettings: "Losses: `intruders evaluate`, `intruders.LossSettings`",
    ScoreSettings: "Scores: `intruders evaluate`, `intruders.ScoreSettings`",
    HarnessSettings: "Tasks of lm-evaluation-harness: `intruders evaluate` and `remedies`, `intruders.HarnessSettings`",
    SweepSettings: "Interventions: `intervene` under `measure`, `intruders.SweepSettings`",
    ComparisonMeasure: "Comparisons of remedies: `remedies` under `measure`",
    Study: "A study: the file itself",
    OfEveryKind: "An experiment of a study",
    OfSequence: "An experiment with `kind: sequence`",
    OfRandomTerms: "An experiment with `kind: random-rank-one`",
    Measure: "What a study measures: `measure` of an experiment",
    Resources: "What Ray reserves for a run: `resources` of a study",
}


def pages() -> dict[str, str]:
    """Return the Markdown of each generated page by its path under docs."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {f"{FOLDER}/{name}.md": command_page(name, command) for name, command in commands.items()}
    return {f"{FOLDER}/index.md": index_page(commands), SETTINGS: settings_page()} | found


def index_page(commands: dict[str, Any]) -> str:
    rows = [f"| [`{name}`]({name}.md) | {command.short_help} |" for name, command in commands.items()]
    return "\n".join(
        [
            "# Commands",
            "",
            "Which commands are there, and what does each one do? These pages are made from the code.",
            "",
            "```bash",
            "intruders COMMAND --help",
            "```",
            "",
            "| command | what it does |",
            "|---|---|",
            *rows,
            "",
            "**Next:** [exit status](../environment.md) · [Python](../api/audits.md)",
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
    parts += [rest.strip(), "", "```text", usage, "```", "", *tables]
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


def settings_page() -> str:
    """Return the tables of all settings: what YAML files, constructors and options take."""
    parts = ["# Settings", "", "Which settings exist, what may they be, and what are their defaults?", ""]
    parts += [
        "```yaml",
        "lr: 1e-3             # the short name",
        "learning_rate: 1e-3  # the same setting",
        "```",
        "",
    ]
    parts += [
        "YAML files, Python and the command line take the same settings. This page is made from the code.",
        "",
    ]
    for cls, purpose in CLASSES.items():
        rows = [setting_row(one) for one in settings_of(cls).values()]
        parts += [f"## {purpose}", "", "| setting | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join([*parts, "**Next:** [study files](study.md) · [fine-tuning](finetune.md)", ""])


def setting_row(one: Setting) -> str:
    names = ", ".join(f"`{name}`" for name in (one.name, *one.long_names))
    named = all(choice in one.help for choice in one.choices)
    choices = "" if named else f" One of {', '.join(one.choices)}."
    return f"| {names} | {in_a_cell(default_of(one))} | {in_a_cell(one.help + choices)} |"


def default_of(one: Setting) -> str:
    if one.must_be_given:
        return "must be given"
    if one.default is None or one.default == () or one.default == "":
        return "none"
    if one.is_list and not isinstance(one.default, str):
        return ", ".join(map(str, one.default))
    return "as below" if type(one.default) in CLASSES else str(one.default)


def in_a_cell(text: str) -> str:
    """Escape what Markdown would read as a table, emphasis or a tag."""
    return re.sub(r"([|*<>_\[\]])", r"\\\1", " ".join(text.split()))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    entries: list[Any] = [{"All commands": f"{FOLDER}/index.md"}]
    commands = (path for path in pages() if path.startswith(FOLDER) and not path.endswith("index.md"))
    entries += [{path.split("/")[-1].removesuffix(".md"): path} for path in commands]
    fill(config.nav, entries)
    return config


def fill(nav: Any, entries: list[Any]) -> None:
    """Put the entries where the navigation has an empty list named Commands."""
    for item in nav if isinstance(nav, list) else []:
        for title, below in item.items() if isinstance(item, dict) else []:
            if title == "Commands":
                item[title] = entries
            else:
                fill(below, entries)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
