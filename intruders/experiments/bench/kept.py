"""What the kept evaluations of a tuned model's remedies depend on."""

from __future__ import annotations

from pathlib import Path

from ...audits.audit_settings import AuditSettings
from ...audits.result.audit_result import Audit
from ...measures.kept_outcomes import KeptOutcomes, digest_of_intruders
from ...measures.measure_settings import ScoreSettings
from ...models.finetuned_folder import FinetunedFolder
from ...models.loading_settings import Loading
from .data_shares import DataShare
from .given_sides import OpenedSides
from .measuring import Measuring


def kept_outcomes(
    folder: Path | None,
    sides: OpenedSides,
    audit_settings: AuditSettings,
    audited: Audit,
    measuring: Measuring,
    scores: ScoreSettings,
    loading: Loading,
    *,
    data: DataShare | None = None,
) -> KeptOutcomes:
    """Return the evaluations that a folder keeps of these models under remedies; without a folder nothing is hashed.

    Args:
      folder: where they are kept.
      sides: base and tuned model.
      audit_settings: the settings of the audit.
      audited: the audit, which may be one that was given.
      measuring: the settings by which the models are measured, and the tasks.
      scores: how tasks are scored.
      loading: how the models are loaded.
      data: the documents and examples of all evaluations, if they are the same for all.
    """
    if folder is None:
        return KeptOutcomes(None, {})
    trained, losses = FinetunedFolder.of(sides.tuned), measuring.losses
    return KeptOutcomes(
        folder,
        {
            **sides.key(loading),
            "audit": audit_settings.recorded(),
            "intruders": digest_of_intruders(audited),
            "tasks": {name: [task.kind, task.score, task.labels] for name, task in measuring.tasks.items()},
            "labels": None if trained is None else trained.labels,
            "window": losses.window,
            "stride": losses.stride,
            "estimate": losses.estimate,
            "seed": measuring.seed,
            # Answers of earlier versions were cut where the batch had no more room.
            "max_new_tokens": scores.max_new_tokens,
            # Came later: without them, what earlier versions kept is still found.
            **({} if losses.max_tokens is None else {"max_tokens": losses.max_tokens}),
            **({} if scores.score is None else {"score": scores.score}),
            **({} if data is None else {"data": data.fingerprint()}),
        },
    )
