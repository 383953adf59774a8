"""Several audits of one base, reduced to what they have in common, and their page."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..audits.result.audit_result import Audit
from ..audits.result.records import AuditedMatrix, UpdateSize, Vector
from ..charts.drawing import MANY
from ..checkpoints.pairing.pairing import SkipKind
from ..errors import SettingError
from .audit import audit_payload
from .page.html_page import render_page, write_page

SAME_VALUE = 0.01  # relative difference of leading singular values up to which two bases count as one


@dataclass(frozen=True)
class Shared:
    """Several audits with only the matrices that all of them have, in the order of the first."""

    audits: list[Audit]
    left_out: int  # names that some audit has and another has not
    other_bases: list[str]  # tuned sources of audits whose base differs from the first one's

    @property
    def matrices(self) -> int:
        return len(self.audits[0].matrices)


def common_matrices(audits: Sequence[Audit]) -> Shared:
    """Keep the matrices of the same name and shape. An audit in which nothing changed has those of the others.

    Raises:
      SettingError: no matrix is in all audits, or fewer than two audits were given.
    """
    if len(audits) < 2:
        raise SettingError(f"a comparison needs two audits or more, and {len(audits)} was given")
    changed = next((audit for audit in audits if audit.matrices), None)
    if changed is None:
        raise SettingError(
            f"the audits of {_some_sources(audits)} compare no matrix: each is equal to its base's or was skipped; "
            "expected a model that differs from its base; add its audit"
        )
    audits = [audit if audit.matrices else _unchanged(audit, changed) for audit in audits]
    keys = [{(matrix.name, matrix.shape) for matrix in audit.matrices} for audit in audits]
    common = set.intersection(*keys)
    if not common:
        raise SettingError(
            f"the audits of {_some_sources(audits)} have no matrix in common; compare audits of one base"
        )
    kept = [
        dataclasses.replace(audit, matrices=[m for m in audit.matrices if (m.name, m.shape) in common])
        for audit in audits
    ]
    order = {matrix.name: i for i, matrix in enumerate(kept[0].matrices)}
    kept = [
        dataclasses.replace(audit, matrices=sorted(audit.matrices, key=lambda matrix: order[matrix.name]))
        for audit in kept
    ]
    return Shared(
        audits=kept,
        left_out=len(set.union(*keys) - common),
        other_bases=[audit.tuned_source for audit in kept[1:] if not _same_base(kept[0], audit)],
    )


def _some_sources(audits: Sequence[Audit]) -> str:
    return ", ".join(f"'{audit.tuned_source}'" for audit in audits[:3])


def _unchanged(audit: Audit, other: Audit) -> Audit:
    """Return the audit with those matrices of ``other`` that it skipped as equal to the base's, such as of an adapter
    at its first step: every tuned vector is a base vector, so none is an intruder.
    """
    equal = {skipped.name for skipped in audit.skipped if skipped.kind is SkipKind.UNCHANGED}
    return dataclasses.replace(audit, matrices=[_equal(m) for m in other.matrices if m.name in equal])


def _equal(matrix: AuditedMatrix) -> AuditedMatrix:
    values = matrix.base_singular_values[: len(matrix.vectors)]
    return AuditedMatrix(
        name=matrix.name,
        shape=matrix.shape,
        rank=matrix.rank,
        vectors=[Vector(at, value, (1.0, 1.0), False, "overlap", False) for at, value in enumerate(values)],
        update=UpdateSize(0.0, 0.0, math.nan, 0.0, math.nan),
        base_singular_values=matrix.base_singular_values,
        similarity=np.eye(len(matrix.similarity), len(values), dtype=np.float32),
    )


def _same_base(first: Audit, other: Audit) -> bool:
    """Return whether the leading singular values of the bases agree: paths alone cannot tell."""
    for mine, theirs in zip(first.matrices, other.matrices, strict=True):
        if mine.base_singular_values and theirs.base_singular_values:
            a, b = mine.base_singular_values[0], theirs.base_singular_values[0]
            if abs(a - b) > SAME_VALUE * max(abs(a), abs(b)):
                return False
    return True


def labels_for(audits: Sequence[Audit]) -> list[str]:
    """Name each audit shortly: by its tuned source without the folders that all sources share."""
    sources = [audit.tuned_source.rstrip("/") for audit in audits]
    if len(set(sources)) < len(sources):
        return [f"{i + 1}: {source}" for i, source in enumerate(sources)]
    parts = [source.split("/") for source in sources]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


def write_comparison_html(audits: Sequence[Audit], path: str | os.PathLike[str]) -> None:
    """Write the report that compares several audits of one base.

    Raises:
      SettingError: fewer than two audits were given, or no matrix is in all of them.
      ResultFileError, MissingDependencyError: as :func:`write_page`.
    """
    write_page(path, lambda: render_comparison(audits))


def render_comparison(audits: Sequence[Audit]) -> str:
    """Return the HTML text of the report of several audits, on the matrices that all of them have."""
    shared = common_matrices(audits)
    names = labels_for(audits)
    return render_page(
        "compare.html.j2",
        ["count.js", "plots.js", "compare.js"],
        {"audits": [audit_payload(audit, name) for audit, name in zip(shared.audits, names, strict=True)]},
        shared=shared,
        audits=list(zip(names, audits, strict=True)),
        many=MANY,
        versions=_grouped_versions(names, audits),
    )


def _grouped_versions(names: Sequence[str], audits: Sequence[Audit]) -> list[tuple[str, list[str]]]:
    """Return every set of versions once, with the audits made by it."""
    groups: dict[str, list[str]] = {}
    for name, audit in zip(names, audits, strict=True):
        groups.setdefault(", ".join(f"{key} {value}" for key, value in audit.versions.items()), []).append(
            name
        )
    return list(groups.items())
