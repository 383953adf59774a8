"""How often the intervals of the analyses hold the truth: simulations with a known one.

    python -m tests.research.coverage

A share of 2,000 has a standard error of 0.005 at 0.95.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from intruders.measures.intervals import mean_interval
from intruders_research.claims.rank_series import valley
from intruders_research.claims.shared.statistics import auc_interval, partial_spearman, spearman

STUDIES = 2000
SEEDS = 3


def main() -> None:
    """Print every table."""
    print(f"share of {STUDIES:,} simulated studies whose 95 % interval holds the truth\n")
    print("mean over seeds of a normal quantity")
    for seeds in (2, 3, 5):
        print(f"  {seeds} seeds: {normal_means(seeds):.3f}")
    print("mean over 3 seeds of the difference of two counts (Poisson)")
    for lora, full in ((0.3, 0.0), (1.0, 0.0), (5.0, 0.0), (5.0, 5.0), (50.0, 1.0)):
        print(f"  {lora:g} against {full:g} intruders a run: {poisson_means(lora, full):.3f}")
    print("Spearman over settings of 3 seeds each; noise: spread of the seeds over that of the settings")
    for settings in (5, 6, 8, 12, 20):
        print(f"  {settings} settings")
        for rho in (0.0, 0.6, 0.9):
            quiet, loud = (of_spearman(settings, rho, noise) for noise in (0.3, 1.0))
            print(f"    rho {rho:g}: {quiet:.3f} at noise 0.3, {loud:.3f} at noise 1")
    print("partial Spearman of two effects of one cause, the cause held fixed")
    for settings in (6, 8, 12, 20):
        print(f"  {settings} settings: {of_partial_spearman(settings):.3f}")
    print("AUC over runs of 40 matrices; spread: of the runs over that of the matrices")
    for runs in (2, 3, 6, 12):
        print(f"  {runs} runs")
        for shift in (0.0, 1.0, 2.5):
            quiet, loud = (of_auc(runs, shift, spread) for spread in (0.0, 0.7))
            area = stats.norm.cdf(shift / math.sqrt(2))
            print(f"    AUC {area:.2f}: {quiet:.3f} at spread 0, {loud:.3f} at spread 0.7")
    print("\nshare of studies of noise alone in which a rank of least loss is shown (0.05 is allowed)")
    for ranks in (3, 5, 8):
        print(f"  {ranks} ranks: {false_valleys(ranks):.3f}")


def normal_means(seeds: int) -> float:
    rng = np.random.default_rng(seeds)
    return _share(mean_interval(rng.normal(1, 2, seeds)) for _ in range(STUDIES))(1.0)


def poisson_means(lora: float, full: float) -> float:
    rng = np.random.default_rng(int(10 * lora + full))
    draws = (rng.poisson(lora, SEEDS) - rng.poisson(full, SEEDS) for _ in range(STUDIES))
    return _share(mean_interval(draw, grain=1.0) for draw in draws)(lora - full)


def of_spearman(settings: int, rho: float, noise: float) -> float:
    """Of a bivariate normal the population's Spearman is 6 / pi asin(r / 2) (Pearson 1907), r with the noise in it."""
    rng = np.random.default_rng(settings)
    groups = np.repeat(np.arange(settings), SEEDS)
    found = []
    for _ in range(STUDIES):
        points = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=settings)[groups]
        points = points + noise * rng.normal(size=points.shape)
        found.append(spearman(points[:, 0], points[:, 1], groups.tolist()))
    return _share(found)(6 / math.pi * math.asin(rho / (1 + noise**2) / 2))


def of_partial_spearman(settings: int) -> float:
    """x and y are a common cause each with noise of its own, by setting and by seed."""
    rng = np.random.default_rng(settings)
    groups = np.repeat(np.arange(settings), SEEDS)
    found = []
    for _ in range(STUDIES):
        cause = rng.normal(size=settings)[groups]
        x, y = (
            cause + 0.5 * rng.normal(size=settings)[groups] + 0.3 * rng.normal(size=len(groups)) for _ in "xy"
        )
        found.append(partial_spearman(x, y, [cause], groups.tolist()))
    return _share(found)(0.0)


def of_auc(runs: int, shift: float, spread: float) -> float:
    """Scores N(shift, 1) of positives and N(0, 1) of negatives, moved by a run's own amount; within a run of a very
    large study the AUC is Phi(shift / sqrt 2), between runs Phi(shift / sqrt(2 + 2 spread^2)); pooled, their mix."""
    rng = np.random.default_rng(runs)
    within = float(stats.norm.cdf(shift / math.sqrt(2)))
    between = float(stats.norm.cdf(shift / math.sqrt(2 + 2 * spread**2)))
    groups = np.repeat(np.arange(runs), 40)
    found = []
    for _ in range(STUDIES // 4):
        is_positive = rng.random(len(groups)) < 0.3
        scores = rng.normal(size=len(groups)) + shift * is_positive + spread * rng.normal(size=runs)[groups]
        found.append(auc_interval(scores, is_positive.tolist(), groups.tolist()))
    return _share(found)(within / runs + between * (1 - 1 / runs))


def false_valleys(ranks: int) -> float:
    rng = np.random.default_rng(ranks)
    columns = [2.0**i for i in range(ranks)]
    shown = [valley(pd.DataFrame(rng.normal(size=(SEEDS, ranks)), columns=columns)) for _ in range(STUDIES)]
    return float(np.mean([one.depth.low > 0 for one in shown]))


def _share(intervals):  # type: ignore[no-untyped-def]
    known = list(intervals)
    return lambda truth: float(np.mean([one.low <= truth <= one.high for one in known]))


if __name__ == "__main__":
    main()
