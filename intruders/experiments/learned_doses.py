"""The remedy `doses` in a comparison: learned once on the half that chooses, and kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..checkpoints.pairing.open_sides import sides_on_disk
from ..data.corpora import Corpora
from ..data.task import Task
from ..errors import SettingError
from ..mitigation.remedies.doses import Doses as DosesRemedy
from ..models.base_model import digest_of_model
from .experiment_settings import WEIGHTS, HealSettings
from .heal_bench import open_to_heal
from .healing import Healing
from .learn import learn
from .question import Question


def learned_doses(
    question: Question,
    corpora: Corpora,
    tasks: Mapping[str, Task],
    settings: HealSettings,
    max_examples: int | None,
) -> DosesRemedy:
    """Learn the remedy `doses` of a tuned model on the halves that choose; report and write nothing.

    It is learned on the first corpus and keeps the first task. Without ``max_examples`` the settings' number counts.

    Raises:
      IntrudersError: as :func:`heal`.
    """
    if max_examples is not None:
        settings = replace(settings, max_examples=max_examples)
    with open_to_heal(question, corpora, tasks, settings) as bench:
        doses, groups = learn(bench, settings).state.doses, bench.groups
    return _remedy(groups.by_matrix(doses), groups.elsewhere(doses))


def doses_for(
    record: str | os.PathLike[str], base: object, tuned: object = None, share: float = 1.0
) -> DosesRemedy:
    """Return the remedy `doses` from the record of a healing of the same tuned model.

    Args:
      record: the ``heal.json`` that :func:`heal` wrote, or its folder.
      base: base model, or an adapter that names its own.
      tuned: tuned model or adapter.
      share: share of the way from the tuned model to the doses.

    Raises:
      SettingError: the doses were learned for another tuned model.
      ResultFileError: the record cannot be read.
      CheckpointError: no model was given, or it is in memory.
    """
    healing = Healing.load(record)
    if healing.learn == WEIGHTS:
        raise SettingError(
            f"doses is '{record}', whose healing learned weights and no doses; pass the healed model itself, or run "
            "intruders heal --learn doses"
        )
    _, model = sides_on_disk(base, tuned)
    digest = digest_of_model(model)
    if healing.of.get("tuned", digest) != digest:
        raise SettingError(
            f"doses is '{record}', which intruders heal learned for '{healing.tuned}' and not for '{model}'; pass the "
            "record of these two models, or learn it with intruders heal"
        )
    return remedy_of(healing, share)


def remedy_of(healing: Healing, share: float = 1.0) -> DosesRemedy:
    """Return the doses of a healing as a remedy."""
    return _remedy(healing.doses, healing.elsewhere, share)


def _remedy(doses: Mapping[str, Sequence[float]], elsewhere: float | None, share: float = 1.0) -> DosesRemedy:
    return DosesRemedy(share=share, doses=doses, elsewhere=1.0 if elsewhere is None else elsewhere)
