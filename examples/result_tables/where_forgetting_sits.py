"""The table of where forgetting sits."""

from intruders.studies.results import load_results
from intruders_research.claims import places
from intruders_research.claims.every_claim import analyse_all

from .published_data import RESULTS, read_table, runs_by_setting
from .words import forgotten_by_seed, intruders_by_seed, markdown, percent, signed


def runs_with_places() -> list[str]:
    """Each setting of where-forgetting-sits: what every seed forgot, and how its parts go with intruders and norm."""
    study = "where-forgetting-sits"
    [finding] = analyse_all(load_results(RESULTS / "data" / study), [places.CLAIM.name])
    of_runs = finding.tables[places.TABLE].set_index("run_id")
    parts = read_table(study, "attributions")
    rows = []
    for setting, own in runs_by_setting(study):
        of_setting = of_runs.loc[of_runs.index.isin(own["run_id"])]
        inside, rise = of_setting.dropna(subset=["rise_inside"])[["rise_inside", "rise"]].mean()
        matrices = parts[parts["run_id"].isin(own["run_id"])]
        have = matrices["intruders"] > 0
        rows.append(
            [
                *setting,
                f"{own['accuracy'].mean():.2f}",
                forgotten_by_seed(own),
                intruders_by_seed(own),
                signed(of_setting["correlation_intruders"].mean()),
                signed(of_setting["correlation_frobenius"].mean()),
                percent(have.mean()),
                percent(matrices.loc[have, "part"].sum() / matrices["part"].sum()),
                percent(inside / rise),
            ]
        )
    return markdown(
        [
            "method, rank",
            "rate",
            "accuracy",
            "forgotten, by seed",
            "intruders, by seed",
            "with intruders",
            "with the norm",
            "matrices that have any",
            "their part of the rise",
            "inside the span",
        ],
        rows,
    )
