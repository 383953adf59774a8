"""The tables of a study as the claims read them."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..system.files import user_path
from .study_folder import StudyFolder
from .tables import COLUMNS, read_complete, typed


@dataclass(frozen=True)
class Results:
    """The tables of a study's folder; a table that does not exist yet is empty, with its columns.

    Attributes:
      folder: the folder of the study, or of its published tables.
      runs: one row per run: settings, scores, losses, totals of the audit.
      losses: one row per run and corpus, in nats per token.
      matrices: one row per run and matrix.
      vectors: one row per run and examined singular vector.
      interventions: one row per run, intervention and measure.
      remedies: one row per run and point of its comparison of remedies.
      attributions: one row per matrix of a run whose loss was split.
      sequences: one row per run, stage and task seen so far.
      traces: one row per matrix of a run and step at which it was audited.
      mechanism: one row per base matrix and size of a random rank-one term.
      name: the name of the study.
      failed: ids of failed runs.
      select: at which learning rates methods are compared: fastest, mildest; empty for all.
      support: by claim, what counts as support, as it was written in advance.
      primary: by claim, a part of the name of the one effect that decides.
      compare_with: the study of the paper whose figures are shown with these, or None.
    """

    folder: Path
    runs: pd.DataFrame
    losses: pd.DataFrame
    matrices: pd.DataFrame
    vectors: pd.DataFrame
    interventions: pd.DataFrame
    remedies: pd.DataFrame
    attributions: pd.DataFrame
    sequences: pd.DataFrame
    traces: pd.DataFrame
    mechanism: pd.DataFrame
    name: str = ""
    failed: list[str] = field(default_factory=list)
    select: tuple[str, ...] = ()
    support: dict[str, str] = field(default_factory=dict)
    primary: dict[str, str] = field(default_factory=dict)
    compare_with: str | None = None

    def __eq__(self, other: object) -> bool:
        """Return whether the other has the same folder, tables and settings; missing values are equal."""
        if not isinstance(other, Results):
            return NotImplemented
        theirs = vars(other)
        return all(
            value.equals(theirs[name]) if isinstance(value, pd.DataFrame) else value == theirs[name]
            for name, value in vars(self).items()
        )


def load_results(path: str | Path) -> Results:
    """Load the tables of a study's folder.

    Args:
      path: Folder of the study, or of its published tables.

    Returns:
      The tables as pandas data frames: ``runs``, ``matrices``, ``vectors`` and others. A table that does not exist yet
      is empty, with its columns. Local bases of the same content have one name, that of the first run.

    Raises:
      ResultFileError: the folder is not a study, is broken, or was written by a newer version.

    Examples:
      >>> runs = load_results("docs/results/data/minilm").runs  # tables that are in this repository
      >>> runs.loc[runs["status"] == "finished", ["method", "rank", "intruders"]].values.tolist()
      [['lora', 1.0, 3.0]]
    """
    folder = StudyFolder(user_path(path))
    document = folder.document()
    frames = {}
    for table in COLUMNS:
        file = folder.table(table)
        frames[table] = typed(read_complete(file).to_pandas() if file.is_file() else pd.DataFrame(), table)
    # Two spellings of a path are one base: of bases with the same content, all have the name of the first.
    bases, digests = frames["runs"]["base"], document.get("inputs", {})
    names: dict[tuple[str, str | None], str] = {}
    first = {
        base: names.setdefault((digests[base], digests.get(f"tokenizer of {base}")), base)
        for base in bases.unique()
        if base in digests
    }
    frames["runs"]["base"] = bases.map(lambda base: first.get(base, base)).astype(object)
    return Results(
        folder=folder.path,
        name=document["name"],
        failed=list(frames["runs"].loc[frames["runs"]["status"] == "failed", "run_id"]),
        select=tuple(document.get("select", ())),
        support=dict(document.get("support", {})),
        primary=dict(document.get("primary", {})),
        compare_with=document.get("compare_with"),
        **frames,
    )
