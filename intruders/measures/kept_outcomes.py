"""Finished evaluations, one file each, so that an interrupted comparison resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audits.result.audit_result import Audit
from ..system.digests import json_digest
from ..system.files import write_atomically
from .outcome import Outcome

FOLDER = "evaluations"
SCHEMA = 2


def digest_of_intruders(audit: Audit) -> str:
    """Return a hash of which vectors are intruders: a given audit may differ from what its settings would find."""
    names = [
        [matrix.name, [vector.index for vector in matrix.vectors if vector.intruder]]
        for matrix in audit.matrices
    ]
    return json_digest(names)


@dataclass(frozen=True)
class KeptOutcomes:
    """Evaluations of two models by their settings; kept nowhere without a folder.

    ``of`` is everything that all evaluations depend on. The unit of an evaluation is what only this one depends on: a
    remedy with its settings, a control, a share of the data. A file's name is the hash of both, so that another model
    or setting never reads it.
    """

    folder: Path | None
    of: Mapping[str, Any]

    def get(self, unit: Mapping[str, Any]) -> Outcome | None:
        """Return the kept evaluation, or None if its file is missing, broken or of other settings."""
        record = self.get_plain(unit)
        try:
            return None if record is None else Outcome.from_dict(record)
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, unit: Mapping[str, Any], outcome: Outcome) -> None:
        """Keep it, completely or not at all."""
        self.put_plain(unit, outcome.as_dict())

    def get_plain(self, unit: Mapping[str, Any]) -> Any:
        """Return a measurement other than an evaluation, as plain JSON types; None as in :meth:`get`."""
        if self.folder is None:
            return None
        try:
            record = json.loads(self._file(unit).read_text(encoding="utf-8"))
            if (record["schema"], record["of"], record["unit"]) != (SCHEMA, _plain(self.of), _plain(unit)):
                return None
            return record["outcome"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put_plain(self, unit: Mapping[str, Any], outcome: Any) -> None:
        """Keep it, completely or not at all."""
        if self.folder is None:
            return
        record = {"schema": SCHEMA, "of": self.of, "unit": unit, "outcome": outcome}
        file = self._file(unit)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(record).encode())

    def _file(self, unit: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        return self.folder / FOLDER / f"{json_digest([self.of, unit], 24)}.json"


def _plain(value: Mapping[str, Any]) -> Any:
    """Return the value as JSON returns it."""
    return json.loads(json.dumps(value))
