"""A study's file with what it says of claims: which are answered, and what was planned for each in advance."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intruders.errors import SettingError
from intruders.settings import Settings, setting
from intruders.settings.settings_class import mapping, shown, told_at
from intruders.studies import study as described
from intruders.studies.study import Study

from .claim_names import CLAIMS, NOT_OVER_SEEDS, OVER_SETTINGS, check_analyses

# Whose figures are in published/paper.json.
PAPER_STUDIES = ("paper-roberta", "paper-llama")


@dataclass(frozen=True)
class Power(Settings):
    """The plan for a claim's number of seeds: an effect, and the spread of single seeds around it."""

    effect: float | None = setting(
        None,
        "The smallest effect that is worth finding; as an earlier study measured it, if not given.",
        above=0,
    )
    spread: float | None = setting(None, "Standard deviation over seeds, in the same unit.", above=0)
    spread_from: str | None = setting(None, "The folder of an earlier study that measured it.")
    of: str | None = setting(
        None, "A part of the effect's name there; of all that match the one that spreads most."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spread is not None and self.spread_from is not None:
            raise SettingError("expected one of spread: NUMBER and spread_from: FOLDER; give one")
        if self.spread is not None and self.effect is None:
            raise SettingError("spread is given without an effect; give effect: NUMBER, in the same unit")
        if self.spread_from is None and self.effect is None:
            raise SettingError(
                "neither an effect nor the folder of an earlier study is given; give effect: NUMBER"
            )


def read_study(path: str | Path) -> Study:
    """Read a study as :func:`intruders.read_study` does, and check what it says of claims.

    Args:
      path: The YAML file.

    Returns:
      The study; its analyses are all claims if the file lists none, and its plans of power are :class:`Power`.

    Raises:
      SettingError: as :func:`intruders.read_study`; or a claim is not known, or something planned for it is wrong.
      MissingDependencyError: PyYAML is not installed.
    """
    return with_claims(described.read_study(path), f"study {str(path)!r}")


def with_claims(study: Study, where: str) -> Study:
    """Return the study with what its file says of claims read and checked."""
    with told_at(where):
        analyses = tuple(check_analyses(study.analyses)) or tuple(CLAIMS)
        support = _by_claim(study.support, "support", _sentence)
        power = _by_claim(study.power, "power", lambda plan: Power.from_mapping(mapping(plan, "power")))
        primary = _by_claim(study.primary, "primary", _primary)
        _check_power(power)
        if study.compare_with is not None and study.compare_with not in PAPER_STUDIES:
            raise SettingError(
                f"compare_with is {study.compare_with!r}; expected one of {', '.join(PAPER_STUDIES)}"
            )
    return replace(study, analyses=analyses, support=support, power=power, primary=primary)


def _by_claim(value: Any, key: str, read: Callable[[Any], Any]) -> dict[str, Any]:
    by_claim = mapping(value, key)
    check_analyses(list(by_claim))
    entries = {}
    for name, entry in by_claim.items():
        with told_at(f"{key} of {name!r}"):
            entries[name] = read(entry)
    return entries


def _sentence(value: Any) -> str:
    return " ".join(_text(value, "support", "a sentence on what would count as support").split())


def _primary(value: Any) -> str:
    return _text(value, "primary", "a part of the name of the effect that decides").strip()


def _text(value: Any, key: str, expected: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SettingError(f"{key} is {shown(value)}; expected {expected}")
    return value


def _check_power(power: dict[str, Power]) -> None:
    """Refuse a plan over seeds without their spread, and one over settings that is no correlation."""
    for claim, plan in power.items():
        if claim in NOT_OVER_SEEDS and plan.spread_from is not None:
            raise SettingError(
                f"power of {claim!r}: spread_from is {plan.spread_from!r}, and intervals of this claim are not over "
                "seeds; give spread: NUMBER, or for a correlation effect: NUMBER alone"
            )
        if claim in OVER_SETTINGS and plan.spread is None and plan.spread_from is None:
            assert plan.effect is not None
            if plan.effect >= 1:
                raise SettingError(
                    f"power of {claim!r}: effect is {plan.effect:g}; expected a rank correlation below 1, such as 0.6"
                )
        elif plan.spread is None and plan.spread_from is None:
            raise SettingError(
                f"power of {claim!r}: expected one of spread: NUMBER and spread_from: FOLDER; give one"
            )
