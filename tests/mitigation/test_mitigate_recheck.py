"""The audit after a mitigation: as a whole new audit would say, and of what changed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.audits.audit import audit, audit_pairing
from intruders.audits.audit_settings import Compute
from intruders.errors import SettingError
from tests.checkpoints.models import saved, tiny_llama
from tests.mitigation.hot import hot_llama, mitigated, wide_spectrum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base, and an adapter with intruders in some of its matrices only."""
    base = wide_spectrum(tiny_llama())
    saved(base, tmp_path / "base")
    model = hot_llama(model=base, target_modules=["q_proj", "up_proj"])
    for name, module in model.named_modules():
        if name.endswith("q_proj"):
            module.lora_B["default"].weight.data *= 1e-3
    saved(model, tmp_path / "tuned")
    return tmp_path


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the matrices of each audit after a mitigation."""
    found: list[list[str]] = []
    real = audit_pairing

    def recorded(pairing: Any, *settings: Any) -> Any:
        found.append([pair.name for pair in pairing.pairs])
        return real(pairing, *settings)

    monkeypatch.setattr("intruders.mitigation.mitigate.audit_pairing", recorded)
    return found


@pytest.mark.parametrize(
    ("settings", "is_all"),
    [({}, False), ({"rank": "keep"}, False), ({"rank": 1}, True), ({"form": "checkpoint"}, True)],
    ids=str,
)
def test_as_a_whole_audit_of_what_was_written(
    folder: Path, audited: list[list[str]], settings: dict[str, Any], is_all: bool
) -> None:
    result = mitigated(folder, scale=0.2, compute=Compute(cache=False), **settings)
    changed = {matrix.name for matrix in result.matrices}
    names = [matrix.name for matrix in result.before.matrices]
    assert 0 < len(changed) < len(names)
    (again,) = audited
    # A checkpoint also has matrices that the adapter does not touch; they are found equal to the base's.
    assert set(again) >= set(names) if is_all else set(again) == changed
    whole = audit(folder / "base", folder / "out", cache=False)
    assert [matrix.name for matrix in result.after.matrices] == [matrix.name for matrix in whole.matrices]
    for one, other in zip(result.after.matrices, whole.matrices, strict=True):
        assert [v.intruder for v in one.vectors] == [v.intruder for v in other.vectors]
        values = [[v.singular_value for v in matrix.vectors] for matrix in (one, other)]
        torch.testing.assert_close(*(torch.tensor(row) for row in values), rtol=1e-4, atol=1e-6)


def test_an_audit_of_parts_is_refused(folder: Path) -> None:
    before = audit(folder / "base", folder / "tuned", split_fused=True, cache=False)
    with pytest.raises(SettingError, match="split_fused"):
        mitigated(folder, scale=0.2, audit=before, compute=Compute(cache=False))
