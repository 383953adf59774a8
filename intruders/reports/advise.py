"""Advice with its evidence, for a base, an adapter or an audit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..audits.audit_settings import AuditSettings, refuse_beside_saved
from ..audits.result.audit_result import Audit
from ..audits.scales.critical_scales_result import scales_beside
from ..errors import ResultFileError, SettingError
from ..measures.intervals import Interval
from ..models.finetuned_folder import FinetunedFolder
from ..studies.study_folder import MODEL, RunRecord
from ..system.documents import read_document
from ..system.files import user_path
from ..system.progress import Progress, silent
from .advice import Advised
from .advice_on_model import Sweep, SweepRow, advise_model, scaled_gain
from .next_steps import Facts, Forgetting, Step, steps

_AUDITS = ("audit.json", "audit.parquet")


def advise(
    source: str | os.PathLike[str],
    *,
    k: int = 10,
    epsilon: float = 0.5,
    progress: Progress = silent,
) -> Advised:
    """Suggest what to change, with evidence from the results at ``source``.

    - For a saved audit, or a folder with one, it follows from the audit and from ``scale.json`` and
      ``evaluation.json`` in the same folder, if they are of the same models. In a study's run, it follows from
      ``intervention.json`` too.
    - An adapter, or a run of ``intruders finetune``, is audited with its base. If it has intruders, its critical scale
      is measured too.
    - Any other model counts as a base. The advice then says how large an update may be.

    Args:
      source: Path, Hub id or demo model.
      k: Number of top vectors to examine, in an audit or in the spectra of a base (default: 10).
      epsilon: Threshold on the max cosine, in (0, 1] (default: 0.5).
      progress: Function called with (stage, done, in all).

    Returns:
      The advice, each piece with its evidence; also notes, and for a tuned model the next steps.

    Raises:
      SettingError: a setting is out of range, the run is not finished, or ``source`` is the folder of a study.
      CheckpointError: a model cannot be read.
      PairingError: the adapter does not belong to its base.
      NonFiniteError: a matrix contains NaN or infinity.
      ResultFileError: a saved result is broken.

    Examples:
      >>> import tempfile
      >>> import torch
      >>> from intruders import audit
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> result = audit(base, {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}, cache=False)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     result.save(f"{folder}/audit.json")
      ...     advised = advise(f"{folder}/audit.json")
      >>> advised.kind, advised.advice, len(advised.steps)
      ('audit', [], 3)
    """
    return advised_with_bases(os.fspath(source), AuditSettings(k=k, epsilon=epsilon), progress)[0]


def advised_with_bases(text: str, settings: AuditSettings, progress: Progress) -> tuple[Advised, list[str]]:
    """Return the advice, and the bases that it is on."""
    path = user_path(text)
    if is_there(path / "study.json"):
        raise SettingError(
            f"'{text}' is the folder of a study; expected a model or a saved audit; for advice on a study, install "
            "the package intruders-research: pip install ./research"
        )
    is_saved = path.suffix.lower() in (".json", ".parquet") and is_there(path)
    for file in [path] if is_saved else [path / name for name in _AUDITS]:
        if is_saved or is_there(file):
            refuse_beside_saved(settings, f"'{text}'")
            return _on_audit(file, text)
    base = _base_of_run(path)
    return (
        _on_weights(text, settings, progress) if base is None else _on_model(base, text, settings, progress)
    )


def _on_audit(file: Path, source: str) -> tuple[Advised, list[str]]:
    audit = Audit.load(file)
    scale = scales_beside(audit, file.parent)
    sweep, unused = _sweep_beside(file)
    forgetting, of_others = _forgetting_beside(file, audit)
    gain = None if sweep is None else scaled_gain(sweep)
    advice, notes = advise_model(audit, scale, sweep)
    facts = Facts.of(audit, scale, forgetting, gain)
    advised = Advised(source, "audit", advice, [*notes, *of_others, *unused], _steps(audit, facts))
    return advised, [audit.base_source]


def _on_weights(source: str, settings: AuditSettings, progress: Progress) -> tuple[Advised, list[str]]:
    """Advise on an adapter, which names its base, or on a model taken for a base."""
    # These need torch, which takes several times as long to load as advice on what is saved takes.
    from ..checkpoints.opening.open import open_source
    from ..checkpoints.stored.checkpoint import Checkpoint
    from .advice_on_base import advise_base

    opened = open_source(source)
    if not isinstance(opened, Checkpoint):
        return _on_model(None, source, settings, progress)
    advice, notes = advise_base(opened, settings.k, settings.epsilon, progress)
    notes.append(
        "taken for a base, since nothing says what it was fine-tuned from; audit a tuned model first"
    )
    return Advised(source, "base", advice, notes), [source]


def _on_model(
    base: str | None, source: str, settings: AuditSettings, progress: Progress
) -> tuple[Advised, list[str]]:
    from ..audits.audit import audit_sides
    from ..audits.scales.critical_scales import critical_scales

    audit = audit_sides(base, source, settings, progress=progress)
    scale = None
    if audit.intruders:
        scale = critical_scales(base, source, audit=settings, progress=progress)
    advice, notes = advise_model(audit, scale)
    return Advised(source, "model", advice, notes, _steps(audit, Facts.of(audit, scale))), [audit.base_source]


def _steps(audit: Audit, facts: Facts) -> list[Step]:
    """Return what to do; nothing if no matrix could be audited, since such an audit does not describe the model."""
    return steps(facts) if audit.matrices else []


def _base_of_run(path: Path) -> str | None:
    """Return the base that a run folder of ``intruders finetune`` names; None if ``path`` is not such a folder."""
    folder = FinetunedFolder.of(path)
    if folder is None:
        return None
    if folder.base is None:
        raise ResultFileError(
            f"'{path / 'run.json'}' does not name a base; expected a run of intruders finetune"
        )
    if not folder.is_finished:
        raise SettingError(
            f"'{path}' is a run that is not finished; run intruders finetune again to complete it"
        )
    return folder.base


def _sweep_beside(audit: Path) -> tuple[Sweep | None, list[str]]:
    """Read the intervention rows in the folder of a study's run, where alone it is clear what they are of.

    Returns None without a file or without rows, and a note on a file that is not used.
    """
    file = audit.parent / "intervention.json"
    if not is_there(file):
        return None, []
    if not _is_of_studys_run(audit):
        return None, [
            "intervention.json is not used: it does not name its models, and this is not a study's run"
        ]
    rows = (read_document(file, "the intervention.json of a study's run", 1) or {}).get("rows")
    if not isinstance(rows, list):
        raise ResultFileError(f"'{file}' is not the intervention.json of a study's run: it has no rows")
    try:
        measured = [SweepRow.of(row) for row in rows]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultFileError(
            f"'{file}' is not the intervention.json of a study's run: its rows cannot be read"
        ) from error
    return (Sweep(measured) if measured else None), []


def _forgetting_beside(file: Path, audit: Audit) -> tuple[list[Forgetting], list[str]]:
    """Read what ``intruders evaluate --out`` measured, in the audit's folder or in ``evaluation`` below it.

    Returns nothing, and a note, for a measurement of other models than the audit's.
    """
    for measured in (file.parent / "evaluation.json", file.parent / "evaluation" / "evaluation.json"):
        if is_there(measured):
            document = read_document(measured, "the evaluation.json of intruders evaluate", 1) or {}
            forgetting = _forgetting_of(document, measured)
            model, base = document.get("model"), document.get("base")
            is_same = _is_same(model, audit.tuned_source) or (model == MODEL and _is_of_studys_run(file))
            if not is_same:
                return [], [f"evaluation.json is of '{model}', not of this audit's '{audit.tuned_source}'"]
            if forgetting and not _is_same(base, audit.base_source):
                return [], [
                    f"evaluation.json compares with '{base}', not with this audit's '{audit.base_source}'"
                ]
            return forgetting, []
    return [], []


def _is_of_studys_run(audit: Path) -> bool:
    """Return whether the audit is the one that a study made of a run."""
    record = audit.parent / "run.json"
    return audit.name == "audit.json" and is_there(record) and "stages" in RunRecord(audit.parent).read()


def _is_same(source: object, audited: str) -> bool:
    """Return whether two names are of one model: the same text, or paths of the same file or folder."""
    if not isinstance(source, str):
        return False
    paths = [user_path(name) for name in (source, audited)]
    return source == audited or paths[0].resolve() == paths[1].resolve()


def _forgetting_of(document: Mapping[str, Any], file: Path) -> list[Forgetting]:
    """Return the rises of the loss over the base in an ``evaluation.json``; none if the base was not measured.

    Raises ResultFileError for a file that is none.
    """
    try:
        return [
            Forgetting(str(loss["corpus"]), _rise(loss["difference"]))
            for loss in document.get("losses") or ()
            if loss.get("difference") is not None
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultFileError(
            f"'{file}' is not an evaluation.json of intruders evaluate: its losses cannot be read; measure again with "
            "intruders evaluate --out"
        ) from error


def _rise(difference: dict[str, Any]) -> Interval:
    rise = Interval.from_dict(difference)
    if math.isnan(rise.estimate):
        raise ValueError("a rise without a number")
    return rise


def is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a null byte
        return False
