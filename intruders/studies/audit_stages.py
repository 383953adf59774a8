"""The stages of a run that look at weights: its audit, the critical scale, and a term that nobody trained."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..checkpoints.stored.names import may_be_same, module_paths
from ..system.plain_values import plain
from ..system.plugins import KINDS, needed_plugin
from .stage import Rows, RunAtWork, Stage, audited, read_result, told_what_to_remove
from .study_folder import AUDIT as AUDIT_RESULT
from .study_folder import MODEL
from .train_stages import TRACE

if TYPE_CHECKING:
    from ..audits.result.audit_result import Audit


def _audit(at: RunAtWork) -> None:
    from ..audits.audit import audit

    audit(at.run.base, at.folder / MODEL, **vars(at.run.measure.audit)).save(at.folder / AUDIT_RESULT)


def _audit_row(file: Path, tables: Rows) -> dict[str, Any]:
    from ..audits.result.audit_result import Audit
    from ..audits.result.summary import median_relative, update_norm

    audit = Audit.load(file)
    modules = module_paths([matrix.name for matrix in audit.matrices])
    of_matrices: Any = audit.matrices_to_pandas().to_dict("records")
    of_vectors: Any = audit.to_pandas().to_dict("records")
    matrices = tables["matrices"] = [
        {**row, "kind": module.kind, "layer": module.layer}
        for row, module in zip(of_matrices, modules, strict=True)
    ]
    tables["vectors"] = of_vectors
    spaces = [matrix.subspaces for matrix in audit.matrices if matrix.subspaces is not None]
    rotations = [space.rotation_left_sine2 for space in spaces if math.isfinite(space.rotation_left_sine2)]
    trace = file.parent / TRACE
    with told_what_to_remove(file.parent, trace):
        tables["traces"] = list(_traces(trace, audit))
    return {
        "k": audit.k,
        "epsilon": audit.epsilon,
        "intruders": audit.intruders,
        "vectors": audit.vectors,
        "affected_matrices": audit.affected,
        "matrices": len(audit.matrices),
        "intruder_energy_share": audit.intruder_energy_share,
        "update_frobenius": update_norm(audit.matrices),
        "relative_update": median_relative(audit.matrices) if matrices else None,
        "effective_rank": fmean([row["effective_rank"] for row in matrices]) if matrices else None,
        "rotation": fmean(rotations) if rotations else None,
    }


def _traces(file: Path, audit: "Audit") -> Iterator[dict[str, Any]]:
    """Yield one row per step and audited matrix, from the callback's rows per vector.

    The callback sees the model as it is trained, with a head that the base does not have, and under its class's names:
    bert.encoder.layer.0... for what the base's file calls encoder.layer.0...
    """
    import pandas as pd

    from ..audits.result.records import energy_share_of

    if not file.is_file():
        return
    trace = pd.read_parquet(file)
    own_names = [matrix.name for matrix in audit.matrices]
    names = {name: own for name in trace["name"].unique() for own in own_names if may_be_same(name, own)}
    trace = trace[trace["name"].isin(names)].assign(name=lambda frame: frame["name"].map(names))
    trace["intruder"] = trace["intruder"].astype(bool)
    trace["intruder_value"] = trace["singular_value"].where(trace["intruder"])
    for _, rows in trace.groupby(["step", "name"], sort=False):
        yield {
            "step": int(rows["step"].iloc[0]),
            "name": str(rows["name"].iloc[0]),
            "intruders": int(rows["intruder"].sum()),
            "vectors": len(rows),
            "intruder_energy_share": energy_share_of([*rows["singular_value"]], [*rows["intruder"]]),
            "frobenius": float(rows["update_frobenius"].iloc[0]),
            "a_movement": plain(rows["a_movement"].iloc[0]),
            "largest_intruder_value": plain(rows["intruder_value"].max()),
            "base_largest_value": float(rows["base_largest_value"].iloc[0]),
        }


AUDIT = Stage(
    "audit",
    results=(AUDIT_RESULT,),
    do=_audit,
    row=_audit_row,
    settings=audited,
    columns={
        "k": int,
        "epsilon": float,
        "intruders": int,
        "vectors": int,
        "affected_matrices": int,
        "matrices": int,
        "intruder_energy_share": float,
        "update_frobenius": float,  # of all updates together
        "relative_update": float,  # median over matrices of ||D||_2 / s_1(W0)
        "effective_rank": float,  # mean over matrices, of the updates
        "rotation": float,  # mean over matrices of the mean squared sine between leading left spaces of base and tuned
    },
    after={"k": "validation_accuracy", "rotation": "a_movement"},
    tables={
        "matrices": {
            "name": str,
            "kind": str,  # of module, such as q_proj
            "layer": int,
            "rows": int,
            "columns": int,
            "intruders": int,
            "vectors": int,
            "intruder_energy_share": float,
            "frobenius": float,
            "spectral": float,
            "relative_update": float,
            "effective_rank": float,
            "stable_rank": float,
        },
        "vectors": {
            "name": str,
            "index": int,
            "singular_value": float,
            "max_cosine_lower": float,
            "max_cosine_upper": float,
            "intruder": bool,
            "certificate": str,
        },
        "traces": {
            "step": int,
            "name": str,
            "intruders": int,
            "vectors": int,
            "intruder_energy_share": float,
            "frobenius": float,
            "a_movement": float,  # ||A - A_0||_F / ||A_0||_F of the matrix's LoRA
            "largest_intruder_value": float,  # singular value of the first intruder; missing where there is none
            "base_largest_value": float,
        },
    },
)


def _scale(at: RunAtWork) -> None:
    from ..audits.scales.critical_scales import critical_scales

    scales = critical_scales(at.run.base, at.folder / MODEL, audit=at.run.measure.audit)
    at.write("scale.json", scales.to_document())


def _scale_row(file: Path, tables: Rows) -> dict[str, Any]:
    from ..audits.scales.critical_scales_result import CriticalScales

    measured = CriticalScales.load(file)
    by_name = {matrix.name: matrix for matrix in measured.matrices}
    for row in tables.get("matrices", []):
        if scale := by_name.get(row["name"]):
            # Infinite where no scale has an intruder, as far as the search went.
            row |= {"critical_scale": scale.measured, "predicted_scale": scale.predicted}
    # The end of a search that met no intruder is not where they begin.
    return {"critical_scale": math.inf if measured.is_at_search_end else plain(measured.largest)}


SCALE = Stage(
    "scale",
    results=("scale.json",),
    do=_scale,
    row=_scale_row,
    wanted=lambda measure: measure.critical_scale,
    settings=audited,
    # The largest multiple of the update with no intruders, measured; infinite if the search met none.
    columns={"critical_scale": float},
    after={"critical_scale": "a_movement"},
    tables={"matrices": {"critical_scale": float, "predicted_scale": float}},
    amount="critical scales",
)


def _mechanism(at: RunAtWork) -> None:
    rows_of = needed_plugin(KINDS, at.run.kind, f"kind is {at.run.kind!r}")
    at.write("mechanism.json", {"rows": rows_of(at.run)})


def _mechanism_row(file: Path, tables: Rows) -> dict[str, Any]:
    tables["mechanism"] = read_result(file)["rows"]
    return {}


MECHANISM = Stage(
    "mechanism",
    kind="random-rank-one",
    results=("mechanism.json",),
    do=_mechanism,
    row=_mechanism_row,
    settings=audited,
    tables={
        "mechanism": {
            "name": str,
            "rows": int,
            "columns": int,
            "multiple": float,  # ||D||_2 / ||W0||_2
            "predicted_multiple": float,  # at which the spiked threshold expects the first intruder
            "intruders": int,
        }
    },
)
