"""Texts that stand for what a model was pre-trained on, as documents; and the files of local copies of public sets."""

import hashlib
import json
import random
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..system.files import user_path
from ..system.plugins import CORPORA, plugins_of
from ..system.words import plural
from .hub_tasks import HUB_TASKS, VARIABLE, file_of_split, files_of_copied_task, folder_of_copy, loader_of_hub
from .local_files import COMPRESSED, SUFFIXES, ending, open_text, read_rows
from .values import as_text, is_missing, require_utf8

SELF, RANDOM_TOKENS = OWN_TEXT = "self", "random-tokens"  # that the base writes, in the place of a corpus
_TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")
# What datasets and the hub keep beside the rows of a data set.
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_HUB_DOCUMENTS = 200  # first rows of a corpus of the hub, where no number of documents is asked for
_DOCUMENT_CHARACTERS = 4000  # about so long are the documents that one long text is cut into


@dataclass(frozen=True)
class HubCorpus:
    """A data set of the hub, read as a stream: only the documents that are used are loaded."""

    path: str
    split: str
    column: str
    configuration: str | None = None
    is_one_text: bool = False  # its rows are the lines of one text, which is cut into documents


HUB_CORPORA = {
    "bookcorpus": HubCorpus("rojagtap/bookcorpus", "train", "text"),
    "wikipedia": HubCorpus("wikimedia/wikipedia", "train", "text", "20231101.en"),
    "cc-news": HubCorpus("vblagoje/cc_news", "train", "text"),
    "openwebtext": HubCorpus("Skylion007/openwebtext", "train", "text", "plain_text"),
    "stories": HubCorpus("lucadiliello/STORIES", "train", "text"),
    "c4": HubCorpus("allenai/c4", "validation", "text", "en"),
    "wikitext": HubCorpus("Salesforce/wikitext", "test", "text", "wikitext-103-raw-v1"),
    "wikitext-2": HubCorpus("Salesforce/wikitext", "test", "text", "wikitext-2-raw-v1", is_one_text=True),
}
# What RoBERTa was pre-trained on (Liu et al. 2019), weighted by the sizes given there: 16 GB of books and
# Wikipedia together, 76 GB of news, 38 GB of web text, 31 GB of stories.
MIXTURES = {"roberta-pretraining": "bookcorpus@8+wikipedia@8+cc-news@76+openwebtext@38+stories@31"}


