"""What commands print and write, as text: ``python -m tests.recorded.record --write`` records it anew.

Of each command the recorded file has the exit status, standard output and error, the names of new files, every JSON
document, the schema and rows of every Parquet file, and the text of every page. What depends on the machine (times,
versions, digests) has a word in its place. Numbers are compared within a tolerance, everything else to the letter.
"""

import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.commands import in_this_process
from tests.fixtures.make_fixtures import settled
from tests.recorded.cases import CHAINS, Case, make_models

HERE = Path(__file__).parent
RELATIVE = 1e-6
# Of a file in a deeper folder, the name is recorded alone; and of what transformers and PEFT write.
_DEPTH = 2
_THEIRS = re.compile(r"(^|.*/)(config|generation_config|tokenizer.*|adapter_config|special_tokens_map)\.json")
_WIDTH = 116
_MOST = 8  # of the items of a list and the rows of a table; the others are counted

# What stands for a value that depends on the machine or the day.
_SETTLED = (
    (r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(\+00:00|Z)?)?", "<day>"),
    (r"\b\d[\d,.]*(e-\d+)? ?(ms|s|seconds?|min|minutes?|h|hours?|days?)\b", "<time>"),
    (r"<time>( <time>)+", "<time>"),
    (r"\(\d+ billion operations per second", "(<n> billion operations per second"),
    (r"(?<![0-9a-zA-Z])(?=[0-9a-f]*\d)[0-9a-f]{12,64}(?![0-9a-zA-Z])", "<digest>"),
    (r"(?<=cache/)[0-9a-f](?=/)", "<digit>"),
    (r"\"float32\": \"[^\"]*\"", '"float32": "<numbers>"'),
    (r"python -m [\w.]*\.intruders\b", "intruders"),
    (r"(?<=-)(?=[0-9a-f]*\d)[0-9a-f]{8}\b", "<id>"),
    (r"\bLinux-\d[\w.+-]*", "<platform>"),
    (
        r"\b(torch|python|numpy|safetensors|transformers|peft|intruders|datasets|accelerate) \d+(\.\d+)+[\w.+]*",
        r"\1 <version>",
    ),
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%|(?!\w))")
# Elements of a page that are parts of a line; others begin one.
_INLINE = re.compile(
    r"</?(a|abbr|b|code|em|i|input|label|option|small|span|strong|sub|sup|button|time)\b[^>]*>"
)


def recorded(cases: Sequence[Case], folder: Path) -> Iterator[tuple[Case, str]]:
    """Run commands one after another in ``folder``, and yield what each printed and wrote."""
    for case in cases:
        before = _files(folder)
        words = [name for word in case.words for name in _expanded(word, folder)]
        done = in_this_process(*words, cwd=folder)
        new = sorted(file for file, made in _files(folder).items() if before.get(file) != made)
        yield case, _as_text(case, done.returncode, done.stdout, done.stderr, new, folder)


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def _expanded(word: str, folder: Path) -> list[str]:
    """Return what a shell makes of a pattern of paths; ``?`` stands between a file and its columns."""
    found = sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else []
    return found or [word]


def _as_text(
    case: Case, status: int, printed: str, complained: str, new: Sequence[Path], folder: Path
) -> str:
    names = sorted({_settled(str(path.relative_to(folder)), folder) for path in new})
    parts = [f"$ intruders {case.line}", f"== status {status}", printed, "== standard error", complained]
    parts += ["== wrote", *names]
    for path in new:
        name = str(path.relative_to(folder))
        is_shown = case.contents and len(Path(name).parts) <= _DEPTH and not _THEIRS.match(name)
        content = _content(path, folder) if is_shown else None
        if content is not None:
            parts += [f"== {name}", content]
    lines = "\n".join(_settled(part, folder).rstrip() for part in parts).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _content(path: Path, folder: Path) -> str | None:
    match path.suffix:
        case ".json" | ".sarif":
            document = json.loads(path.read_text(encoding="utf-8"))
            return _broken(settled(_rounded(document), str(folder)))
        case ".parquet":
            table = pq.read_table(path)
            rows = [{key: item for key, item in row.items() if item is not None} for row in table.to_pylist()]
            kinds = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
            return "\n".join([kinds, *map(_broken, settled(_rounded(rows), str(folder)))])
        case ".html":
            return _page_text(path.read_text(encoding="utf-8"))
        case ".md" | ".csv" | ".txt" | ".yaml":
            return path.read_text(encoding="utf-8")
    return None


