"""An audit as a section of a model card: between two comment lines, replaced by the next call."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..audits.result.audit_result import Audit
from ..audits.result.summary import by_kind
from ..checkpoints.opening.model_sum import each_part
from ..checkpoints.stored.locate import HubOrigin
from ..checkpoints.writing.card import BEGIN, CARD, END, cell, code, last_part, with_section
from ..errors import ResultFileError
from ..system.files import check_writable, read_bytes, user_path, write_atomically
from ..system.words import percent
from .audit_command import audit_command
from .next_steps import UNMEASURED, next_steps


def write_card(audit: str | os.PathLike[str] | Audit, card: str | os.PathLike[str] = CARD) -> Path:
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
    advice = next_steps(audit)
    parts = [BEGIN, "## Intruder dimensions", "", f"{advice.finding} {UNMEASURED} {advice.meaning}", ""]
    if audit.matrices:
        rows = (
            f"| {cell(kind.kind)} | {kind.matrices:,} | {kind.intruders:,} of {kind.vectors:,} | "
            f"{percent(kind.energy_share)} | {percent(kind.relative_update)} |"
            for kind in by_kind(audit.matrices)
        )
        titles = "| module type | matrices | intruders | energy share | relative update (median) |"
        parts += [titles, "|---|---:|---:|---:|---:|", *rows, ""]
    base = f"base {code(audit.base_source)}{_commits(audit.base_hub)}"
    names = f"{base}, tuned {code(audit.tuned_source)}{_commits(audit.tuned_hub)}"
    version = audit.versions.get("intruders")
    settings = (
        f"An intruder is one of the top {audit.k} left singular vectors of a tuned matrix whose max cosine with the "
        f"base's left singular vectors is below {audit.epsilon:g}. Audit: {names}, k = {audit.k}, "
        f"epsilon = {audit.epsilon:g}{', exact' if audit.exact else ''}"
        f"{f', intruders {version}' if version else ''}."
    )
    parts += [settings, ""]
    command = audit_command(audit)
    if command is not None:  # without the folders of the two models: they tell the readers of a card nothing
        words = shlex.split(command)
        words[2:4] = [each_part(word, last_part) for word in words[2:4]]  # intruders audit BASE TUNED ...
        parts += ["```bash", shlex.join(words), "```", ""]
    return "\n".join([*parts[:-1], END])


def _commits(hub: Sequence[HubOrigin]) -> str:
    return f" (commit {', '.join(code(origin.commit) for origin in hub)})" if hub else ""
