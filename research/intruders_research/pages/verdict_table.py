"""The verdicts of several studies as one Markdown table, with the runs that are missing."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from intruders.studies.results import load_results
from intruders.studies.study_folder import PUBLISHED, StudyFolder
from intruders.system.words import duration, plural

from ..claim_names import CLAIMS
from ..claims.every_claim import analyse_all, every_claim
from ..claims.shared.equal_score import below_score, by_setting
from ..claims.shared.strata import finished, strata
from ..claims.shared.words import said, table_lines
from ..published.published_study import stages_in

_HEADINGS = ("claim", "model and task", "verdict", "effect (95 % CI); the claim expects", "seeds", "command")


def verdict_table(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return Markdown lines: one row per claim, base, task and effect, then what each study did and did not run.

    Raises:
      ResultFileError: a folder is not that of a study.
    """
    studies = [Path(folder) for folder in folders]
    rows = [row for folder in studies for row in _rows(folder)]
    rows.sort(key=lambda row: row[0])
    table = table_lines(_HEADINGS, [cells for _, cells in rows])
    return [*table, "", *(line for folder in studies for line in _done(folder))]


def _rows(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the position of its claim among all claims."""
    document, results = StudyFolder(folder).document(), load_results(folder)
    command = f"`{_command(folder)}`"
    titles = {claim.name: claim.title for claim in every_claim()}
    names = [name for name in CLAIMS if name in (document.get("analyses") or CLAIMS)]
    for finding in analyse_all(results, names):
        position, title = CLAIMS.index(finding.name), titles[finding.name]
        for answer in finding.answers:
            lacking = f" (missing: {answer.lacking})" if answer.lacking else ""
            effect = f"{answer.what}: {said(answer.over_seeds, answer.digits)}; {answer.side}"
            verdict = f"*{answer.decision}*{lacking}"
            yield position, [title, answer.where, verdict, effect, str(answer.seeds), command]
        if not finding.answers:
            # The verdict begins with the decision; what it lacks, or why no effect decides, comes after it.
            decision = finding.decision
            verdict = f"*{decision}*{finding.verdict.removeprefix(decision.capitalize())}"
            bases = ", ".join(sorted(results.runs["base"].dropna().unique())) or "-"
            yield position, [title, bases, verdict, "-", "-", command]


def _command(folder: Path) -> str:
    """Return the command that made the tables, or their page if they are published."""
    if (folder / PUBLISHED).is_file():
        return f"intruders report {folder}"
    return f"intruders study {StudyFolder(folder).document().get('file') or folder / 'study.yaml'} --out {folder}"


def _done(folder: Path) -> Iterator[str]:
    """Yield how far the study is, then the runs that failed, that missed their score, and that are still to do."""
    runs = load_results(folder).runs
    done, pending, failed = (runs[runs["status"] == status] for status in ("finished", "pending", "failed"))
    yield f"`{folder}`: {len(done)} of {len(runs)} runs finished, {plural(done['seed'].nunique(), 'seed')}."
    stages = stages_in(folder)
    seconds = sum(stage["seconds"] for run in done["run_id"] for stage in stages.get(run, {}).values())
    if seconds:
        yield f"- trained and measured in {duration(seconds)}, summed over the runs"
    if len(failed):
        named = [f"{row['run_id']} ({row['error']})" for _, row in failed.iterrows()]
        yield f"- {len(failed)} failed: {', '.join(named)}"
    missed = below_score(done)
    if len(missed):
        named = [
            f"{stratum.label}: {by_setting(stratum.runs)}"
            for kind in missed["kind"].unique()
            for stratum in strata(below_score(finished(runs, kind)))
        ]
        yield f"- {len(missed)} did not reach their score: {'; '.join(named)}"
    if len(pending):
        seeds = ", ".join(f"{seed:.0f}" for seed in sorted(pending["seed"].unique()))
        how = "the command of the table runs them"
        if (folder / PUBLISHED).is_file():
            how = f"`intruders study FILE --out RUNS --from {folder}` runs them"
        yield f"- {len(pending)} not run yet, of seeds {seeds}; {how}"
