"""Remedies that keep single entries, against PEFT's own functions on the dense update."""

from pathlib import Path

import pytest
import torch
from peft.utils.merge_utils import prune
from torch import Tensor

from intruders.mitigation.remedies.entries import FAPM, Drop, Trim
from intruders.mitigation.remedies.remedy import EntryRemedy
from tests.mitigation.remedies.conftest import Tuned


def updates_after(tuned: Tuned, remedy: EntryRemedy, out: Path) -> dict[str, Tensor]:
    found = tuned.after(remedy, out, form="checkpoint")
    return {name: found[name] - tuned.base[name] for name in tuned.matrices}


def test_trim_is_pefts(tmp_path: Path, of_each: Tuned) -> None:
    for name, after in updates_after(of_each, Trim(0.2), tmp_path / "out").items():
        wanted = prune(of_each.update(name), 0.2, "magnitude")
        torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-6)


def test_dropped_entries_are_zero_and_the_others_scaled_up(tmp_path: Path, of_each: Tuned) -> None:
    drawn = [updates_after(of_each, Drop(0.75, seed), tmp_path / str(seed)) for seed in (0, 1)]
    repeated = updates_after(of_each, Drop(0.75, 0), tmp_path / "again")
    kept = total = 0
    for name in of_each.matrices:
        assert torch.equal(drawn[0][name], repeated[name])
        assert not torch.equal(drawn[0][name] == 0, drawn[1][name] == 0)
        for after in (one[name] for one in drawn):
            mask = after != 0
            torch.testing.assert_close(after[mask], 4 * of_each.update(name)[mask], rtol=1e-3, atol=1e-5)
            kept, total = kept + int(mask.sum()), total + mask.numel()
    assert kept / total == pytest.approx(0.25, abs=0.02)  # so that the mean over masks is D


def test_fapm_is_its_formula(tmp_path: Path, of_each: Tuned) -> None:
    for name, after in updates_after(of_each, FAPM(0.1), tmp_path / "out").items():
        base, update = of_each.base[name], of_each.update(name)
        scores = update.abs() - base.abs().mean() * update.abs() / base.abs()
        kept = torch.zeros_like(update, dtype=torch.bool)
        kept.view(-1)[scores.flatten().argsort(descending=True)[: update.numel() // 10]] = True
        torch.testing.assert_close(after, update * kept, rtol=1e-4, atol=1e-6)
