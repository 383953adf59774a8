"""The docs, the help and the messages avoid the words that the glossary drops."""

import ast
import inspect
import re
from pathlib import Path

import typer

import intruders
from intruders.cli.main import app
from tests.docs.pages import READ, ROOT, prose

# Each is followed by what is written in its place. A number of everyday words have a plain meaning too, so that only
# the turns of phrase are listed.
DROPPED = {
    r"foretell\w*|foretold": "predict",
    r"judg(?:e|es|ed|ing)": "decide, check",
    r"mend(?:s|ed|ing)?": "fix",
    r"anew": "again",
    r"alike": "same, equally",
    r"so many": "a number",
    r"with commas between": "comma-separated",
    r"in (?:their|its) stead": "the control's name",
    r"is no": "is not a",
    r"(?:is|are) there": "exists",
    r"there (?:is|are) no (?:file|folder|adapter|checkpoint|intruders)": "the sentence with its subject",
    r"(?:goes|went|going) on": "resume, continue",
    r"whole(?! number)": "complete",
    r"holds?|holding": "contains, has",
    r"(?:is|are) (?:had|said)": "an active verb",
    r"stands? (?:beside|in|with|above)|stood": "is in, is listed",
    r"beside it": "with it",
    r"turned (?:up|down)": "scaled",
    r"given back|gave back|gives back": "recovered",
    r"strong directions?": "intruder",
    r"resembles none": "intruder",
    r"leaves? out zero|leaving out zero": "excludes zero",
    r"for ever": "forever",
    r"per cent": "percent",
    r"colou?rs? of the system's": "colors",
    r"colour\w*|neighbouring|behaviour\w*|licence": "American spelling",
}
PATTERN = re.compile("|".join(rf"\b(?:{words})\b" for words in DROPPED), re.IGNORECASE)

# (file, phrase): why it stays.
EXCEPTIONS = {("docs/concepts/certificate.md", "resembles none"): "the theorem's wording"}


def found_in(where: str, text: str) -> list[str]:
    return [
        f"{where}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]!r}"
        for hit in PATTERN.finditer(text)
        if (where, hit[0].lower()) not in EXCEPTIONS
    ]


def test_pages() -> None:
    assert [hit for page in READ for hit in found_in(page.relative_to(ROOT).as_posix(), prose(page))] == []


def test_help() -> None:
    group = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        with command.make_context(name, [], resilient_parsing=True) as context:
            found += found_in(f"intruders {name}", command.help or "")
            for parameter in command.get_params(context):
                record = parameter.get_help_record(context)
                found += found_in(f"intruders {name} {parameter.name}", record[1] if record else "")
    assert found == []


def texts_for_people(file: Path) -> list[tuple[int, str]]:
    """The line and text of every string literal but docstrings; what is filled in is a space."""
    found, inside = [], set[ast.AST]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):  # what is around comes first
        if isinstance(node, ast.Expr):
            inside.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            inside.update(node.values)
            parts = [part.value if isinstance(part, ast.Constant) else " " for part in node.values]
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            found.append((node.lineno, node.value))
    return found


def test_messages() -> None:
    assert [
        f"{file.relative_to(ROOT)}:{line}: {hit[0]!r} in {text!r}"
        for file in sorted((ROOT / "intruders").rglob("*.py"))
        for line, text in texts_for_people(file)
        for hit in PATTERN.finditer(text)
    ] == []


def test_templates_of_the_reports() -> None:
    found = []
    code = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<script.*?</script>|<style.*?</style>", re.S)
    for file in sorted((ROOT / "intruders" / "reports" / "page").glob("*.j2")):
        found += found_in(file.relative_to(ROOT).as_posix(), code.sub(" ", file.read_text(encoding="utf-8")))
    assert found == []


def documented() -> list[tuple[str, str]]:
    """The docstrings that the site shows: of public names, and of their public members."""
    found = []
    for name in intruders.__all__:
        value = getattr(intruders, name)
        found.append((f"intruders.{name}", inspect.getdoc(value) or ""))
        for member, function in vars(value).items() if inspect.isclass(value) else ():
            if not member.startswith("_") and getattr(function, "__doc__", None):
                found.append((f"intruders.{name}.{member}", str(function.__doc__)))
    return found


def test_docstrings_of_public_names() -> None:
    assert [hit for name, text in documented() for hit in found_in(name, text)] == []