@dataclass(frozen=True)
class Corpus:
    """Documents, and their weight among the corpora of a mixture."""

    name: str
    documents: list[str]
    weight: float = 1.0

    @property
    def digest(self) -> str:
        """The first 12 digits of a SHA-256 over the documents: two losses are of the same text if these agree."""
        content = json.dumps(self.documents, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()[:12]

    def recorded(self) -> dict[str, Any]:
        """Return what the record of a run says of it."""
        return {"corpus": self.name, "documents": len(self.documents), "digest": self.digest}


Corpora = Mapping[str, Sequence[Corpus]]  # the parts of every corpus by its name; most have one


def load_all(names: Iterable[str], *, max_documents: int | None, seed: int) -> Corpora:
    """Load several corpora, each as :func:`load_corpora` does."""
    return {name: load_corpora(name, max_documents=max_documents, seed=seed) for name in names}


def digests_of(corpora: Corpora) -> dict[str, list[str]]:
    return {name: [part.digest for part in parts] for name, parts in corpora.items()}


def documents_in(parts: Iterable[Corpus]) -> int:
    return sum(len(part.documents) for part in parts)


def load_corpora(name: str, *, max_documents: int | None = None, seed: int = 0) -> list[Corpus]:
    """Load the corpus ``name``, or the weighted parts of a mixture such as ``pydoc@0.3+notes.txt@0.7``.

    ``pydoc`` is the text of Python's own documentation; a text file is cut into documents at blank lines; a
    data file has one document per row in its column ``text``; a folder one per text file, or where it has
    none but a README, the rows of its data files, as of a data set's shards; a name of the hub table, or
    ``hub:PATH?column``, streams its first rows. For a name of the table, a local copy in ``$INTRUDERS_DATA`` takes
    precedence over the hub. More than ``max_documents`` documents are sampled by seed.
    Raises SettingError for a name that is none of these, and for an empty corpus.
    """
    corpora = []
    for source, weight in _parts(name):
        documents = _documents_with_text(source, _HUB_DOCUMENTS if max_documents is None else max_documents)
        if max_documents is not None and len(documents) > max_documents:
            drawn = random.Random(f"documents {seed}").sample(range(len(documents)), max_documents)
            documents = [documents[index] for index in sorted(drawn)]
        corpora.append(Corpus(source, documents, weight))
    return corpora


def require_corpus(name: str) -> None:
    """Read what :func:`load_corpora` reads on this machine alone, so that its errors come before any work."""
    others = plugins_of(CORPORA)
    for source, _ in _parts(name):
        if not _is_of_hub(source) and source not in others:
            _documents_with_text(source, _HUB_DOCUMENTS)


def local_sources(name: str) -> list[Path]:
    """Return the files and folders here that a corpus is read from; none for the parts that are known by their name.

    >>> Path("a.txt").write_text("some text")
    9
    >>> [str(path) for path in local_sources("a.txt@0.7+pydoc@0.3")]
    ['a.txt']
    """
    known = {"pydoc", *HUB_CORPORA, *plugins_of(CORPORA)}
    paths = [user_path(source) for source, _ in _parts(name) if source not in known]
    return [path for path in paths if path.exists()]


def is_here(name: str) -> bool:
    """Return whether all of a corpus can be read on this machine without the hub."""
    others = {"pydoc", *plugins_of(CORPORA)}
    return all(
        source in others
        or (folder_of_copy(source) is not None if source in HUB_CORPORA else user_path(source).exists())
        for source, _ in _parts(name)
    )


def files_of_source(path: Path) -> list[Path]:
    """Return a file itself, and of a folder the files below it that are read, in the order of their documents."""
    if path.is_dir():
        texts, rows = _texts_and_rows(path)
        return texts or rows
    return [path] if path.is_file() else []


def _parts(name: str) -> Iterator[tuple[str, float]]:
    # What every part of a mixture is read from, and its weight; SettingError for a part that has none.
    require_utf8(name, "corpus")
    is_path = any(text and user_path(text).exists() for text in (name, name.rpartition("@")[0]))
    for part in [name] if is_path else MIXTURES.get(name, name).split("+"):
        source, weight = part, 1.0
        before, at, behind = part.rpartition("@")
        if at:
            with suppress(ValueError):  # of an @ that belongs to the name
                source, weight = before, float(behind)
        if not source.strip():  # as a path it would be the current folder
            raise SettingError(
                f"corpus {name!r} has a part without a name; expected texts with + between, such as "
                "pydoc@0.3+notes.txt@0.7; name each part"
            )
        if not 0 < weight < float("inf"):
            raise SettingError(f"corpus {part!r} has the weight {behind}; expected a positive number")
        yield source, weight


def _is_of_hub(source: str) -> bool:
    return source.startswith("hub:") or (source in HUB_CORPORA and folder_of_copy(source) is None)


def _texts_and_rows(folder: Path) -> tuple[list[Path], list[Path]]:
    # The text files and the data files below a folder; the README of a data set is no text.
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    texts = [file for file in files if ending(file) in _TEXT_SUFFIXES]
    rows = [file for file in files if ending(file) in SUFFIXES and file.name not in _DESCRIPTIONS]
    is_described = rows and all(file.name.lower() == "readme.md" for file in texts)
    return [] if is_described else texts, rows


def cut_at_blank_lines(text: str, characters: int = _DOCUMENT_CHARACTERS) -> list[str]:
    """Join paragraphs to documents of at least ``characters``; nothing is omitted or split."""
    documents, current, size = [], [], 0
    for paragraph in re.split(r"\n[^\S\n]*\n", text):
        current.append(paragraph)
        size += len(paragraph)
        if size >= characters:
            documents.append("\n\n".join(current))
            current, size = [], 0
    if current:
        documents.append("\n\n".join(current))
    return documents


def _documents_with_text(source: str, hub_documents: int) -> list[str]:
    documents = [text for text in _documents(source, hub_documents) if text.strip()]
    if not documents:
        raise SettingError(f"corpus {source!r} is empty; expected at least one document with text")
    return documents


def _documents(source: str, hub_documents: int) -> list[str]:
    if source == "pydoc":
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    if _is_of_hub(source):
        path, _, column = source.removeprefix("hub:").partition("?")
        corpus = HUB_CORPORA.get(source) or HubCorpus(path, "train", column or "text")
        # The stages of a run ask for fewer or more of them, and one download serves all.
        read = list(_from_hub(source, corpus, max(hub_documents, _HUB_DOCUMENTS)))
        return read if corpus.is_one_text else read[:hub_documents]
    others = plugins_of(CORPORA)
    if source in others:
        return list(others[source]())
    copy = folder_of_copy(source) if source in HUB_CORPORA else None
    file = user_path(source) if copy is None else _file_of_copy(source, copy)
    if file.is_dir():
        texts, rows = _texts_and_rows(file)
        if not texts and not rows:
            raise SettingError(
                f"corpus {source!r} is a folder without texts; expected text files ({', '.join(_TEXT_SUFFIXES)}), or "
                f"data files with the column text ({', '.join(SUFFIXES)}), each packed by gzip or not; pass another "
                "folder, or the path of a file"
            )
        if texts and rows:
            warnings.warn(
                f"corpus {source!r} is read from its {plural(len(texts), 'text file')}, without its "
                f"{plural(len(rows), 'data file')} such as {rows[0].name!r}; pass a data file by its own path",
                stacklevel=4,
            )
        return [_read(text) for text in texts] or [text for shard in rows for text in _rows(shard)]
    if ending(file) in SUFFIXES:
        return _rows(file)
    if file.is_file():
        return cut_at_blank_lines(_read(file))
    raise SettingError(
        f"corpus {source!r} is not known; expected pydoc, a text or data file, a folder of such, "
        f"hub:PATH, or one of {', '.join([*HUB_CORPORA, *MIXTURES, *others])}"
    )


def _rows(path: Path) -> list[str]:
    file = read_rows(path)
    if file.rows and "text" not in file.rows[0]:
        there = ", ".join(map(repr, file.rows[0]))
        raise SettingError(
            f"column 'text' is not in {path.name}; a corpus is read from it; there are {there}"
        )
    rows = [(row["text"], file.origin(index)) for index, row in enumerate(file.rows)]
    texts = [text for row, at in rows if not is_missing(row) and (text := as_text(row, "text", at)).strip()]
    if 0 < len(texts) < len(rows):
        warnings.warn(
            f"corpus '{path}': {len(rows) - len(texts):,} of {plural(len(rows), 'row')} have no text and are "
            "left out",
            stacklevel=4,
        )
    return texts


def _read(path: Path) -> str:
    try:
        with open_text(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        is_packed = isinstance(error, UnicodeDecodeError) and path.suffix.lower() in COMPRESSED
        how = "; it is compressed: unpack it" if is_packed else ""
        raise SettingError(f"text file {str(path)!r} cannot be read as UTF-8: {error}{how}") from error


def _file_of_copy(name: str, folder: Path) -> Path:
    suffixes = (*_TEXT_SUFFIXES, *SUFFIXES)
    file = file_of_split(folder, "test", suffixes) or file_of_split(folder, "train", suffixes)
    if file is None:
        raise SettingError(
            f"corpus {name!r}: its local copy '{folder}' has no file; expected test.txt, test.jsonl or such; "
            "add it, or unset INTRUDERS_DATA to use the hub"
        )
    return file


@lru_cache(maxsize=8)  # the stages and measures of a run ask for the same documents
def _from_hub(name: str, corpus: HubCorpus, documents: int) -> Sequence[str]:
    with loader_of_hub(f"corpus {name!r}", corpus.path) as load:
        stream = load(corpus.path, corpus.configuration, split=corpus.split, streaming=True)
        if corpus.is_one_text:
            return cut_at_blank_lines("\n".join(str(row[corpus.column]).rstrip("\n") for row in stream))
        return [str(row[corpus.column]) for row in stream.take(documents)]


def halves_of_corpus(corpus: Corpus, seed: int) -> tuple[Corpus, Corpus]:
    """Split the documents by seed into those to choose by and those to report on; SettingError for fewer than two."""
    if len(corpus.documents) < 2:
        raise SettingError(
            f"corpus {corpus.name!r} has 1 document; expected 2 or more, since strengths are chosen on one half and "
            "shown on the other; pass a larger corpus or --max-documents; a text file is cut at blank lines into "
            "documents of 4,000 characters or more, and a data file has a document per row of its column 'text'"
        )
    documents = list(corpus.documents)
    random.Random(f"halves {seed}").shuffle(documents)
    middle = len(documents) // 2
    return replace(corpus, documents=documents[:middle]), replace(corpus, documents=documents[middle:])


def halves_of_corpora(corpora: Corpora, seed: int) -> tuple[Corpora, Corpora]:
    """Split every part of every corpus as :func:`halves_of_corpus`."""
    halves = {name: [halves_of_corpus(part, seed) for part in parts] for name, parts in corpora.items()}
    first = {name: [half for half, _ in parts] for name, parts in halves.items()}
    return first, {name: [half for _, half in parts] for name, parts in halves.items()}


def files_of_copies(tasks: Iterable[str], texts: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files of every copy that these tasks and texts are read from, by ``NAME in INTRUDERS_DATA``.

    A copy that cannot be used has none: the error comes where it is loaded.
    """
    files: dict[str, list[Path]] = {}
    for name in tasks:
        if name in HUB_TASKS:
            with suppress(SettingError):
                files[name] = [*files_of_copied_task(name).values()]
    for source in (source for name in texts for source, _ in _parts(name) if source in HUB_CORPORA):
        with suppress(SettingError):
            folder = folder_of_copy(source)
            files[source] = [] if folder is None else [_file_of_copy(source, folder)]
    return {f"{name} in {VARIABLE}": of_copy for name, of_copy in files.items() if of_copy}
