"""The nats that a fleet predicts, against the audit of each adapter alone; and what is kept of them."""

import shutil
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

import intruders
from intruders.audits import kept_nats
from intruders.audits.base_cache import NATS
from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.fleet.fleet_files import FleetFiles
from intruders.audits.fleet.fleet_result import FleetAudit
from intruders.audits.kept_nats import DOCUMENT
from intruders.models.loading import load_model
from tests.audits.fleet.compared_audits import stopped_before_files
from tests.checkpoints.models import saved
from tests.measures.test_prepare_nats import kept, text_of, tuned_of
from tests.mitigation.hot import hot_llama
from tests.tiny import save_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, prepared in the folder ``cache``, and adapters of it: of rank 1, and full fine-tunings, among them."""
    made = tmp_path_factory.mktemp("fleet-nats")
    base = save_llama(made / "base")
    kept(str(base), text_of(made, 20), made / "cache", sequences=40)
    for seed, (gain, how) in enumerate([(1.0, {}), (0.1, {}), (0.3, {"r": 4}), (0.3, {"r": 1})]):
        saved(hot_llama(seed, gain, load_model(str(base), "causal"), **how), made / "adapters" / f"{seed}")
    tuned_of(base, made / "adapters" / "full", 0.05)
    tuned_of(base, made / "adapters" / "norm too", 0.05, norm=True)
    return made


def sources(folder: Path) -> list[str]:
    return sorted(map(str, (folder / "adapters").iterdir()))


def test_nats_are_those_of_each_audit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every file of rows is read once for all of them, though their updates come in several batches."""
    read, read_file = Counter[str](), kept_nats._read

    def counted(file: Path, digest: str) -> torch.Tensor:
        read[file.name] += 1
        return read_file(file, digest)

    monkeypatch.setattr(kept_nats, "_read", counted)
    monkeypatch.setattr("intruders.audits.batches.BATCH_UPDATES", 1)
    monkeypatch.setattr("intruders.audits.batches._BATCHES_SORTED", 1)
    with pytest.warns(UserWarning, match="of an update of rank 1"):
        fleet = audit_fleet(folder / "base", sources(folder), cache=folder / "cache", out=tmp_path / "fleet")
    assert {count for name, count in read.items() if "gradients" in name} == {1}
    assert sum(read.values()) == 2 * 14
    monkeypatch.undo()
    again = FleetAudit.load(tmp_path / "fleet")
    for position, row in enumerate(fleet.records()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = intruders.audit(folder / "base", row["adapter"], cache=folder / "cache").forgetting
        found = fleet.audit(position).forgetting
        gated = again.gated[row["adapter"]]
        assert (gated.forgetting, gated.rank) == (found, row["effective_rank"])
        if own is None:
            assert Path(row["adapter"]).name == "3"
            assert found is None
            assert row["nats"] is row["nats_in_affected"] is row["nats_on"] is None
            continue
        assert found is not None
        assert (found.text, found.tokens, found.left_out) == (own.text, own.tokens, own.left_out)
        assert found.kl.estimate == pytest.approx(own.kl.estimate, rel=1e-5)
        assert (found.kl.low, found.kl.high) == pytest.approx((own.kl.low, own.kl.high), rel=1e-5)
        assert found.by_matrix == pytest.approx(own.by_matrix, rel=1e-4, abs=1e-6)
        assert found.affected == own.affected
        in_table = [row[name] for name in ("nats", "nats_low", "nats_high", "nats_in_affected")]
        assert in_table == [found.kl.estimate, found.kl.low, found.kl.high, found.affected_share]
        assert row["nats_on"] == own.text
    assert fleet.audit(5).forgetting.left_out == ["model.norm.weight"]  # type: ignore[union-attr]


def nats_in(out: Path) -> list[float]:
    return list(pd.read_parquet(out / "adapters.parquet")["nats"])


def test_a_folder_from_before_the_base_was_prepared_is_audited_again(folder: Path, tmp_path: Path) -> None:
    """And once more where it is prepared on another text; another base that is prepared changes nothing."""
    base, chosen, out = str(folder / "base"), sources(folder)[:2], tmp_path / "out"
    audit_fleet(base, chosen, out=out, cache=tmp_path / "cache")
    assert pd.isna(nats_in(out)).all()
    shutil.copytree(folder / "cache" / NATS, tmp_path / "cache" / NATS)
    with pytest.warns(UserWarning, match="of another base, prepared text or settings and are replaced"):
        audit_fleet(base, chosen, out=out, cache=tmp_path / "cache")
    first = nats_in(out)
    assert not pd.isna(first).any()

    other = save_llama(tmp_path / "other", width=48)
    kept(str(other), text_of(tmp_path, 20), tmp_path / "cache", sequences=10)
    times = {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}
    audit_fleet(base, chosen, out=out, cache=tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()} == times
    kept(base, text_of(tmp_path, 25, 50), tmp_path / "cache", sequences=40)
    with pytest.warns(UserWarning, match="prepared text"):
        audit_fleet(base, chosen, out=out, cache=tmp_path / "cache")
    assert nats_in(out) != first


def test_what_was_interrupted_goes_on_with_the_responses_that_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, chosen, out, cache = str(folder / "base"), sources(folder)[:3], tmp_path / "out", folder / "cache"
    with stopped_before_files():
        audit_fleet(base, chosen, out=out, cache=cache)
    monkeypatch.setattr(FleetFiles, "keep", lambda *given: pytest.fail("a block is audited again"))
    found = audit_fleet(base, chosen, out=out, cache=cache)
    monkeypatch.undo()
    wanted = audit_fleet(base, chosen, cache=cache)
    assert found.adapters["nats"].tolist() == wanted.adapters["nats"].tolist()
    assert not list((out / "blocks").iterdir())
    assert "responses" not in pd.read_parquet(out / "vectors").columns


def test_damaged_rows_give_no_number_until_the_base_is_prepared_again(folder: Path, tmp_path: Path) -> None:
    base, chosen, out, cache = str(folder / "base"), sources(folder)[:2], tmp_path / "out", tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    (document,) = cache.glob(f"{NATS}/*/{DOCUMENT}")
    next(document.parent.glob("0009-gradients.bin")).write_bytes(b"short")
    with pytest.warns(UserWarning, match="is damaged") as told:
        audit_fleet(base, chosen, out=out, cache=cache)
    assert len(told) == 1
    assert pd.isna(nats_in(out)).all()
    kept(base, text_of(folder, 20), cache, sequences=40)
    with pytest.warns(UserWarning, match="prepared text"):
        audit_fleet(base, chosen, out=out, cache=cache)
    assert not pd.isna(nats_in(out)).any()
