"""Scale a model's intruder dimensions down (or up), or what a control puts in their place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..audits.audit import audited_whole
from ..audits.audit_result import Audit
from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..audits.base_cache import MemoryCache
from ..checkpoints.adapters.adapter import Adapter
from ..checkpoints.locate import locate
from ..checkpoints.memory import has_adapters
from ..checkpoints.open import Opened, Source
from ..checkpoints.pairing.pair_sides import open_sides, pair_sides
from ..checkpoints.pairing.pairing import PairedMatrix
from ..checkpoints.writing.lora_adapter import Rank, check_rank
from ..checkpoints.writing.shards import SHARD_BYTES
from ..errors import SettingError
from ..linalg.low_rank import LowRank
from ..system.folders import atomic_folder, check_target
from .cases import affected_matrices
from .changes import Change
from .mitigation_result import MitigatedMatrix, Mitigation
from .recheck import audit_after
from .remedies.controls import INTRUDERS, check_control, check_scale
from .targets.adapter_folder import LoraTarget, lora_target
from .targets.adapter_in_model import check_name
from .targets.checkpoint_folder import CheckpointTarget
from .targets.new_adapter import NewLoraTarget
from .targets.target import Written

RECORD = "intruders.json"
FORMS = ("auto", "adapter", "checkpoint")

Progress = Callable[[str, int, int], None]  # (what is being done, done, in all)


def mitigate(
    base: Source | None,
    tuned: Source | None = None,
    *,
    scale: float,
    out: str | os.PathLike[str] | None = None,
    control: str = INTRUDERS,
    rank: Rank = None,
    form: str = "auto",
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    seed: int = 0,
    adapter_name: str = "mitigated",
    force: bool = False,
    check: bool = True,
    shard_bytes: int = SHARD_BYTES,
    compute: Compute = ANYWHERE,
    progress: Progress | None = None,
) -> Mitigation:
    """Scales the intruder dimensions of every matrix: ``W + (scale - 1) sum_j s_j y_j v_j^T`` over its intruders.

    s, y and v are of the singular value decomposition of the tuned matrix W (Shuttleworth et al. 2024). An adapter
    comes back as an adapter of rank at most r + (intruders of the matrix), exactly; a checkpoint as a checkpoint.

    Args:
      base: the model before fine-tuning: a path, hub id or alias; None where an adapter names it. A PeftModel alone
        is mitigated in memory: its active adapter gets a sibling ``adapter_name``, which becomes the active one.
      tuned: the model after it, or its adapter.
      scale: lambda: 0 removes the intruders, 1 changes nothing, above 1 exaggerates.
      out: folder to write; it appears whole or not at all.
      control: "intruders", or what is changed in their stead: "shrink", "random", "neighbours" or "update" (see
        :mod:`intruders.mitigation.controls`).
      rank: of an adapter's changed modules: None for what they need, "keep" for what they had, or a number for
        every module; the error of cutting is in the result.
      form: "adapter", "checkpoint" (merged), or "auto": what was given.
      audit: settings of the audit; or one of these two that was made before, or the path of a saved one.
      seed: of the control "random".
      adapter_name: of the new adapter in a PeftModel.
      force: replace ``out`` where it is a model or adapter.
      check: audit what was written (or put into the model) too; without it the result has no audit after.
      shard_bytes: size at which a checkpoint goes on in a further file.
      compute: where it is computed. The audit after the mitigation profits from the cache of the one before.
      progress: called with (what is being done, done, in all).

    Raises:
      SettingError: a setting is out of range.
      CheckpointError: a side cannot be read, ``out`` cannot be written, or the form does not suit what was given.
      PairingError: the sides, or the audit, do not belong together.
      NonFiniteError: a matrix holds NaN or infinity.
    """
    started = time.perf_counter()
    check_scale(scale)
    check_control(control)
    check_rank(rank)
    place = compute.torch_device()
    model = next((side for side in (base, tuned) if has_adapters(side)), None)
    if out is None:
        if model is None:
            raise SettingError("out is missing; expected a folder to write, unless a PeftModel is given")
        check_name(model, adapter_name)
    else:
        check_target(out, force=force)
        _require_other_place(out, base, tuned)
    base_side, tuned_side = open_sides(base, tuned)
    form = _chosen_form(form, rank, tuned_side, in_memory=out is None)
    # Whatever cannot be written is found out before the work starts.
    target: LoraTarget | NewLoraTarget | CheckpointTarget
    if form == "adapter":
        target = lora_target(base_side, tuned_side, base if tuned is None else tuned, model, rank)
    else:
        target = CheckpointTarget.of(base_side, tuned_side, (base, tuned), shard_bytes)
    # What the first audit learns of the base serves the second, even where nothing is to be kept.
    compute = replace(compute, cache=compute.base_cache() or MemoryCache())
    pairing, before, settings = audited_whole(
        base_side, tuned_side, audit, compute, _named(progress, "audit")
    )
    changed = _changed(pairing.pairs, before, (scale, control, seed), place, progress)

    def finished(after: Audit | None, written: Written) -> Mitigation:
        return Mitigation(
            base_source=before.base_source,
            tuned_source=before.tuned_source,
            out=None if out is None else str(out),
            form=form,
            scale=scale,
            control=control,
            seed=seed,
            rank=rank,
            matrices=[_completed(matrix.record, written) for matrix in changed],
            before=before,
            after=after if out is None or after is None else replace(after, tuned_source=str(out)),
            cut=_cut_beside(changed, written),
            seconds=time.perf_counter() - started,
        )

    def audit_again(base: Source | None, tuned: Source | None) -> Audit | None:
        if not check:
            return None
        return audit_after(
            before,
            pairing.pairs,
            pair_sides(*open_sides(base, tuned), settings),
            {matrix.record.name for matrix in changed},
            compute,
            _named(progress, "check"),
        )

    updates = {matrix.record.name: matrix.update for matrix in changed if matrix.update is not None}
    if out is None:
        assert model is not None
        assert isinstance(target, LoraTarget)
        written = target.put_into(model, adapter_name, updates)
        return finished(audit_again(base, tuned), written)
    with atomic_folder(out, force=force) as folder:
        if isinstance(target, LoraTarget):
            written = target.write(folder, updates)
        else:
            changes = {matrix.record.name: matrix.change for matrix in changed}
            written = target.write(folder, changes, _named_two(progress, "write"))
        # What was written is what is audited: a fault on the way to the disk would show.
        result = finished(
            audit_again(base if base is not None else model or base_side.source, folder), written
        )
        (folder / RECORD).write_text(result.to_json(), encoding="utf-8")
    return result


@dataclass(frozen=True)
class _Changed:
    """One matrix under the intervention, as little of it as writing needs."""

    record: MitigatedMatrix
    change: Change
    update: LowRank | None  # W' - W0, where the update was of low rank before


def _changed(
    pairs: Sequence[PairedMatrix],
    audit: Audit,
    intervention: tuple[float, str, int],
    device: torch.device,
    progress: Progress | None,
) -> list[_Changed]:
    """The changed matrices in the audit's order; none at scale 1, which leaves everything as it is."""
    scale, control, seed = intervention
    if scale == 1:
        return []
    total = sum(matrix.intruders > 0 for matrix in audit.matrices)
    found: dict[str, _Changed] = {}
    for affected in affected_matrices(pairs, audit, {control}, seed, device):
        change = affected.change(scale, control)
        low_rank = affected.update if isinstance(affected.update, LowRank) else None
        part = affected.parts["intruders" if control == "shrink" else control]
        places = affected.places["intruders" if control == "shrink" else control]
        record = MitigatedMatrix(
            name=affected.name,
            shape=affected.shape,
            intruders=len(affected.places[INTRUDERS]),
            scaled=places,
            singular_values=part.values.tolist(),
            update_norm_before=affected.update.norm(),
            update_norm_after=affected.norm_after(scale, control),
            rank_before=None if low_rank is None else low_rank.rank,
            rank_after=None,
            relative_error=0.0,
        )
        after = None if low_rank is None else change.updated(low_rank)
        found[affected.name] = _Changed(record, change, after)
        if progress is not None:
            progress("scale", len(found), total)
    return [found[matrix.name] for matrix in audit.matrices if matrix.name in found]


