"""The model card of what is written: its source's, or front matter of its own; with a section of what was done."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ...errors import ResultFileError
from ...system.words import printable
from ...version import __version__
from ..opening.model_sum import each_part
from ..stored.locate import folder_of

CARD = "README.md"
# Of an audit, which another model's is not.
BEGIN = "<!-- intruders: begin -->"
END = "<!-- intruders: end -->"
_BEGIN, _END = "<!-- intruders, written: begin -->", "<!-- intruders, written: end -->"
# Of a card that PEFT wrote and nobody filled in: its front matter is kept.
_TEMPLATE = "# Model Card for Model ID"
_OF_A_MODULE = re.compile(r"(\w+ \()(.+)(\).*)")  # "LlamaForCausalLM (PATH), adapter 'default'"


def write_record(
    folder: Path, source: Path | None, form: str, names: Mapping[str, str], lines: Sequence[str]
) -> None:
    """Write the card of a model that this package wrote into its ``folder``.

    The card of the model ``source`` is kept, without our sections. ``form`` is "adapter" or "checkpoint"; ``names`` are
    those of the written model ("out"), "base" and "tuned"; ``lines`` say in Markdown what was done.
    """
    base = each_part(names["base"], last_part)
    is_adapter = form == "adapter"
    front = {
        "base_model": base,
        "library_name": "peft" if is_adapter else "transformers",
        "tags": [*([f"base_model:adapter:{base}", "lora"] if is_adapter else []), "intruders"],
    }
    title = f"\n# {printable(names['out'])}\n"
    text = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{title}"
    if source is not None and (card := folder_of(source) / CARD).is_file():
        kept = card.read_text(encoding="utf-8", errors="replace")
        for begin, end in ((BEGIN, END), (_BEGIN, _END)):  # of sections, and of what an edit left of them
            kept = re.sub(rf"(?ms)^{begin}.*?^{end}[ \t]*\r?\n*|^({begin}|{end})[ \t]*\r?$", "", kept)
        text = f"{kept.rstrip()}\n"
        if _TEMPLATE in text:
            text = f"{text.partition(_TEMPLATE)[0].rstrip()}\n{title}"
    about = f"By intruders {__version__} from {code(names['tuned'])} and its base {code(names['base'])}:"
    shown = []
    program = Path(sys.argv[0])
    if "intruders" in (program.stem, program.parent.name):
        # The command line of this process, without folders.
        command = shlex.join(["intruders", *(each_part(word, last_part) for word in sys.argv[1:])])
        shown = ["", "```bash", command, "```"]
    section = "\n".join([_BEGIN, "## What was done to the weights", "", about, "", *lines, *shown, _END])
    (folder / CARD).write_text(with_section(text, section, str(folder / CARD)), encoding="utf-8")


def with_section(text: str, section: str, path: str) -> str:
    """Return the card with ``section``, between its two marks or at the end; ResultFileError for broken marks."""
    newline = "\r\n" if "\r\n" in text else "\n"
    begin, end = section.split("\n", 1)[0], section.rsplit("\n", 1)[-1]
    section = section.replace("\n", newline)
    begins, ends = (
        list(re.finditer(rf"^{re.escape(mark)}(?=[ \t]*\r?$)", text, re.MULTILINE)) for mark in (begin, end)
    )
    if not begins and not ends:
        gap = "" if not text else newline if text.endswith("\n") else newline * 2
        return f"{text}{gap}{section}{newline}"
    if len(begins) != 1 or len(ends) != 1 or ends[0].start() < begins[0].start():
        raise ResultFileError(
            f"'{path}' has {len(begins)} lines '{begin}' and {len(ends)} lines '{end}'; expected one of each, in this "
            "order; remove the section and its lines, and run the command again"
        )
    return text[: begins[0].start()] + section + text[ends[0].end() :]


def last_part(source: str) -> str:
    """Return the last part of a path, and any other name as it is: a Hub id is OWNER/NAME, or that @REVISION."""
    if in_memory := _OF_A_MODULE.fullmatch(source):
        return f"{in_memory[1]}{last_part(in_memory[2])}{in_memory[3]}"
    is_path = Path(source).is_absolute() or source.startswith(("~", "./", "../"))
    if not is_path:
        is_path = source.partition("@")[0].count("/") > 1 or os.path.exists(source)
    return Path(source).name or source if is_path else source


def code(source: str) -> str:
    """Return a model's name as code, without the folders of a path."""
    return f"`{cell(each_part(source, last_part)).replace('`', '')}`"


def cell(text: str) -> str:
    """Escape a name for a table: no character of it may end the cell, the line or the comment."""
    return printable(text).replace("|", "\\|")
