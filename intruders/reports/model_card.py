"""An audit as a section of a model card: between two comment lines, replaced by the next call."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..audits.result.audit_result import Audit
from ..audits.result.summary import by_kind
from ..checkpoints.opening.model_sum import each_part
from ..checkpoints.stored.locate import HubOrigin
from ..errors import ResultFileError
from ..system.files import check_writable, read_bytes, user_path, write_atomically
from ..system.words import percent, printable
from .audit_command import audit_command
from .next_steps import UNMEASURED, next_steps

BEGIN = "<!-- intruders: begin -->"
END = "<!-- intruders: end -->"
_OF_A_MODULE = re.compile(r"(\w+ \()(.+)(\).*)")  # "LlamaForCausalLM (PATH), adapter 'default'"


def write_card(audit: str | os.PathLike[str] | Audit, card: str | os.PathLike[str] = "README.md") -> Path:
    """Write what an audit found into a model card, as one section.

    The section is between two comment lines. The next call replaces it. Everything else in the card stays as it is,
    byte for byte.

    Args:
      audit: The audit, or the path of a saved one (.json or .parquet).
      card: Path of the card, a Markdown file. It is made if it does not exist (default: README.md).

    Returns:
      The path of the card.

    Raises:
      ResultFileError: the audit cannot be read, the card cannot be read or written, or it has one comment line
        without the other.

    Examples:
      >>> import tempfile, torch
      >>> from intruders import audit
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> tuned = {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     card = write_card(audit(base, tuned, k=3, cache=False), f"{folder}/README.md")
      ...     card.read_text().splitlines()[1]
      '## Intruder dimensions'
    """
    result = audit if isinstance(audit, Audit) else Audit.load(audit)
    path = user_path(card)
    check_writable(path)
    try:
        before = read_bytes(path).decode() if path.exists() else ""
    except UnicodeDecodeError:
        raise ResultFileError(f"'{path}' is not UTF-8 text; expected a model card in Markdown") from None
    write_atomically(path, with_section(before, card_section(result), str(path)).encode())
    return path


def card_section(audit: Audit) -> str:
    """Return the section: what was found by module type, the settings and version, and how to make it again."""
    advice = next_steps(audit)
    parts = [BEGIN, "## Intruder dimensions", "", f"{advice.finding} {UNMEASURED} {advice.meaning}", ""]
    if audit.matrices:
        parts += [*_table(audit), ""]
    parts += [_settings(audit), ""]
    command = audit_command(audit)
    if command is not None:  # without the folders of the two models: they tell the readers of a card nothing
        words = shlex.split(command)
        words[2:4] = [each_part(word, _last_part) for word in words[2:4]]  # intruders audit BASE TUNED ...
        parts += ["```bash", shlex.join(words), "```", ""]
    return "\n".join([*parts[:-1], END])


def with_section(text: str, section: str, path: str) -> str:
    """Return the card's ``text`` with ``section`` instead of an earlier one, or at the end.

    Raises:
      ResultFileError: the comment lines around the earlier section are not one of each, in their order.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    section = section.replace("\n", newline)
    begins, ends = _lines_of(BEGIN, text), _lines_of(END, text)
    if not begins and not ends:
        gap = "" if not text else newline if text.endswith("\n") else newline * 2
        return f"{text}{gap}{section}{newline}"
    if len(begins) != 1 or len(ends) != 1 or ends[0].start() < begins[0].start():
        raise ResultFileError(
            f"'{path}' has {len(begins)} lines '{BEGIN}' and {len(ends)} lines '{END}'; expected one of each, in this "
            "order; remove the section and its lines, and run the command again"
        )
    return text[: begins[0].start()] + section + text[ends[0].end() :]


def _lines_of(mark: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"^{re.escape(mark)}(?=[ \t]*\r?$)", text, re.MULTILINE))


def _table(audit: Audit) -> list[str]:
    return [
        "| module type | matrices | intruders | energy share | relative update (median) |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {_cell(kind.kind)} | {kind.matrices:,} | {kind.intruders:,} of {kind.vectors:,} | "
            f"{percent(kind.energy_share)} | {percent(kind.relative_update)} |"
            for kind in by_kind(audit.matrices)
        ),
    ]


def _settings(audit: Audit) -> str:
    base = f"base {_code(audit.base_source)}{_commits(audit.base_hub)}"
    names = f"{base}, tuned {_code(audit.tuned_source)}{_commits(audit.tuned_hub)}"
    version = audit.versions.get("intruders")
    return (
        f"An intruder is one of the top {audit.k} left singular vectors of a tuned matrix whose max cosine with the "
        f"base's left singular vectors is below {audit.epsilon:g}. Audit: {names}, k = {audit.k}, "
        f"epsilon = {audit.epsilon:g}{', exact' if audit.exact else ''}"
        f"{f', intruders {version}' if version else ''}."
    )


def _commits(hub: Sequence[HubOrigin]) -> str:
    return f" (commit {', '.join(_code(origin.commit) for origin in hub)})" if hub else ""


def _last_part(source: str) -> str:
    """Return the last part of a path, and any other name as it is: a Hub id is OWNER/NAME, or that @REVISION."""
    if in_memory := _OF_A_MODULE.fullmatch(source):
        return f"{in_memory[1]}{_last_part(in_memory[2])}{in_memory[3]}"
    is_path = Path(source).is_absolute() or source.startswith(("~", "./", "../"))
    if not is_path:
        is_path = source.partition("@")[0].count("/") > 1 or os.path.exists(source)
    return Path(source).name or source if is_path else source


def _code(source: str) -> str:
    return f"`{_cell(each_part(source, _last_part)).replace('`', '')}`"


def _cell(text: str) -> str:
    """Escape a name for a table: no character of it may end the cell, the line or the comment."""
    return printable(text).replace("|", "\\|")
