"""What must not change unseen, as text; ``python -m tests.house.pinned_facts`` writes it anew."""

import hashlib
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STUDIES = [*ROOT.glob("examples/*.yaml"), *ROOT.glob("research/examples/*.yaml")]


def options() -> list[str]:
    """One line per argument and option of every command: names, default, whether it repeats."""
    import typer

    from intruders.cli.main import app

    lines = []
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        for one in sorted(command.params, key=lambda param: str(param.name)):
            if one.name == "help":
                continue
            names = " ".join(sorted([*one.opts, *one.secondary_opts]))
            repeats = ", repeats" if one.multiple or one.nargs != 1 else ""
            default = None if one.default in ((), [], None) else one.default
            lines.append(f"{name} {names}: default {default!r}{repeats}")
    return lines


def columns() -> list[str]:
    """One line per column of a study's tables, of an audit's Parquet and of a fleet's, with its Arrow type."""
    from intruders.audits.fleet.fleet_table import COLUMNS as ADAPTERS
    from intruders.audits.result.vector_table import VECTOR_SCHEMA
    from intruders.studies.tables import COLUMNS, arrow_schema

    tables = {**{table: arrow_schema(table) for table in COLUMNS}, "audit": VECTOR_SCHEMA}
    lines = [f"{table}.{field.name}: {field.type}" for table, schema in tables.items() for field in schema]
    return [*lines, *(f"adapters.{name}: {kind}" for name, kind in ADAPTERS)]


def runs() -> list[str]:
    """One line per run of every example study: its id, its stages, and a hash of the settings that each was done by."""
    from intruders.studies.runs import expand
    from intruders.studies.stages import stages_of
    from intruders.studies.study import read_study

    lines = []
    for file in sorted(STUDIES, key=lambda file: file.name):
        for run in expand(read_study(file)):
            stages = {stage.name: stage.settings(run) for stage in stages_of(run)}
            content = json.dumps(stages, sort_keys=True, default=list).encode()
            digest = hashlib.sha256(content).hexdigest()[:12]
            lines.append(f"{file.name} {run.id} {' '.join(stages)} {digest}")
    return lines


def keys() -> list[str]:
    """One line per key of an audit's JSON, lists as []."""
    from tests.made_up import BERT, made_up_audit

    def paths(value: Any, path: str) -> set[str]:
        if isinstance(value, dict):
            return {
                inner
                for key, item in value.items()
                for inner in paths(item, f"{path}.{key}" if path else key)
            }
        if isinstance(value, list):
            return {inner for item in value[:1] for inner in paths(item, f"{path}[]")} or {f"{path}[]"}
        return {path}

    document = json.loads(made_up_audit(1, BERT, width=8).to_json())
    del document["versions"]
    return sorted(paths(document, ""))


FACTS = {"options": options, "columns": columns, "runs": runs, "keys": keys}

if __name__ == "__main__":
    for name, fact in FACTS.items():
        (HERE / "pinned" / f"{name}.txt").write_text("\n".join(fact()) + "\n", encoding="utf-8")
