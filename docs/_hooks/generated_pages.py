"""Pages of the site that are made from the code when it is built: one per command, and their index.

mkdocs calls ``on_config`` and ``on_files``. The tests call :func:`pages`.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from intruders.cli.main import app

FOLDER = "reference/cli"


def pages() -> dict[str, str]:
    """Return the Markdown of each generated page by its path under docs."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {f"{FOLDER}/{name}.md": command_page(name, command) for name, command in commands.items()}
    return {f"{FOLDER}/index.md": index_page(commands)} | found


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


def in_a_cell(text: str) -> str:
    """Escape what Markdown would read as a table, emphasis or a tag."""
    return re.sub(r"([|*<>_\[\]])", r"\\\1", " ".join(text.split()))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    entries: list[Any] = [f"{FOLDER}/index.md"]
    entries += [{path.split("/")[-1][:-3]: path} for path in pages() if not path.endswith("index.md")]
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
