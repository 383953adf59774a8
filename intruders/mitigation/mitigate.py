"""Scale a model's intruder dimensions, or apply a control or another remedy."""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch

from ..audits.audit import AuditedWhole, audit_pairing, audited_whole
from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..audits.base_cache import MemoryCache
from ..audits.kept_nats import KeptNats
from ..audits.result.audit_result import Audit
from ..checkpoints.opening.model_sum import parts_of
from ..checkpoints.opening.open import Source
from ..checkpoints.pairing.names_of_base import under_common_names
from ..checkpoints.pairing.open_sides import named_sides, open_sides
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.pairing.pairing import PairedMatrix, Pairing
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.writing.lora_adapter import Rank
from ..checkpoints.writing.shards import SHARD_BYTES
from ..errors import SettingError
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from ..system.callers_process import usual_settings
from ..system.progress import Progress, silent
from ..system.result_protocol import JsonResult
from .beyond_doses import require_same_head
from .mitigation_result import MitigatedMatrix, Mitigation, UsedRemedy
from .remedies.changes import Change
from .remedies.every_remedy import remedy_named
from .remedies.remedy import Remedy
from .remedies.remedy_table import ALL, INTRUDERS
from .targets.changed_adapter import ModelTarget
from .targets.choose_target import FolderTarget, choose_target
from .targets.new_adapter import warn_of_tensors_left_out
from .targets.target import Changes
from .tuned_matrices import TunedMatrices