def _rounded(value: Any) -> Any:
    """Return the value with numbers of eight digits, and of lists the first items: a file is short."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        more = [f"<{len(value) - _MOST} more>"] if len(value) > _MOST else []
        return [*(_rounded(item) for item in value[:_MOST]), *more]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def _broken(value: Any, indent: int = 0) -> str:
    """Return JSON in lines as long as fit: short for a file, and a change in one place is one line of a diff."""
    line = json.dumps(value, ensure_ascii=False)
    width = indent + len(_NUMBER.sub("#" * 8, line))  # another processor may print fewer digits
    if width <= _WIDTH or not isinstance(value, (dict, list)) or not value:
        return line
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        inner = [f"{pad}{json.dumps(key)}: {_broken(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(pad + _broken(item, indent + 1) for item in value) + "\n" + " " * indent + "]"


def _page_text(page: str) -> str:
    """Return the words of a page, without its scripts, styles and drawings."""
    page = re.sub(r"<(script|style|svg)\b.*?</\1>|<!--.*?-->", " ", page, flags=re.DOTALL)
    page = _INLINE.sub("", " ".join(page.split()))
    lines = re.sub(r"<[^>]*>", "\n", re.sub(r"</t[dh]> ?<t[dh][^>]*>", " | ", page)).splitlines()
    return "\n".join(_without_seconds(html.unescape(" ".join(line.split())) for line in lines))


def _without_seconds(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines that are not empty, with a word for each number in the column ``seconds`` of a table."""
    at = None
    for line in filter(None, lines):
        cells = line.split(" | ")
        if "seconds" in cells:
            at = cells.index("seconds")
        elif at is not None and len(cells) > at:
            cells[at] = "<time>"
        elif len(cells) == 1:
            at = None
        yield " | ".join(cells)


def _settled(text: str, folder: Path) -> str:
    text = text.replace(str(folder), "WORK")
    for pattern, word in _SETTLED:
        text = re.sub(pattern, word, text)
    return text


def differences(cases: Sequence[Case], folder: Path, kept: Path) -> list[str]:
    """Return where commands print or write something else than their files in ``kept`` say."""
    told = []
    for case, now in recorded(cases, folder):
        file = kept / f"{case.name}.txt"
        told.append(difference(case, file.read_text(encoding="utf-8") if file.is_file() else "", now))
    return [line for line in told if line]


def difference(case: Case, was: str, now: str) -> str:
    """Return the first lines that differ by more than the case allows; nothing if there are none."""
    before, after = was.splitlines(), now.splitlines()
    for number, (old, new) in enumerate(zip(before, after, strict=False), start=1):
        if not _is_same(old, new, case.noise):
            return f"{case.name}.txt, line {number}:\n- {old}\n+ {new}"
    if len(before) != len(after):
        rest = (before if len(before) > len(after) else after)[min(len(before), len(after)) :]
        return f"{case.name}.txt has {len(before)} lines, and now {len(after)}: {rest[0]}"
    return ""


def _is_same(old: str, new: str, noise: float) -> bool:
    """Return whether two lines have the same words, and numbers that are equal within the tolerance."""
    if old == new:
        return True
    if _words(old) != _words(new):
        return False
    return all(
        _are_close(first, second, noise)
        for first, second in zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
    )


def _words(line: str) -> str:
    """Return a line without its numbers, and without the space that their signs and digits leave in a table."""
    return " ".join(_NUMBER.sub(" # ", line).split())


def _are_close(old: str, new: str, noise: float) -> bool:
    """Return whether two numbers are; one that is printed with few digits may be rounded to the next."""
    if old == new:
        return True
    is_whole = not set(".e%") & set(old + new)
    if is_whole or ("%" in old) != ("%" in new):
        return False
    first, second = (float(text.rstrip("% ")) for text in (old, new))
    digits = max(len(text.rstrip("% ").partition(".")[2]) for text in (old, new))
    unit = 0.0 if digits > 5 or "e" in old + new else 1.001 * 10.0**-digits
    size = max(abs(first), abs(second))
    return abs(first - second) <= max(RELATIVE * size, noise * max(size, 1.0), unit)


def main() -> None:
    """Write every chain, or those that are named."""
    chains = [word for word in sys.argv[1:] if word in CHAINS] or list(CHAINS)
    for chain in chains:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary).resolve()
            make_models(folder, chain)
            for case, text in recorded(CHAINS[chain], folder):
                (HERE / f"{case.name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ["INTRUDERS_PLUGINS"] = "0"  # as in the tests: what other packages add is theirs to record
    if "--write" not in sys.argv:
        sys.exit("python -m tests.recorded.record --write [CHAIN...]")
    main()
