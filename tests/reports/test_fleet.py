"""Opinions on adapters: distances by the standard library's medians, and what servers refuse, case by case."""

import base64
import math
import struct
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import intruders
from intruders.reports.fleet import NUMBERS, TEXTS, fleet_payload, packed_matrices, with_opinions
from intruders.system.words import percent

SHARES = [0.10, 0.12, 0.11, 0.13, 0.12, 0.10, 0.40]
NORMS = [1.0, 1.1, 0.9, 30.0, 1.2, 1.0, 1.1]


def row(**given: Any) -> dict[str, Any]:
    plain = {
        "status": "audited", "matrices": 4, "method": "lora", "saved_in_full": 0, "rank_min": 8, "rank_max": 8,
        "scale_min": 2.0, "scale_max": 2.0, "intruder_share": 0.1, "energy_share": 0.1, "update_relative_median": 0.1,
        "update_relative_max": 0.2, "frobenius": 1.0, "effective_rank": 4.0, "stable_rank": 2.0,
    }  # fmt: skip
    return plain | given


def robust(values: list[float], at: int) -> float:
    deviations = [abs(value - median(values)) for value in values]
    return deviations[at] / (1.4826 * median(deviations))


def test_the_largest_robust_distance_over_the_columns_is_told() -> None:
    rows = [row(intruder_share=share, frobenius=norm) for share, norm in zip(SHARES, NORMS, strict=True)]
    table = with_opinions(pd.DataFrame(rows))
    by_share = [robust(SHARES, at) for at in range(len(SHARES))]
    by_norm = [robust([math.log(norm) for norm in NORMS], at) for at in range(len(NORMS))]
    assert table["unusual"].tolist() == pytest.approx([*map(max, by_share, by_norm)])


def test_the_only_adapter_with_intruders_is_unusual() -> None:
    """Most have one value, so the median deviation is 0: the mean one is the scale, 1.2533 |x - m| / mean |x - m|."""
    shares = [0.0] * 11 + [0.9]
    table = with_opinions(pd.DataFrame([row(intruder_share=share) for share in shares]))
    assert table["unusual"].tolist() == pytest.approx([0.0] * 11 + [0.9 / (1.2533 * fmean(shares))])


def test_rounding_is_no_spread() -> None:
    """One adapter at ten scales and another one: nothing but rounding is between the ranks of the ten."""
    noise = [0, 3e-9, -5e-9, 1e-9, 8e-9, -2e-9, 4e-9, 0, -7e-9, 2e-9]
    ranks = [*(3.8872 + one for one in noise), 3.8264]
    shares = [*(0.1 + one / 10 for one in noise), 0.1]
    rows = [row(effective_rank=rank, energy_share=share) for rank, share in zip(ranks, shares, strict=True)]
    table = with_opinions(pd.DataFrame(rows))
    deviations = [abs(math.log(rank / 3.8872)) for rank in ranks]
    assert table["unusual"][10] == pytest.approx(deviations[10] / (1.2533 * fmean(deviations)), rel=1e-4)
    assert table["unusual"][:10].max() < 1e-4


def test_who_was_not_audited_or_changes_nothing_is_compared_with_nobody() -> None:
    rows = [row(intruder_share=share) for share in SHARES]
    others = [row(status="refused", matrices=None, intruder_share=None), row(matrices=0, intruder_share=9.0)]
    mixed = with_opinions(pd.DataFrame([*rows, *others]))
    assert mixed["unusual"][: len(rows)].tolist() == with_opinions(pd.DataFrame(rows))["unusual"].tolist()
    assert mixed["unusual"][len(rows) :].isna().all()


def test_four_adapters_or_equal_ones_tell_nothing() -> None:
    for rows in ([row(intruder_share=share) for share in SHARES[:4]], [row()] * 6):
        table = with_opinions(pd.DataFrame(rows))
        assert table["unusual"].isna().all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, None),
        ({"method": "loha"}, "no plain LoRA (loha)"),
        ({"saved_in_full": 2}, "modules saved in full"),
        ({"rank_max": 16}, "ranks or scales that differ by module"),
        ({"scale_min": 1.0}, "ranks or scales that differ by module"),
        ({"method": None, "saved_in_full": None, "rank_min": None, "scale_min": None}, None),
        ({"method": "dora", "saved_in_full": 1}, "no plain LoRA (dora); modules saved in full"),
    ],
)
def test_what_servers_of_adapters_refuse(given: dict[str, Any], said: str | None) -> None:
    assert with_opinions(pd.DataFrame([row(**given)]))["for_hosts"].tolist() == [said]


def test_counts_and_shares_are_read_back_as_they_were() -> None:
    """The smallest share is not 0, the largest is not 1, and each is written with the same decimal."""
    shares = [0.0, 1e-9, 0.00149, 0.00049999, 0.0005001, 0.5, 0.99949, 0.9999999, 1.0]
    shares += np.random.default_rng(0).uniform(size=2000).tolist()
    names = [f"m{at}" for at in range(len(shares))]
    counts = [300, 254, 255, 65535, *range(len(shares) - 4)]
    group = pd.DataFrame(
        {"name": names, "intruders": counts, "intruder_energy_share": shares, "relative_update": 0.5}
    )
    packed = packed_matrices(group, [*names, "not judged"])
    kept, steps = (struct.unpack(f"<{len(names) + 1}H", base64.b64decode(text)) for text in packed[:2])
    assert list(kept) == [300, 254, 255, 65534, *range(len(shares) - 4), 65535]
    read = [0.0 if step == 0 else 1.0 if step > 50_000 else (step - 0.5) / 50_000 for step in steps]
    assert [percent(share) for share in read[:-1]] == [percent(share) for share in shares]
    assert read[:-1] == pytest.approx(shares, abs=1.1e-5)


def test_the_command_of_an_adapter_audits_as_its_fleet_did() -> None:
    """With the defaults it would examine other vectors of other matrices, and count by another epsilon."""
    base = {f"model.layers.0.self_attn.{kind}_proj.weight": torch.eye(9) for kind in "qk"}
    tuned = {name: weight + torch.ones(9, 9) for name, weight in base.items()}
    made = intruders.audit_fleet(base, [tuned], k=3, epsilon=0.9, include="*q_proj*", exact=True, cache=False)
    options = fleet_payload(made)["options"]
    assert options == "--k 3 --epsilon 0.9 --include '*q_proj*' --exact"


def test_nats_of_zero_are_told_as_all_others() -> None:
    weight = {"model.layers.0.self_attn.q_proj.weight": torch.eye(9)}
    made = intruders.audit_fleet(weight, [weight], cache=False)
    made.adapters.loc[:, ["nats", "nats_low", "nats_high"]] = 0.0
    payload = fleet_payload(made)
    assert payload["rows"][0][len(NUMBERS) + TEXTS.index("predicted_nats")] == "< 0.001"
