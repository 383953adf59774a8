"""The number of seeds that planned intervals need, from a given spread over seeds or an earlier study's."""

from collections.abc import Iterator
from pathlib import Path

from intruders.errors import ResultFileError
from intruders.studies.compare_settings import setting_of
from intruders.studies.results import load_results
from intruders.studies.runs import expand
from intruders.studies.study import Study

from ..claim_names import DIFFERENCES_OVER_SETTINGS, NOT_OVER_SEEDS
from ..claims.every_claim import analyse_all
from ..claims.shared.claim import Effect
from ..claims.shared.statistics import MOST_SEEDS, MOST_SETTINGS, seeds_needed, settings_needed, spread_of
from ..read_study import Power


def power_lines(study: Study) -> Iterator[str]:
    """Yield one line per claim of the study: the seeds that its effect needs, or that no effect is planned.

    A folder that does not exist yet is reported, and is not an error.
    """
    for claim in dict.fromkeys([*study.power, *study.analyses]):
        plan = study.power.get(claim)
        if plan is None:
            # A file that lists no analyses asks for all of them, and plans none.
            if study.power or study.support:
                yield (
                    f"power: {claim}: no effect is planned, so that the seeds it needs are unknown; give power: "
                    f"{{{claim}: {{effect: NUMBER, spread: NUMBER}}}}"
                )
        elif plan.spread is None and plan.spread_from is None:
            yield f"power: {claim}: {_settings_line(study, claim, plan)}"
        else:
            yield f"power: {claim}: {_line(study, claim, plan)}"


def _settings_line(study: Study, claim: str, plan: Power) -> str:
    """Return the settings that one rank correlation needs; seeds of one setting are not further settings."""
    assert plan.effect is not None  # checked where it was read
    number, found = _needed(settings_needed(plan.effect), MOST_SETTINGS, settings_planned(study))
    seeds = seeds_planned(study, "")
    # Its spread depends on the two correlations, and on that of the two predictors.
    rest = (
        "; this is the number for one rank correlation, and the effect that decides is a difference of two, which "
        "mostly needs more settings; how many more depends on correlations that are not known"
        if claim in DIFFERENCES_OVER_SETTINGS
        else ""
    )
    return (
        f"{number} settings needed for a rank correlation of {plan.effect:g}: {found}; {seeds} seeds planned, and one "
        f"seed decides nothing{rest}"
    )


def _needed(needed: int | None, most: int, planned: int) -> tuple[str, str]:
    """Return the number that a plan needs, and what it then finds beside what is planned, in words."""
    enough = "" if needed is not None and planned >= needed else ", which is fewer"
    found = f"the 95 % CI then excludes zero in 4 of 5 studies; planned: {planned}{enough}"
    return f"more than {most}" if needed is None else str(needed), found


def _line(study: Study, claim: str, plan: Power) -> str:
    effect, spread, told = plan.effect, plan.spread, "given"
    if spread is None:
        try:
            earlier = earlier_spread(str(plan.spread_from), claim, plan.of)
        except ResultFileError:
            return f"no study in '{plan.spread_from}' yet, so that no spread is known"
        if earlier is None:
            return f"the study in '{plan.spread_from}' has no interval over seeds for it, so that no spread is known"
        answer, spread = earlier
        effect = abs(answer.estimate) if effect is None else effect
        told = f"{answer.where}: {answer.what}, in '{plan.spread_from}'"
    assert effect is not None  # checked where it was read
    over, planned = "seeds", seeds_planned(study, claim)
    if claim in NOT_OVER_SEEDS:
        over, planned = "settings", settings_planned(study)
    number, found = _needed(seeds_needed(effect, spread), MOST_SEEDS, planned)
    of = f"an effect of {effect:g} at a spread of {spread:.3g} over {over} ({told})"
    return f"{number} {over} needed for {of}: {found}"


def settings_planned(study: Study) -> int:
    """Return how many settings of fine-tuning are compared on one base and task, at the least over these."""
    by_place: dict[tuple[str, str], set[str]] = {}
    for run in expand(study):
        if run.kind == "finetune" and run.config is not None:
            settings = by_place.setdefault((run.base, run.config.task), set())
            settings.add(setting_of(run.config.as_dict()))
    return min(map(len, by_place.values()), default=0)


def seeds_planned(study: Study, claim: str) -> int:
    """Return the most seeds of an experiment of the claim's kind."""
    kind = "sequence" if claim == "sequence" else "finetune"
    return max(
        (len(experiment.seeds) for experiment in study.experiments if experiment.kind == kind), default=0
    )


def earlier_spread(folder: str, claim: str, of: str | None = None) -> tuple[Effect, float] | None:
    """Return an earlier study's answer with the largest spread over seeds, if ``of`` is in its name.

    None if it has no interval over seeds. Raises ResultFileError for a folder that is not a study.
    """
    (finding,) = analyse_all(load_results(Path(folder)), [claim])
    pairs = [
        (answer, spread_of(answer.interval, answer.seeds))
        for answer in finding.answers
        if answer.seeds > 1 and answer.over_seeds.has_ends and (of is None or of in answer.what)
    ]
    return max(pairs, key=lambda pair: pair[1], default=None)
