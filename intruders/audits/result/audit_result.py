"""The result of an audit, as plain records that can be counted, tabulated, saved and loaded."""

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...charts.drawing import draw
from ...checkpoints.pairing.pairing import Skipped
from ...checkpoints.stored.locate import HubOrigin
from ...errors import ResultFileError, SettingError, all_lines
from ...settings.numbers import is_number, is_whole
from ...system.documents import of_schema
from ...system.files import read_bytes, write_atomically
from ...system.parquet import parquet_bytes
from ...system.plain_values import from_plain, plain
from ...system.result_protocol import json_bytes
from ...system.versions import installed_versions
from ...system.words import number, percent, plural
from .figures import intruders_by_layer, similarity
from .forgetting import Forgetting
from .records import AuditedMatrix, energy_share, matrix_from_record, matrix_to_record
from .summary import by_kind, update_norm

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


SCHEMA = 1
# What no other result has all of.
_KEYS = ("base", "tuned", "settings", "totals", "matrices")


@dataclass(frozen=True)
class Audit:
    """The intruder dimensions of a fine-tuned model: one record per audited matrix.

    :func:`intruders.audit` returns it, and ``load`` reads a saved one.

    Attributes:
      base_source: the base, as it was given or named.
      tuned_source: the tuned model.
      tuned_kind: what it is, such as "adapter", "checkpoint" or "module".
      k: number of leading singular vectors that were examined per matrix.
      epsilon: the threshold: a vector whose max cosine is below it is an intruder.
      exact: whether every matrix was decomposed in full.
      seconds: the time it took.
      matrices: one record per audited matrix, in the order of the model.
      skipped: tensors that were not audited, with the reason.
      settings: what else it takes to run the same audit again (include, exclude, device, ...), as plain JSON
        values.
      versions: versions of the packages.
      base_hub: the commits that the base was read from, where it is from the Hub; of a sum of models, those of its
        parts.
      tuned_hub: likewise of the tuned model.
      forgetting: the nats that the update makes the base forget, predicted; None unless the base was prepared on a text
        (``intruders prepare BASE --loss-on TEXT``).

    Examples:
      >>> import torch
      >>> from intruders import audit
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> tuned = {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}
      >>> result = audit(base, tuned, k=3, cache=False)
      >>> result.matrix("up.weight").intruders
      1
      >>> result.count(k=2, epsilon=0.9)  # at least, at most
      (2, 2)
    """

    base_source: str
    tuned_source: str
    tuned_kind: str
    k: int
    epsilon: float
    exact: bool
    seconds: float
    matrices: list[AuditedMatrix]
    skipped: list[Skipped]
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=installed_versions)
    base_hub: tuple[HubOrigin, ...] = ()
    tuned_hub: tuple[HubOrigin, ...] = ()
    forgetting: Forgetting | None = None

    def __repr__(self) -> str:
        return (
            f"Audit({self.base_source!r}, {self.tuned_source!r}: {self.intruders} intruders in {self.vectors} vectors "
            f"of {len(self.matrices)} matrices, k={self.k}, epsilon={self.epsilon})"
        )

    @property
    def intruders(self) -> int:
        """Number of intruder dimensions over all audited matrices."""
        return sum(matrix.intruders for matrix in self.matrices)

    @property
    def affected(self) -> int:
        """Number of audited matrices with at least one intruder dimension."""
        return sum(matrix.intruders > 0 for matrix in self.matrices)

    @property
    def vectors(self) -> int:
        """Number of singular vectors examined over all audited matrices."""
        return sum(len(matrix.vectors) for matrix in self.matrices)

    @property
    def intruder_energy_share(self) -> float:
        """Sum of s_j^2 over all intruders of the model, over the same sum over all examined vectors."""
        return energy_share(vector for matrix in self.matrices for vector in matrix.vectors)

    def matrix(self, name: str) -> AuditedMatrix:
        """Return the audited matrix of that name.

        Raises:
          SettingError: no matrix has the name; the message lists the nearest names.
        """
        for matrix in self.matrices:
            if matrix.name == name:
                return matrix
        names = [matrix.name for matrix in self.matrices]
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
        quoted = ", ".join(f"'{near}'" for near in nearest)
        what = f"the nearest are {quoted}" if nearest else "it audited none"
        raise SettingError(f"no audited matrix is named '{name}'; {what}")

    def count(self, k: int | None = None, epsilon: float | None = None) -> tuple[int, int]:
        """Count the intruders among the first `k` vectors at `epsilon`, as (at least, at most).

        The count uses the proved bounds of the max cosines, without the weights. The two numbers are equal where
        the bounds decide every vector, as they do at the audit's own epsilon and everywhere after `exact`.

        Raises:
          SettingError: k is outside 1..self.k, or epsilon outside (0, 1].
        """
        k = self.k if k is None else k
        epsilon = self.epsilon if epsilon is None else epsilon
        if not is_whole(k) or not 1 <= k <= self.k:
            raise SettingError(
                f"k = {k!r}: this audit examined {self.k} vectors a matrix; pass 1 to {self.k}"
            )
        if not is_number(epsilon) or not 0 < epsilon <= 1:
            raise SettingError(f"epsilon = {epsilon!r}: expected a cosine above 0 and up to 1")
        decisions = [
            vector.intruder if epsilon == self.epsilon else vector.is_intruder_at(epsilon)
            for matrix in self.matrices
            for vector in matrix.vectors
            if vector.index < k
        ]
        at_least = decisions.count(True)
        return at_least, at_least + decisions.count(None)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per vector, with the name and shape of its matrix."""
        from .vector_table import VECTOR_COLUMNS, vector_table

        frame: pd.DataFrame = vector_table(self.matrices, VECTOR_COLUMNS).to_pandas()
        return frame

    def matrices_to_pandas(self) -> "pd.DataFrame":
        """Return one row per matrix: shape, rank, intruders, energy share, update size, certificates."""
        from .vector_table import COUNTED, MATRIX_COLUMNS, matrices_of_rows, vector_table

        return matrices_of_rows(vector_table(self.matrices, COUNTED))[MATRIX_COLUMNS]

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values of schema 1 (docs/reference/files.md)."""
        return {**header(self), "matrices": [matrix_to_record(matrix) for matrix in self.matrices]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Audit":
        """Make it from its document; an error of a missing or wrong value where it is another one's."""
        return _from_header(document, [matrix_from_record(record) for record in document["matrices"]])

    def to_json(self) -> str:
        """Return the document as JSON text. Numbers are written so that reading gives the same ones."""
        return json.dumps(self.to_document(), allow_nan=False, ensure_ascii=False)

    def to_parquet(self) -> bytes:
        """Return the audit as the content of a Parquet file: one row per vector."""
        from .vector_table import METADATA_KEY, vector_table

        table = vector_table(self.matrices)
        if self.forgetting is not None:
            kl, shares = self.forgetting.kl.estimate, self.forgetting.by_matrix
            nats = [kl * shares[name] if name in shares else None for name in table["name"].to_pylist()]
            table = table.append_column("nats", [nats])
        return parquet_bytes(table, {METADATA_KEY: header(self)})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit to a `.json` or `.parquet` file, atomically; ResultFileError if that cannot be."""
        is_json = check_suffix(path) == ".json"
        write_atomically(path, json_bytes(self.to_document()) if is_json else self.to_parquet())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Audit":
        """Read an audit that `save` wrote; ResultFileError if the file is broken or too new."""
        is_json = check_suffix(path) == ".json"
        content = read_bytes(path)
        try:
            if is_json:
                document = json.loads(content)
                if missing := set(_KEYS) - document.keys():
                    raise KeyError(missing)  # another result, whatever its number of a schema
                return cls.from_document(of_schema(document, str(path), "a saved audit", SCHEMA))
            from .vector_table import matrices_in, read_vector_table

            document, table = read_vector_table(content)
            document = of_schema(document, str(path), "a saved audit", SCHEMA)
            return _from_header(document, matrices_in(table))
        except (AttributeError, LookupError, TypeError) as error:
            raise ResultFileError(
                f"'{path}' is not a saved audit; pass a file that `intruders audit --json` wrote"
            ) from error
        except (ValueError, OverflowError, RecursionError) as error:
            raise ResultFileError(f"'{path}' cannot be read as a saved audit: {all_lines(error)}") from error

    def plot_similarity(self, name: str) -> "Figure":
        """Draw |<x_i, y_j>| of one matrix as a matplotlib figure: base vectors down, tuned vectors across."""
        return draw(similarity(self.matrix(name)))

    def plot_layers(self) -> "Figure":
        """Draw the number of intruders by layer and module type as a matplotlib figure."""
        return draw(intruders_by_layer(self.matrices))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a table in the notebook's own style; every name is escaped."""
        import pandas as pd

        sources = f"{self.base_source} → {self.tuned_source} ({self.tuned_kind})"
        totals = (
            f"{plural(self.intruders, 'intruder dimension')} in {plural(self.vectors, 'vector')} of "
            f"{plural(len(self.matrices), 'matrix', 'matrices')}, energy share {percent(self.intruder_energy_share)}, "
            f"update norm {number(update_norm(self.matrices))}; k = {self.k}, epsilon = {self.epsilon:g}"
        )
        rows = [
            {
                "module": kind.kind,
                "matrices": kind.matrices,
                "intruders": kind.intruders,
                "energy share": percent(kind.energy_share),
                "update norm": number(kind.frobenius),
                "relative update": percent(kind.relative_update),
                "effective rank": number(kind.effective_rank),
            }
            for kind in by_kind(self.matrices)
        ]
        table = pd.DataFrame(rows).to_html(index=False, border=0)
        return f"<div><p>{escape(sources)}<br><strong>{escape(totals)}</strong></p>{table}</div>"


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the ending of `path`; SettingError unless it is that of one of the two formats."""
    ending = Path(path).suffix.lower()
    if ending not in (".json", ".parquet"):
        raise SettingError(f"'{path}': an audit is kept as .json or .parquet; end the path with one of these")
    return ending


def header(audit: Audit) -> dict[str, Any]:
    """Everything but the matrices."""
    return {
        "schema": SCHEMA,
        "intruders_version": audit.versions.get("intruders", "unknown"),
        "base": {"source": audit.base_source, "hub": plain(audit.base_hub)},
        "tuned": {"source": audit.tuned_source, "kind": audit.tuned_kind, "hub": plain(audit.tuned_hub)},
        "settings": {**audit.settings, "k": audit.k, "epsilon": audit.epsilon, "exact": audit.exact},
        "totals": {
            "matrices": len(audit.matrices),
            "vectors": audit.vectors,
            "intruders": audit.intruders,
            "seconds": plain(audit.seconds),
        },
        "versions": dict(audit.versions),
        "skipped": plain(audit.skipped),
        **({} if audit.forgetting is None else {"forgetting": plain(audit.forgetting)}),
    }


def _from_header(document: Mapping[str, Any], matrices: list[AuditedMatrix]) -> Audit:
    """The audit of a document and of these matrices; LookupError, TypeError or ValueError if it is of no audit."""
    base, tuned, totals = document["base"], document["tuned"], document["totals"]
    settings = from_plain(dict[str, Any], document["settings"])
    audit = Audit(
        base_source=from_plain(str, base["source"]),
        tuned_source=from_plain(str, tuned["source"]),
        tuned_kind=from_plain(str, tuned["kind"]),
        k=from_plain(int, settings.pop("k")),
        epsilon=from_plain(float, settings.pop("epsilon")),
        exact=from_plain(bool, settings.pop("exact")),
        seconds=from_plain(float, totals["seconds"]),
        matrices=matrices,
        skipped=from_plain(list[Skipped], document["skipped"]),
        settings=settings,
        versions=from_plain(dict[str, str], document["versions"]),
        base_hub=from_plain(tuple[HubOrigin, ...], base.get("hub", [])),
        tuned_hub=from_plain(tuple[HubOrigin, ...], tuned.get("hub", [])),
        forgetting=from_plain(Forgetting | None, document.get("forgetting")),
    )
    counted = {"matrices": len(matrices), "vectors": audit.vectors, "intruders": audit.intruders}
    for key, count in counted.items():
        if totals[key] != count:
            raise ValueError(f"its totals say {totals[key]} {key}, and it contains {count}")
    return audit