def _completed(record: MitigatedMatrix, written: Written) -> MitigatedMatrix:
    return replace(
        record,
        rank_after=written.ranks.get(record.name),
        relative_error=written.errors.get(record.name, 0.0),
    )


def _cut_beside(changed: Sequence[_Changed], written: Written) -> dict[str, float]:
    """Matrices without intruders whose rank was cut too."""
    names = {matrix.record.name for matrix in changed}
    return {name: error for name, error in written.errors.items() if error > 0 and name not in names}


def _chosen_form(form: str, rank: Rank, tuned: Opened, in_memory: bool) -> str:
    if form not in FORMS:
        raise SettingError(f"form is {form!r}; expected one of {', '.join(FORMS)}")
    if form == "auto":
        form = "adapter" if isinstance(tuned, Adapter) or in_memory else "checkpoint"
    if form == "checkpoint" and rank is not None:
        raise SettingError(f"rank is {rank!r}, and a checkpoint has none; leave it out, or give --as adapter")
    if form == "checkpoint" and in_memory:
        raise SettingError("a checkpoint is not put into a PeftModel; give out, the folder to write")
    return form


def _require_other_place(out: str | os.PathLike[str], *sources: object) -> None:
    """Raise SettingError when ``out`` is one of the folders that are read."""
    target = Path(os.path.realpath(out))
    for source in sources:
        if isinstance(source, str | os.PathLike) and Path(source).exists():
            path = Path(os.path.realpath(locate(os.fspath(source))))
            if target in (path, path.parent):
                raise SettingError(f"out '{out}' is where '{source}' is read from; choose another folder")


def _named(progress: Progress | None, what: str) -> Callable[[int, int, int], None] | None:
    return None if progress is None else lambda done, total, intruders: progress(what, done, total)


def _named_two(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
