"""What the result of every public function can do: become plain JSON values, be saved, and be loaded again."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from ..errors import ResultFileError
from ..version import __version__
from .documents import of_schema
from .files import read_bytes, user_path, write_atomically
from .plain_values import from_plain, plain


@runtime_checkable
class Result(Protocol):
    """What a public function measured. ``load`` of what ``save`` wrote has an equal document."""

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values with the number of their schema."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it completely or not at all: to a file, or to a folder where it has several files."""
        ...

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote; ResultFileError for anything else, and for a newer schema."""
        ...


class JsonResult:
    """A result whose document holds all of it, and is saved as one JSON file."""

    schema: ClassVar[int] = 1  # the number of its document
    what: ClassVar[str]  # what its file is to a person: "a file of critical scales"
    written_by: ClassVar[str] = ""  # the command that writes one; without any, its own ``save`` does
    file_name: ClassVar[str | None] = None  # in the folder that the command writes, where it writes one
    indent: ClassVar[int | None] = None  # of the lines of its file, where people read it

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values with the number of their schema; null for a number that JSON does not have."""
        return {"schema": self.schema, **plain(self)}

    def head(self) -> dict[str, Any]:
        """Return what a document of its own form begins with."""
        return {"schema": self.schema, "intruders_version": __version__}

    def in_card(self) -> list[str]:
        """Return what the model card of the weights that it is of says of it: lines of Markdown."""
        return []

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Make it from its document; an error of a missing or wrong value where it is another one's."""
        result: Self = from_plain(cls, document)
        return result

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document to a JSON file, completely or not at all; ResultFileError if that cannot be."""
        write_atomically(path, json_bytes(self.to_document(), self.indent))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that ``save`` or the command wrote; ResultFileError for another, or of a newer version."""
        file = user_path(path)
        if cls.file_name is not None and file.is_dir():
            file /= cls.file_name
        with refuse_others(file, cls.what, cls.written_by or f"{cls.__name__}.save"):
            document = json.loads(read_bytes(file))
            return cls.from_document(of_schema(document, str(file), cls.what, cls.schema))


@contextmanager
def refuse_others(file: Path, kind: str, written_by: str) -> Iterator[None]:
    """Turn the errors of reading a document of another kind into a ResultFileError that says what was expected."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ResultFileError(f"'{file}' is not {kind}; pass one that {written_by} wrote") from error


def json_bytes(document: Mapping[str, Any] | Sequence[Any], indent: int | None = None) -> bytes:
    return (json.dumps(document, allow_nan=False, ensure_ascii=False, indent=indent) + "\n").encode()
