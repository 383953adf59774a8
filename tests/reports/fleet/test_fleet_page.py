"""How the page of a fleet packs the numbers of each matrix: read back byte by byte."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pandas as pd
import pytest
import torch

import intruders
from intruders.charts.text import percent
from intruders.reports.fleet.fleet_page import fleet_payload, packed_matrices


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
    fleet = intruders.audit_fleet(
        base, [tuned], k=3, epsilon=0.9, include="*q_proj*", exact=True, cache=False
    )
    options = fleet_payload(fleet)["options"]
    assert options == "--k 3 --epsilon 0.9 --include '*q_proj*' --exact"