@usual_settings()
def mitigate(
    base: Source | None,
    tuned: Source | None = None,
    *,
    scale: float | None = None,
    out: str | os.PathLike[str] | None = None,
    control: str = INTRUDERS,
    which: str = ALL,
    remedy: Remedy | None = None,
    rank: Rank = None,
    form: str = "auto",
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    seed: int = 0,
    adapter_name: str = "mitigated",
    force: bool = False,
    check: bool = True,
    shard_bytes: int = SHARD_BYTES,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> Mitigation:
    """Scale the intruder dimensions of every matrix, or apply another remedy.

    Scaled is ``W + (scale - 1) sum_j s_j y_j v_j^T`` over the intruders of a matrix.

    s, y and v are of the singular value decomposition of the tuned matrix W (Shuttleworth et al. 2024). An adapter
    comes back as an adapter of rank at most r + (intruders of the matrix), exactly; a checkpoint as a checkpoint.

    Args:
      base: the model before fine-tuning: a path, hub id or alias; None where an adapter names it. A PeftModel alone
        is mitigated in memory: its active adapter gets a sibling ``adapter_name``, which becomes the active one.
      tuned: the model after it, or its adapter.
      scale: lambda: 0 removes the intruders, 1 changes nothing, above 1 exaggerates. Not with ``remedy``.
      out: folder to write; it is written completely or not at all.
      control: "intruders", or what is changed in their place: "shrink", "random", "neighbours", "update", "resized" or
        "complement" (see :mod:`intruders.mitigation.remedies.controls`).
      which: "all" intruders of a matrix, or "top": only the one with the largest singular value, as the paper scales
        it. A control then takes the place of that one.
      remedy: a published remedy instead of scaled intruders, such as ``Interpolate(alpha=0.3)`` (see
        :mod:`intruders.mitigation.remedies`). Most change every tuned matrix.
      rank: of an adapter's changed modules: None for what they need, "keep" for what they had, or a number for
        every module; the error of cutting is in the result.
      form: "adapter", "checkpoint" (merged), or "auto": what was given.
      audit: settings of the audit; or one of these two that was made before, or the path of a saved one.
      seed: of the control "random".
      adapter_name: of the new adapter in a PeftModel.
      force: replace ``out`` where it is a model or adapter.
      check: audit what was written (or put into the model) too; without it the result has no audit after.
      shard_bytes: size at which a checkpoint continues in a further file.
      compute: where it is computed. The audit after the mitigation profits from the cache of the one before.
      progress: called with (what is being done, done, in all).

    Returns:
      What was changed in each matrix, with the audits before and after.

    Raises:
      SettingError: a setting is out of range, or a remedy of the complete update is asked for and the tuned model has
        an output head where the base has none of its own.
      CheckpointError: a side cannot be read, ``out`` cannot be written, or the form does not suit what was given.
      PairingError: the sides, or the audit, do not belong together.
      NonFiniteError: a matrix contains NaN or infinity.

    Examples:
      An adapter in memory; with ``out=`` the mitigated one is written to a folder.

      >>> import torch
      >>> from peft import LoraConfig, get_peft_model
      >>> from intruders import AuditSettings
      >>> base = torch.nn.Sequential(torch.nn.Linear(9, 9, bias=False))
      >>> base[0].weight.data = torch.diag(torch.arange(9.0, 0.0, -1.0))
      >>> model = get_peft_model(base, LoraConfig(r=1, lora_alpha=1, target_modules=["0"]))
      >>> for factors in (model.base_model.model[0].lora_A, model.base_model.model[0].lora_B):
      ...     _ = factors["default"].weight.data.fill_(100**0.5 / 3)  # the update is 100 / 9 in every entry
      >>> result = mitigate(model, scale=0.0, audit=AuditSettings(k=3), compute=Compute(cache=False))
      >>> result.before.intruders, result.after.intruders, model.active_adapter
      (1, 0, 'mitigated')
    """
    started = time.perf_counter()
    remedy = _chosen(scale, control, which, seed, remedy)
    compute.torch_device()  # a device that is not there is refused before anything is opened
    sides = open_sides(base, tuned)
    if remedy.reach == "model" and not remedy.changes_nothing:
        require_same_head(sides)
    target = choose_target(
        named_sides(base, tuned),
        sides,
        out=out,
        form=form,
        rank=rank,
        adapter_name=adapter_name,
        force=force,
        shard_bytes=shard_bytes,
    )
    if target.form == "adapter" and not remedy.fits_an_adapter:
        raise SettingError(
            f"remedy '{remedy.name}' leaves updates of no low rank, which an adapter cannot store; pass --as checkpoint"
        )
    if target.form == "adapter" and isinstance(sides[1], Checkpoint):
        warn_of_tensors_left_out(sides[0], sides[1])
    # The base vectors that the first audit computes serve the second, even where no cache is to be kept.
    compute = replace(compute, cache=compute.base_cache() or MemoryCache())
    audited = audited_whole(*sides, audit, compute, progress)
    return apply_remedy(
        audited,
        remedy,
        target,
        out=out,
        rank=rank,
        check=check,
        compute=compute,
        progress=progress,
        started=started,
    )


def apply_remedy(
    audited: AuditedWhole,
    remedy: Remedy,
    target: FolderTarget | ModelTarget,
    *,
    out: str | os.PathLike[str] | None,
    rank: Rank,
    check: bool = True,
    compute: Compute,
    progress: Progress,
    beside: Callable[[Mitigation], Mapping[str, JsonResult]] | None = None,
    started: float,
) -> Mitigation:
    """Change the audited matrices of two opened sides, write them to a target, and audit what was written.

    ``out`` and ``rank`` are those that the target was chosen with; ``beside`` gives further results to save beside the
    weights, by file name; ``started`` is when the work began (time.perf_counter).
    """
    before, tuned = audited.audit, audited.pairing.tuned
    matrices = TunedMatrices(audited.pairing.base, audited, compute.torch_device())
    remedy = matrices.fitted(remedy)
    records, changed = _changed(matrices, remedy, progress)
    with target.writing(Changes(changed, matrices.elsewhere(remedy)), progress) as written:
        names, ranks, errors = set(changed), written.cut.ranks, written.cut.errors
        changed.clear()  # as much as a few matrices; the audit of what was written needs the names alone
        after = None
        if check:  # what was written is what is audited: a fault on the way to the disk would show
            # Experts that an adapter changes as stacks are written one by one where the base's file has them so.
            again_base, again_tuned = open_sides(written.base, written.tuned)
            again_base, _, _ = under_common_names(again_base, [part for part, _ in parts_of(tuned)])
            again = pair_sides(again_base, again_tuned, audited.settings)
            after = audit_after(before, audited.pairing.pairs, again, names, compute, progress)
            after = after if out is None else replace(after, tuned_source=str(out))
        result = Mitigation(
            base_source=before.base_source,
            tuned_source=before.tuned_source,
            out=None if out is None else str(out),
            form=target.form,
            remedy=UsedRemedy(
                remedy.name,
                remedy.intruder_scale,
                remedy.recorded_by_name(),
                remedy.sentence(sum(len(record.scaled) for record in records)),
            ),
            rank=rank,
            matrices=[
                replace(
                    record, rank_after=ranks.get(record.name), relative_error=errors.get(record.name, 0.0)
                )
                for record in records
            ],
            before=before,
            after=after,
            cut={name: error for name, error in errors.items() if error > 0 and name not in names},
            seconds=time.perf_counter() - started,
        )
        for name, record in {result.file_name: result, **(beside(result) if beside else {})}.items():
            written.keep(name, record)
    return result


def _chosen(scale: float | None, control: str, which: str, seed: int, remedy: Remedy | None) -> Remedy:
    """Scaled intruders, a control, or the remedy that was given; one of them."""
    if remedy is None:
        if scale is None:
            raise SettingError(
                "scale is missing; expected the share of the intruders to keep, or a remedy; pass --scale or --remedy"
            )
        return remedy_named(control, scale, seed, which)
    if not isinstance(remedy, Remedy):
        raise SettingError(f"remedy is {remedy!r}; expected a value such as Interpolate(alpha=0.5)")
    of_intruders = {"scale": (scale, None), "control": (control, INTRUDERS), "which": (which, ALL)}
    for name, (given, usual) in of_intruders.items():
        if given != usual:
            raise SettingError(
                f"{name} is {given!r}, and the remedy '{remedy.name}' takes none; pass either --{name} or --remedy"
            )
    return remedy


def _changed(
    matrices: TunedMatrices, remedy: Remedy, progress: Progress
) -> tuple[list[MitigatedMatrix], dict[str, Change]]:
    """The matrices that the remedy changes, in the audit's order; none where it changes nothing."""
    if remedy.changes_nothing:
        return [], {}
    names = [matrix.name for matrix in matrices.reached([remedy])]
    records: dict[str, MitigatedMatrix] = {}
    changed: dict[str, Change] = {}
    for case in matrices.read([remedy]):
        change = remedy.change(case)
        if change.keeps_all and remedy.intruder_scale is None:
            continue
        matrix, values, places = case.matrix, list[float](), list[int]()
        if (scaled := remedy.scaled(matrix)) is not None:
            values = case.parts[scaled].values.tolist()
            places = list(scaled.indices[: len(values)])
        changed[matrix.name] = change
        records[matrix.name] = MitigatedMatrix(
            name=matrix.name,
            shape=matrix.shape,
            intruders=matrix.intruders,
            scaled=places,
            singular_values=values,
            update_norm_before=case.update.norm(),
            update_norm_after=change.norm_of(case.update, case.base),
            rank_before=case.update.rank if isinstance(case.update, LowRank) else None,
            exists=remedy.exists(case),
        )
        progress("scale", len(changed), len(names))
    return [records[name] for name in names if name in records], changed


def audit_after(
    before: Audit,
    old: Sequence[PairedMatrix],
    new: Pairing,
    changed: Collection[str],
    compute: Compute,
    progress: Progress,
) -> Audit:
    """The audit of ``new``, with the settings of ``before``.

    A matrix that is not among the ``changed``, and whose written update is bit for bit the one that was audited, keeps
    its row: there is nothing to compute again.
    """
    started = time.perf_counter()
    rows = {matrix.name: matrix for matrix in before.matrices if matrix.name not in changed}
    by_name = {pair.name: pair for pair in old if pair.name in rows}
    both = [(by_name[pair.name], pair) for pair in new.pairs if pair.name in by_name]
    same = {pair.name for first, pair in both if _are_equal(first.load(), pair.load())}
    again = audit_pairing(
        replace(new, pairs=[pair for pair in new.pairs if pair.name not in same]),
        AuditSettings.of(before),
        compute,
        progress,
        KeptNats() if same else None,  # nats of some matrices are not those of all
    )
    matrices = {matrix.name: matrix for matrix in again.matrices} | {name: rows[name] for name in same}
    return replace(
        again,
        matrices=[matrices[pair.name] for pair in new.pairs if pair.name in matrices],
        seconds=time.perf_counter() - started,
        settings={**before.settings, "matched": again.settings["matched"]},
    )


def _are_equal(first: Pair | None, second: Pair | None) -> bool:
    """Return whether base and update are the same numbers, in the same form."""
    if first is None or second is None or len(first.parts) != len(second.parts):
        return False
    return all(
        part.dtype == other_part.dtype and torch.equal(part, other_part)
        for part, other_part in zip(first.parts, second.parts, strict=True)
    )
