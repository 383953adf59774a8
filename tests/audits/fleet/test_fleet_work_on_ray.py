"""A fleet on a Ray of this machine: two workers give what one process gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.fleet.fleet_files import FleetFiles
from intruders.audits.fleet.fleet_work import BlockOnRay
from intruders.audits.prepare_base import prepare
from intruders.checkpoints.opening.many_sources import digest_of
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.content import content_digests
from intruders.errors import CheckpointError, SettingError
from intruders.system.store import Store
from tests.checkpoints.models import saved, tiny_llama
from tests.mitigation.hot import hot_llama

KEYS = ["adapter", "name", "index"]


def test_workers_change_nothing(tmp_path: Path, two_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that are relative to where the driver is, too: workers are elsewhere."""
    monkeypatch.chdir(tmp_path)
    saved(tiny_llama(num_hidden_layers=4), tmp_path / "base")
    for seed in range(3):
        saved(hot_llama(seed, 0.8, tiny_llama(num_hidden_layers=4)), tmp_path / "adapters" / str(seed))
    sources = ["adapters/*", "missing"]
    here = audit_fleet("base", sources, out="here", cache=False)
    there = audit_fleet("base", sources, out="there", cache=False, ray=True)
    assert not list((tmp_path / "there" / "blocks").iterdir())
    one, other = (found.to_pandas().sort_values(KEYS, ignore_index=True) for found in (here, there))
    assert len(one) > 0
    assert one.equals(other)
    assert here.adapters.equals(there.adapters)


def test_a_base_is_prepared_once(tmp_path: Path, two_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries are those that one process makes; a second call finds them."""
    monkeypatch.chdir(tmp_path)
    saved(tiny_llama(num_hidden_layers=2), tmp_path / "base")
    here = prepare("base", out="here")
    there = prepare("base", out="there", ray=True)
    assert (there.matrices, there.decomposed, there.bytes) == (here.matrices, here.matrices, here.bytes)
    entries = {path.relative_to("here"): path.read_bytes() for path in Path("here").rglob("*.safetensors")}
    assert len(entries) > 0
    assert entries == {
        path.relative_to("there"): path.read_bytes() for path in Path("there").rglob("*.safetensors")
    }
    assert prepare("base", out="there", ray=True).decomposed == 0
    with pytest.raises(SettingError, match="the base is in memory"):
        prepare({"up.weight": torch.eye(9)}, out="there", ray=True)


def test_without_a_folder_there_is_no_place_for_results() -> None:
    pytest.importorskip("ray")
    with pytest.raises(SettingError, match="pass out"):
        audit_fleet("base", ["adapter"], ray=True)


def test_a_worker_that_cannot_open_what_the_driver_opened_stops_the_fleet(tmp_path: Path) -> None:
    """Without it the adapter would have no rows, and be written as one without intruders."""
    base = saved(tiny_llama(), tmp_path / "base")
    adapter = str(saved(hot_llama(0, 0.8), tmp_path / "adapter"))
    files = FleetFiles(Store(tmp_path), "0" * 64)
    task = BlockOnRay(
        kept=None,
        base=str(base),
        content=tuple(content_digests(open_checkpoint(base)).items()),
        models=((digest_of(adapter), adapter),),
        settings=AuditSettings(),
        compute=Compute(cache=False, workers=1),
        files=files,
    )
    said = r"worker on Ray cannot audit '/not/there': .* does not exist; expected every worker"
    with pytest.raises(CheckpointError, match=said):
        replace(task, models=(("0" * 32, "/not/there"),))("model.layers.0")
    said = "adapter': its files are others than when the command began; exp"
    with pytest.raises(CheckpointError, match=said):
        replace(task, models=(("0" * 32, adapter),))("model.layers.0")
    assert list(files.blocks()) == []
    assert task("model.layers.0") == {}  # nothing is refused
    [block] = files.blocks()
    assert (block.block, list(block.units)) == ("model.layers.0", [task.models[0][0]])
