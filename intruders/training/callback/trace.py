"""The trace of a training: one Parquet file with one row per examined vector of every audit."""

import itertools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ...audits.result.audit_result import Audit
from ...errors import ResultFileError, SettingError, os_reason
from ...system.files import check_writable, write_atomically


def check_trace(trace: Path) -> None:
    """Raise now what :func:`append_to_trace` would raise at the first audit; make the trace's folder."""
    try:
        trace.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultFileError(
            f"cannot write the trace '{trace}': the folder '{trace.parent}' cannot be made "
            f"({os_reason(error).lower()}); choose another path"
        ) from error
    check_writable(trace)
    if trace.is_file():
        read_trace(trace)


def set_aside(trace: Path) -> None:
    """Give the trace of an earlier training another name, so that one that begins does not replace it."""
    if not trace.is_file():
        return
    steps = read_trace(trace)["step"]
    if not len(steps):
        return
    names = (trace.with_name(f"{trace.stem}-{number}{trace.suffix}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    os.rename(trace, aside)
    warnings.warn(
        f"'{trace}' was the trace of an earlier training, up to step {steps.max()}; it is kept as '{aside.name}'",
        stacklevel=2,
    )


def append_to_trace(trace: Path, step: int, audit: Audit, a_movement: Mapping[str, float]) -> None:
    """Add the rows of a step; those of this and later steps, left by a run that was killed, go.

    ``a_movement`` is ``||A - A_0||_F / ||A_0||_F`` by matrix, of those with a LoRA whose start is known.
    """
    frame = audit.to_pandas()
    of_matrices = {
        "update_frobenius": {matrix.name: matrix.update.frobenius for matrix in audit.matrices},
        "base_largest_value": {matrix.name: matrix.base_singular_values[0] for matrix in audit.matrices},
        "a_movement": dict(a_movement),
    }
    for column, values in of_matrices.items():
        frame[column] = frame["name"].map(values).astype(float)
    frame.insert(0, "step", step)
    if trace.is_file():
        before = read_trace(trace)
        with warnings.catch_warnings():
            # pandas warns of all-empty columns, which an audit without a changed matrix has.
            warnings.simplefilter("ignore", FutureWarning)
            frame = pd.concat([before[before["step"] < step], frame], ignore_index=True)
    write_atomically(trace, frame.to_parquet(index=False))


def read_trace(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the trace that an :class:`intruders.IntruderCallback` wrote.

    Args:
      path: the Parquet file.

    Returns:
      A table with one row per step, matrix and vector. After ``step`` come the columns of ``Audit.to_pandas``. The last
      ones are of the matrix: ``update_frobenius`` is the update norm ||D||_F, ``base_largest_value`` is the largest
      singular value of the base matrix, and ``a_movement`` is ||A - A_0||_F / ||A_0||_F of its LoRA and missing without
      one.

    Raises:
      SettingError: the file is not a trace or cannot be read.

    Examples:
      A trace of one matrix with two examined vectors, at two steps:

      >>> import tempfile
      >>> rows = {"step": [100, 100, 200, 200], "name": ["q_proj.weight"] * 4, "intruder": [0, 0, 0, 1]}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     pd.DataFrame(rows).to_parquet(f"{folder}/intruders.parquet")
      ...     trace = read_trace(f"{folder}/intruders.parquet")
      >>> trace.groupby("step")["intruder"].sum().to_dict()
      {100: 0, 200: 1}
    """
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SettingError(f"trace {str(path)!r} cannot be read as Parquet: {error}") from error
    if "step" not in frame.columns:
        raise SettingError(
            f"trace {str(path)!r} has no column 'step'; expected a file that IntruderCallback wrote"
        )
    return frame
