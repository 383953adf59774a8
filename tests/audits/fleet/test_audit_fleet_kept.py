"""What a fleet keeps in its folder: gone on with, grown, moved, broken, on a full disk, and of another base."""

import os
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import intruders
from intruders.audits.batches import loaded_or_skipped
from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.fleet.fleet_files import FleetFiles
from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.opening.open import open_source
from intruders.errors import IntrudersError, ResultFileError
from intruders.reports.fleet import fleet_payload
from intruders.system.files import write_atomically
from tests.audits.fleet.compared_audits import require_equal, stopped_before_files
from tests.tiny import with_update


def test_a_further_adapter_costs_only_itself(
    base: Path,
    adapters: dict[str, str],
    tmp_path: Path,
    read: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base is read once, to know it. Of what is finished no header and no row is read, and nothing judged again.

    Another epsilon is kept beside it.
    """
    opened, asked = [], []

    def opening(source: Any) -> Any:
        opened.append(source)
        return open_source(source)

    out, sources = tmp_path / "out", list(adapters.values())
    audit_fleet(str(base), sources[:3], out=out, cache=False)
    kept = {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}
    assert len(kept) == 3
    assert not list((out / "blocks").iterdir())
    read.clear()
    audit_fleet(str(base), sources[:3], out=out, cache=False)
    assert set(read.values()) == {1}
    read.clear()
    with monkeypatch.context() as patched:
        patched.setattr("intruders.audits.fleet.fleet_members.open_source", opening)
        patched.setattr(pq, "read_table", lambda file, **given: asked.append(file))
        found = audit_fleet(str(base), sources[:4], out=out, cache=False)
    assert (opened, asked) == ([sources[3]], [])
    assert {read[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 1)} == {2}
    assert {read[name] for name in read if "mlp" in name} == {1}, "the new adapter changes no matrix there"
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert len(list((out / "vectors").iterdir())) == 4
    require_equal(found.audit(sources[0]), intruders.audit(base, sources[0], cache=False))
    again = audit_fleet(str(base), sources[:4], out=out, cache=False, epsilon=0.9)
    assert again.intruders > found.intruders
    assert len(list((out / "vectors").iterdir())) == len(list((out / "others").iterdir())) == 4
    assert audit_fleet(str(base), sources[:4], out=out, cache=False).intruders == found.intruders


def tables(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of a folder, the vectors in one order."""
    vectors = pd.read_parquet(out / "vectors").sort_values(["adapter", "name", "index"], ignore_index=True)
    return pd.read_parquet(out / "adapters.parquet"), vectors


@pytest.mark.parametrize("settings", [{}, {"skip_non_finite": True}], ids=str)
def test_a_fleet_that_has_grown_is_a_fresh_one(
    base: Path, adapters: dict[str, str], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Adapter by adapter, with fewer in between, in another order and with a copy: decisions and reasons are the same.

    Numbers are as close as in a batch of others. They are the very same as those that the blocks alone tell.
    """
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    shutil.copytree(adapters["dora"], tmp_path / "copy")
    sources = [*adapters.values(), str(tmp_path / "copy")]
    for count in [1, 4, 2, 7, len(sources)]:
        chosen = sources[:count] if count % 2 else sources[:count][::-1]
        audit_fleet(str(base), chosen, out=grown, cache=False, **settings)
    found = audit_fleet(str(base), sources, out=grown, cache=False, **settings)
    mine, my_vectors = tables(grown)
    wanted = audit_fleet(str(base), sources, out=fresh, cache=False, **settings)
    theirs, their_vectors = tables(fresh)

    assert theirs["duplicate_of"].iloc[-1] == adapters["dora"]
    said = [name for name in mine if mine[name].dtype.kind not in "fb"]
    pd.testing.assert_frame_equal(mine[said], theirs[said], check_dtype=False)
    decided = ["adapter", "name", "index", "intruder", "ambiguous"]
    pd.testing.assert_frame_equal(my_vectors[decided], their_vectors[decided])
    np.testing.assert_allclose(my_vectors["singular_value"], their_vectors["singular_value"], rtol=0.01)
    for name in ("frobenius", "effective_rank", "stable_rank", "update_relative_max", "nearest_cosine"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3)
    for source in (adapters["strong"], adapters["dora"], str(tmp_path / "copy")):
        require_equal(found.audit(source), wanted.audit(source))

    again = audit_fleet(str(base), sources, out=grown, cache=False, **settings)
    for one, other in zip(tables(grown), (mine, my_vectors), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert again.audit(adapters["strong"]) == found.audit(adapters["strong"])
    assert fleet_payload(again) == fleet_payload(found)


@pytest.mark.parametrize("part", ["vectors", "blocks"])
def test_a_broken_file_is_made_again(base: Path, two: list[str], tmp_path: Path, part: str) -> None:
    with stopped_before_files() if part == "blocks" else nullcontext():
        audit_fleet(str(base), two, out=tmp_path, cache=False)
    file = min((tmp_path / part).iterdir())
    file.write_bytes(file.read_bytes()[:100])
    again, fresh = (audit_fleet(str(base), two, out=out, cache=False) for out in (tmp_path, None))
    for position in range(2):
        require_equal(again.audit(position), fresh.audit(position))


@pytest.mark.parametrize("waits", [False, True])
def test_what_has_moved_is_named_where_it_is(base: Path, two: list[str], tmp_path: Path, waits: bool) -> None:
    """A base and an adapter, whose file may wait beside those of the last call; their content tells what they are."""
    out, (strong, weak) = tmp_path / "out", two
    moved = str(shutil.copytree(strong, tmp_path / "moved"))
    moved_base = str(shutil.copytree(base, tmp_path / "base"))
    audit_fleet(str(base), two, out=out, cache=False)
    _, before = tables(out)
    if waits:
        audit_fleet(str(base), [weak], out=out, cache=False)
    audit_fleet(moved_base, [moved, weak], out=out, cache=False)
    table, after = tables(out)
    assert table["adapter"].tolist() == [moved, weak]
    back = after.assign(adapter=after["adapter"].replace(moved, strong))
    back = back.sort_values(["adapter", "name", "index"], ignore_index=True)
    pd.testing.assert_frame_equal(back, before, check_exact=True)
    times = {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}
    assert [Audit.load(file).base_source for file in times] == [moved_base] * 2
    audit_fleet(moved_base, [moved, weak], out=out, cache=False)
    assert {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()} == times


def test_an_adapter_that_changes_is_refused(base: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    """Nothing of the other numbers is kept under the first content's name, which counts when it is back."""
    changing, out = tmp_path / "adapter", tmp_path / "out"
    shutil.copytree(adapters["strong"], changing)
    stamp = (changing / "adapter_model.safetensors").stat()
    sources = [str(changing), adapters["weak"]]

    def change(what: str, done: int, in_all: int) -> None:
        if (changing / "adapter_model.safetensors").stat().st_mtime_ns == stamp.st_mtime_ns:
            shutil.copy(Path(adapters["strong too"]) / "adapter_model.safetensors", changing)

    mixed = audit_fleet(str(base), sources, out=out, cache=False, progress=change)
    assert mixed.adapters["status"].tolist() == ["refused", "audited"]
    assert "changed while it was being read" in mixed.refused[str(changing)]
    shutil.copy(Path(adapters["strong"]) / "adapter_model.safetensors", changing)
    again = audit_fleet(str(base), sources, out=out, cache=False)
    require_equal(again.audit(0), intruders.audit(str(base), adapters["strong"], cache=False))


@pytest.mark.parametrize("is_dated", [True, False])
def test_a_base_that_changes_is_noticed(base: Path, two: list[str], tmp_path: Path, is_dated: bool) -> None:
    """Nothing of the other numbers is kept, and no adapter is refused for them, whatever the file's time says."""
    changing, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base, changing)
    changed = "model.layers.1.self_attn.q_proj.weight"
    other = with_update(base, tmp_path / "other", changed, torch.tensor(0.1))
    stamp = (changing / "model.safetensors").stat()

    def change(what: str, done: int, in_all: int) -> None:
        shutil.copy(other / "model.safetensors", changing / "model.safetensors")
        if not is_dated:
            os.utime(changing / "model.safetensors", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    with pytest.raises(IntrudersError, match="is not what it was when the work began"):
        audit_fleet(str(changing), two, out=out, cache=False, progress=change)
    found = audit_fleet(str(changing), two, out=out, cache=False)
    fresh = audit_fleet(str(other), two, cache=False)
    assert found.refused == {}
    for position in range(2):
        require_equal(found.audit(position), fresh.audit(position))


def test_a_model_of_which_a_block_was_lost_is_not_written(
    base: Path, two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its counts would be too small."""
    keep = FleetFiles.keep

    def lose_one(files: FleetFiles, block: str, *given: Any) -> None:
        if block != "model.layers.1":
            keep(files, block, *given)

    monkeypatch.setattr(FleetFiles, "keep", lose_one)
    said = r"lack 7 of its 14 matrices: 'model\.layers\.1\..*; run the same command again"
    with pytest.raises(ResultFileError, match=said):
        audit_fleet(str(base), two[:1], out=tmp_path / "out", cache=False)
    assert not (tmp_path / "out" / "vectors").exists()


def test_a_disk_that_fills_is_one_line_and_leaves_no_part(
    base: Path, two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is audited is kept: the same call with room for its tables reads no adapter again."""

    def full(path: Path, content: bytes) -> None:
        if path.parent.name != "vectors":
            return write_atomically(path, content)
        raise ResultFileError(f"cannot write '{path}': no space left on device")

    said = r"parquet': no space left on device; what is audited is kept"
    with monkeypatch.context() as patched:
        patched.setattr("intruders.system.store.write_atomically", full)
        with pytest.raises(IntrudersError, match=said):
            audit_fleet(str(base), two, out=tmp_path / "out", cache=False)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert len(list((tmp_path / "out" / "blocks").iterdir())) == 2
    monkeypatch.setattr(FleetFiles, "keep", lambda *given: pytest.fail("a block is audited again"))
    audit_fleet(str(base), two, out=tmp_path / "out", cache=False)
    assert not list((tmp_path / "out" / "blocks").iterdir())


def test_a_url_is_a_folder_too(base: Path, two: list[str]) -> None:
    fsspec = pytest.importorskip("fsspec")
    out = "memory://fleet"
    audit_fleet(str(base), two[:1], out=out, cache=False)
    found = audit_fleet(str(base), two, out=out, cache=False)
    names = {Path(name).name for name in fsspec.filesystem("memory").find("/fleet")}
    assert "adapters.parquet" in names
    assert len(names) == 1 + 2  # of two adapters
    assert found.adapters["matrices"].tolist() == [14, 14]


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_refusal_is_not_kept_when_its_cause_is_gone(
    base: Path,
    adapters: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    is_killed: bool,
) -> None:
    """One matrix cannot be read at first. Of a refused adapter nothing but earlier blocks is kept."""
    out, sources = tmp_path / "out", [adapters[name] for name in ("strong", "weak", "of rank 4")][:count]
    lost = "model.layers.1.self_attn.q_proj.weight"

    def failing(matrix: Any) -> Any:
        if matrix.name == lost:
            raise IntrudersError("the disk is away")
        return loaded_or_skipped(matrix)

    monkeypatch.setattr("intruders.audits.fleet.fleet_work._MATRICES_TOGETHER", 1)  # a block at a time
    with monkeypatch.context() as patched:
        patched.setattr("intruders.audits.batches.loaded_or_skipped", failing)
        if is_killed:
            with stopped_before_files():
                audit_fleet(str(base), sources, out=out, cache=False)
            assert list((out / "blocks").iterdir())
        else:
            first = audit_fleet(str(base), sources, out=out, cache=False)
            assert set(first.refused.values()) == {"the disk is away"}
    sources.append(adapters["patterns"])  # its block is a file that has those of the others again
    again = audit_fleet(str(base), sources, out=out, cache=False)
    assert again.refused == {}
    for source in sources:
        require_equal(again.audit(source), intruders.audit(base, source, cache=False))
    assert not list((out / "blocks").iterdir())
