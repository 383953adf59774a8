"""Many adapters of one base in one pass: each is what an audit of its own finds, and the base is read once."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import save_bert
from transformers import AutoModelForMaskedLM

import intruders
from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.fleet.kept_blocks import KeptBlocks
from intruders.audits.result.audit_result import Audit
from intruders.audits.result.summary import by_kind
from intruders.checkpoints.opening.open import open_checkpoint, open_source
from intruders.errors import IntrudersError, ResultFileError, SettingError
from intruders.reports.fleet.fleet_page import fleet_payload
from intruders.reports.fleet.opinions import with_opinions
from tests.checkpoints.models import saved
from tests.commands import environment
from tests.mitigation.hot import hot_llama, medium_llama, wide_spectrum


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that vectors are found by the Krylov method, with the spectra of trained weights."""
    return saved(wide_spectrum(medium_llama()), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weak and strong ones of several ranks and targets, DoRA, one untrained, one with NaN, and two that do not fit."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {
        "strong": hot_llama(1, 1.5, _model(), r=2),
        "strong too": hot_llama(2, 1.2, _model(), r=2),
        "weak": hot_llama(3, 0.02, _model(), r=2),
        "of rank 4": hot_llama(4, 0.5, _model(), r=4, target_modules=["q_proj", "v_proj"]),
        "patterns": hot_llama(5, 0.5, _model(), r=2, rank_pattern={"q_proj": 4}),
        "dora": hot_llama(6, 0.5, _model(), r=2, use_dora=True),
        "untrained": hot_llama(7, 0.0, _model(), r=2),
        "with NaN": hot_llama(8, 0.5, _model(), r=2),
    }
    found = {name: str(saved(model, folder / name)) for name, model in made.items()}
    weights = folder / "with NaN" / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors[next(reversed(tensors))][0, 0] = torch.nan
    save_file(tensors, weights)
    found["of another base"] = str(saved(hot_llama(9), folder / "of another base"))
    found["missing"] = str(folder / "missing")
    return found


def _model() -> torch.nn.Module:
    return wide_spectrum(medium_llama())


def test_targets_are_kinds_of_module_as_the_audit_lists_them(tmp_path: Path) -> None:
    """BERT has three modules called dense."""
    bert = save_bert(tmp_path / "bert")
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(AutoModelForMaskedLM.from_pretrained(bert), config)
    model.save_pretrained(tmp_path / "adapter")
    fleet = audit_fleet(str(bert), [str(tmp_path / "adapter")], cache=False)
    audited = intruders.audit(str(bert), str(tmp_path / "adapter"), cache=False)
    kinds = {summary.kind for summary in by_kind(audited.matrices)}
    assert "attention.output.dense" in kinds
    assert set(fleet.adapters["targets"][0].split(", ")) == kinds


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each tensor of a base was read."""
    counts: Counter[str] = Counter()

    def counting(source: Any) -> Any:
        checkpoint = open_checkpoint(source)

        def counted(name: str, stored: Any) -> Any:
            def read() -> torch.Tensor:
                counts[name] += 1
                return stored.read()

            return replace(stored, read=read)

        return replace(checkpoint, tensors={n: counted(n, s) for n, s in checkpoint.tensors.items()})

    monkeypatch.setattr("intruders.audits.fleet.audit_fleet.open_checkpoint", counting)
    return counts


def alone(base: Path, adapter: str, **settings: Any) -> Audit | str:
    try:
        return intruders.audit(base, adapter, cache=False, **settings)
    except IntrudersError as error:
        return str(error)


def require_equal(found: Audit, wanted: Audit) -> None:
    """Decisions, names, ranks and reasons are the same, and the sizes of updates.

    Singular values are computed only as closely as a decision asks, and in a stack as closely as the most demanding of
    its members asks: up to a sine of 0.2 of their vectors, they are only that near. With ``exact`` they are the same.
    """
    close = 1e-6 if wanted.exact else 0.01
    assert [one.name for one in found.matrices] == [one.name for one in wanted.matrices]
    assert sorted(map(repr, found.skipped)) == sorted(map(repr, wanted.skipped))
    for mine, theirs in zip(found.matrices, wanted.matrices, strict=True):
        assert (mine.shape, mine.rank) == (theirs.shape, theirs.rank)
        assert [(v.index, v.intruder) for v in mine.vectors] == [
            (v.index, v.intruder) for v in theirs.vectors
        ]
        np.testing.assert_allclose(
            [v.singular_value for v in mine.vectors], [v.singular_value for v in theirs.vectors], rtol=close
        )
        np.testing.assert_allclose(mine.base_singular_values[:5], theirs.base_singular_values[:5], rtol=close)
        for name in ("frobenius", "spectral", "effective_rank", "stable_rank"):
            assert getattr(mine.update, name) == pytest.approx(getattr(theirs.update, name), rel=1e-4), name
        for one, other in zip(mine.vectors, theirs.vectors, strict=True):  # both hold the one true value
            assert (
                max(one.max_cosine[0], other.max_cosine[0])
                <= min(one.max_cosine[1], other.max_cosine[1]) + 1e-4
            )


@pytest.mark.parametrize("settings", [{}, {"exact": True}, {"skip_non_finite": True, "k": 5}], ids=str)
def test_each_adapter_is_what_an_audit_of_its_own_finds(
    base: Path, adapters: dict[str, str], settings: dict[str, Any]
) -> None:
    found = audit_fleet(str(base), list(adapters.values()), cache=False, **settings)
    assert found.adapters["adapter"].tolist() == list(adapters.values())
    for (name, source), row in zip(adapters.items(), found.adapters.to_dict("records"), strict=True):
        wanted = alone(base, source, **settings)
        if isinstance(wanted, str):
            assert (row["status"], row["reason"]) == ("refused", wanted), name
            continue
        assert row["status"] == "audited", name
        assert (row["intruders"], row["vectors"], row["matrices"]) == (
            wanted.intruders,
            wanted.vectors,
            len(wanted.matrices),
        ), name
        if wanted.vectors:
            close = 1e-6 if wanted.exact else 0.01  # as for the singular values
            assert row["energy_share"] == pytest.approx(wanted.intruder_energy_share, abs=close), name
        require_equal(found.audit(source), wanted)
    assert found.intruders > 0
    counts = found.to_pandas().groupby("adapter")["intruder"].sum()
    assert counts.sum() == found.intruders


def test_the_table_says_what_config_and_audit_tell(base: Path, adapters: dict[str, str]) -> None:
    table = audit_fleet(str(base), list(adapters.values()), cache=False).adapters.set_index("adapter")
    rows = {name: table.loc[source] for name, source in adapters.items()}
    opinions = with_opinions(table)["for_hosts"]
    hosts = {name: opinions.loc[source] for name, source in adapters.items()}
    assert rows["patterns"]["rank_min"] == 2
    assert rows["patterns"]["rank_max"] == 4
    assert "differ by module" in hosts["patterns"]
    assert "dora" in hosts["dora"]
    assert rows["of rank 4"]["targets"] == "q_proj, v_proj"
    assert rows["untrained"]["zero_updates"] == 14
    assert rows["untrained"]["matrices"] == 0
    assert rows["strong"]["method"] == "lora"
    wanted = intruders.audit(base, adapters["strong"], cache=False).matrices_to_pandas()
    assert rows["strong"]["update_relative_median"] == pytest.approx(
        wanted["relative_update"].median(), rel=1e-4
    )
    assert rows["strong"]["update_relative_max"] == pytest.approx(wanted["relative_update"].max(), rel=1e-4)
    assert rows["strong"]["frobenius"] == pytest.approx(np.linalg.norm(wanted["frobenius"]), rel=1e-4)
    assert rows["strong"]["effective_rank"] == pytest.approx(wanted["effective_rank"].median(), rel=1e-4)


def test_the_nearest_adapter_is_the_one_with_the_largest_cosine(base: Path, tmp_path: Path) -> None:
    """Of three adapters and a copy of one that was trained on a little; the copy comes in a second call."""
    made = [hot_llama(seed, 0.5, _model(), r=2) for seed in (1, 2, 3)]
    further = copy.deepcopy(made[1])
    torch.manual_seed(0)
    for name, weights in further.named_parameters():
        if "lora_B" in name:
            weights.data += 0.1 * weights.data.std() * torch.randn_like(weights)
    paths = [str(saved(one, tmp_path / f"adapter-{i}")) for i, one in enumerate([*made, further])]
    audit_fleet(str(base), paths[:3], out=tmp_path / "fleet", cache=False)
    table = audit_fleet(str(base), paths, out=tmp_path / "fleet", cache=False).adapters
    before = {name: tensor.double() for name, tensor in _model().state_dict().items()}
    updates = []
    for model in [*made, further]:
        after = copy.deepcopy(model).merge_and_unload().state_dict()
        updates.append(torch.cat([(after[name].double() - before[name]).flatten() for name in before]))
    exact = torch.nn.functional.normalize(torch.stack(updates), dim=-1)
    cosines = (exact @ exact.mT).fill_diagonal_(-1)
    assert table["nearest"].tolist()[1] == paths[3]
    assert table["nearest"].tolist()[3] == paths[1]
    assert cosines[1, 3] > 0.9
    for row in (1, 3):
        assert table["nearest_cosine"][row] == pytest.approx(
            float(cosines[1, 3]), abs=4 * (1 - float(cosines[1, 3]) ** 2) / 16
        )
    for row in (0, 2):
        assert abs(table["nearest_cosine"][row]) < 4 / 16
    again = audit_fleet(str(base), paths, cache=False).adapters
    np.testing.assert_allclose(again["nearest_cosine"], table["nearest_cosine"], rtol=1e-4)


def test_the_base_is_read_once(base: Path, adapters: dict[str, str], read: Counter[str]) -> None:
    audit_fleet(str(base), list(adapters.values()), cache=False)
    matrices = {name: count for name, count in read.items() if "proj" in name}
    assert len(matrices) == 14
    assert set(matrices.values()) == {1}


def test_a_further_adapter_costs_only_itself(
    base: Path, adapters: dict[str, str], tmp_path: Path, read: Counter[str]
) -> None:
    """What is there is not judged again; the base is read once, to know it; another epsilon is kept beside it."""
    out, sources = tmp_path / "out", list(adapters.values())
    audit_fleet(str(base), sources[:3], out=out, cache=False)
    kept = {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}
    assert len(kept) == 3
    assert not list((out / "blocks").iterdir())
    read.clear()
    audit_fleet(str(base), sources[:3], out=out, cache=False)
    assert set(read.values()) == {1}
    read.clear()
    found = audit_fleet(str(base), sources[:4], out=out, cache=False)
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

    Numbers are as close as in a stack of others. They are the very same as those that the blocks alone tell.
    """
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    shutil.copytree(adapters["dora"], tmp_path / "copy")
    sources = [*adapters.values(), str(tmp_path / "copy")]
    for count in [1, 2, 3, 6, 4, 8, len(sources)]:
        chosen = sources[:count] if count % 2 else sources[:count][::-1]
        audit_fleet(str(base), chosen, out=grown, cache=False, **settings)
    found = audit_fleet(str(base), sources, out=grown, cache=False, **settings)
    mine, my_vectors = tables(grown)
    wanted = audit_fleet(str(base), sources, out=fresh, cache=False, **settings)
    theirs, their_vectors = tables(fresh)

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


def test_of_what_is_finished_no_header_and_no_row_is_read(
    base: Path, adapters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sources = tmp_path / "out", list(adapters.values())
    audit_fleet(str(base), sources[:3], out=out, cache=False)
    files = {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}
    opened, asked = [], []

    def opening(source: Any) -> Any:
        opened.append(source)
        return open_source(source)

    monkeypatch.setattr("intruders.audits.fleet.fleet_members.open_source", opening)
    monkeypatch.setattr(pq, "read_table", lambda file, **given: asked.append(file))
    audit_fleet(str(base), sources[:4], out=out, cache=False)
    assert opened == [sources[3]]
    assert asked == []
    assert files.items() < {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}.items()


def test_a_broken_file_of_an_adapter_is_made_again(
    base: Path, adapters: dict[str, str], tmp_path: Path
) -> None:
    out, sources = tmp_path / "out", [adapters["strong"], adapters["weak"]]
    first = audit_fleet(str(base), sources, out=out, cache=False)
    wanted = first.audit(0)
    [file] = [file for file in (out / "vectors").iterdir() if "strong" in file.name]
    file.write_bytes(file.read_bytes()[:200])
    again = audit_fleet(str(base), sources, out=out, cache=False)
    require_equal(again.audit(0), wanted)


def test_tables_mean_what_those_of_an_audit_mean(
    base: Path, adapters: dict[str, str], tmp_path: Path
) -> None:
    """The same columns after the adapter, and a file is a saved audit."""
    out, sources = tmp_path / "out", [adapters["strong"], adapters["weak"]]
    fleet = audit_fleet(str(base), sources, out=out, cache=False)
    audits = [fleet.audit(source) for source in sources]
    assert fleet.vectors == sum(audit.vectors for audit in audits)
    for of_fleet, of_audits in (
        (fleet.to_pandas(), [audit.to_pandas() for audit in audits]),
        (fleet.matrices_to_pandas(), [audit.matrices_to_pandas() for audit in audits]),
    ):
        frames = [frame.assign(adapter=source) for frame, source in zip(of_audits, sources, strict=True)]
        wanted = pd.concat(frames, ignore_index=True)[["adapter", *of_audits[0]]]
        pd.testing.assert_frame_equal(of_fleet, wanted, check_dtype=False, check_exact=False, rtol=1e-12)
    loaded = intruders.FleetAudit.load(out)
    assert loaded.to_document() == fleet.to_document()
    loaded.save(tmp_path / "copy")
    copy = intruders.FleetAudit.load(tmp_path / "copy")
    assert copy.to_document() == fleet.to_document()
    assert copy.audit(1) == audits[1]
    files = (out / "vectors").iterdir()
    assert sorted(Audit.load(file).tuned_source for file in files) == sorted(sources)


def test_an_adapter_that_has_moved_has_its_rows_under_its_new_name(
    base: Path, adapters: dict[str, str], tmp_path: Path
) -> None:
    out, moved = tmp_path / "out", str(tmp_path / "moved")
    shutil.copytree(adapters["strong"], moved)
    audit_fleet(str(base), [adapters["strong"], adapters["weak"]], out=out, cache=False)
    _, before = tables(out)
    audit_fleet(str(base), [moved, adapters["weak"]], out=out, cache=False)
    table, after = tables(out)
    assert table["adapter"].tolist() == [moved, adapters["weak"]]
    back = after.assign(adapter=after["adapter"].replace(moved, adapters["strong"]))
    back = back.sort_values(["adapter", "name", "index"], ignore_index=True)
    pd.testing.assert_frame_equal(back, before, check_exact=True)


def test_changed_files_are_seen(base: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    """An adapter of the same name with other tensors is judged anew, and one of the same tensors is known."""
    out = tmp_path / "out"
    copy = tmp_path / "copy"
    shutil.copytree(adapters["strong"], copy)
    first = audit_fleet(str(base), [adapters["strong"], str(copy)], out=out, cache=False).adapters
    assert first["duplicate_of"].tolist()[1] == adapters["strong"]
    assert first["intruders"].nunique() == 1
    shutil.copy(Path(adapters["weak"]) / "adapter_model.safetensors", copy)
    second = audit_fleet(str(base), [adapters["strong"], str(copy)], out=out, cache=False).adapters
    assert second["duplicate_of"].isna().all()
    assert second["intruders"].tolist()[1] == 0


def with_other_numbers(base: Path, folder: Path, in_names: str, factor: float = 1.5) -> Path:
    """A copy of a base in which some tensors are others; their names, shapes and types, and all norms, stay."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if in_names in name:
            tensor[: len(tensor) // 2] *= factor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("changed", ["q_proj", "layers.1.mlp.down_proj", "embed_tokens"])
def test_another_base_over_the_same_folder_has_its_own_results(
    base: Path, adapters: dict[str, str], tmp_path: Path, changed: str
) -> None:
    """Its norms and shapes are the same; what is kept of the first one is there again when that is audited again."""
    other, sources = with_other_numbers(base, tmp_path / "other", changed, 40.0), list(adapters.values())
    out = tmp_path / "out"
    first = audit_fleet(str(base), sources, out=out, cache=False)
    kept = {file: file.stat().st_mtime_ns for file in (out / "vectors").iterdir()}
    before = first.to_pandas()
    with pytest.warns(UserWarning, match="are replaced"):
        second = audit_fleet(str(other), sources, out=out, cache=False)
    fresh = audit_fleet(str(other), sources, cache=False)
    assert second.adapters["intruders"].equals(fresh.adapters["intruders"])
    mine, theirs = (
        fleet.to_pandas().sort_values(["adapter", "name", "index"])["singular_value"].tolist()
        for fleet in (second, fresh)
    )
    assert mine == pytest.approx(theirs)
    if changed != "embed_tokens":  # which no adapter changes
        assert mine != before.sort_values(["adapter", "name", "index"])["singular_value"].tolist()
    with pytest.warns(UserWarning, match="are replaced"):
        again = audit_fleet(str(base), sources, out=out, cache=False)
    assert again.to_pandas().equals(before)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_a_base_that_changes_while_its_fleet_is_audited_is_noticed(
    base: Path, adapters: dict[str, str], tmp_path: Path
) -> None:
    """Nothing of the other numbers is kept, and no adapter is refused for them."""
    changing, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base, changing)
    other = with_other_numbers(base, tmp_path / "other", "layers.1.self_attn.q_proj")
    stamp = (changing / "model.safetensors").stat()

    def change(what: str, done: int, in_all: int) -> None:
        shutil.copy(other / "model.safetensors", changing / "model.safetensors")
        os.utime(changing / "model.safetensors", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    sources = [adapters["strong"], adapters["weak"]]
    with pytest.raises(IntrudersError, match="is not what it was when the work began"):
        audit_fleet(str(changing), sources, out=out, cache=False, progress=change)
    found = audit_fleet(str(changing), sources, out=out, cache=False)
    fresh = audit_fleet(str(other), sources, cache=False)
    assert found.refused == {}
    assert found.adapters["intruders"].tolist() == fresh.adapters["intruders"].tolist()


def interrupted(base: Path, sources: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet that is stopped when its blocks are done and no adapter has a file."""

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("intruders.audits.fleet.audit_fleet.finish_adapters", stop)
        with pytest.raises(KeyboardInterrupt):
            audit_fleet(str(base), sources, out=out, cache=False)


def test_a_broken_block_is_made_again(
    base: Path, adapters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sources = tmp_path / "out", [adapters["strong"], adapters["weak"]]
    interrupted(base, sources, out, monkeypatch)
    file = next(iter((out / "blocks").iterdir()))
    file.write_bytes(file.read_bytes()[:100])
    again = audit_fleet(str(base), sources, out=out, cache=False).adapters
    fresh = audit_fleet(str(base), sources, cache=False).adapters
    assert again["intruders"].tolist() == fresh["intruders"].tolist()


def test_tables_are_written(base: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    found = audit_fleet(str(base), list(adapters.values()), out=tmp_path / "out", cache=False)
    table = pq.read_table(tmp_path / "out" / "adapters.parquet")
    assert table["intruders"].to_pylist()[0] == found.audit(0).intruders
    assert json.loads(table.schema.metadata[b"intruders"])["totals"]["adapters"] == len(adapters)
    vectors = pd.read_parquet(tmp_path / "out" / "vectors")
    assert len(vectors) == found.adapters["vectors"].sum()
    assert vectors.groupby("adapter").size().to_dict() == {
        row.adapter: row.vectors
        for row in found.adapters.itertuples()
        if row.status == "audited" and row.vectors
    }


def test_a_disk_that_fills_is_one_line_and_leaves_no_part(
    base: Path, adapters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is audited is kept: the same call with room for its tables reads no adapter again."""

    def full(path: Path, content: bytes) -> None:
        raise ResultFileError(f"cannot write '{path}': no space left on device")

    sources = [adapters["strong"], adapters["weak"]]
    with monkeypatch.context() as patched:
        patched.setattr("intruders.audits.fleet.adapter_files.write_atomically", full)
        with pytest.raises(
            IntrudersError, match=r"parquet': no space left on device; what is audited is kept"
        ):
            audit_fleet(str(base), sources, out=tmp_path / "out", cache=False)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert len(list((tmp_path / "out" / "blocks").iterdir())) == 2
    monkeypatch.setattr(KeptBlocks, "keep", lambda *given: pytest.fail("a block is audited again"))
    audit_fleet(str(base), sources, out=tmp_path / "out", cache=False)
    assert not list((tmp_path / "out" / "blocks").iterdir())


def test_a_url_is_a_folder_too(base: Path, adapters: dict[str, str]) -> None:
    fsspec = pytest.importorskip("fsspec")
    out = "memory://fleet"
    audit_fleet(str(base), [adapters["strong"]], out=out, cache=False)
    found = audit_fleet(str(base), [adapters["strong"], adapters["weak"]], out=out, cache=False)
    names = {Path(name).name for name in fsspec.filesystem("memory").find("/fleet")}
    assert "adapters.parquet" in names
    assert len(names) == 1 + 2  # of two adapters
    assert found.adapters["matrices"].tolist() == [14, 14]


def test_globs_lists_and_folders(base: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    folder = Path(adapters["weak"]).parent
    listed = tmp_path / "list.txt"
    listed.write_text(f"# some\n\n{adapters['strong']}\n{folder}/weak*\n")
    found = audit_fleet(str(base), f"@{listed}", cache=False)
    assert found.adapters["adapter"].tolist() == [adapters["strong"], adapters["weak"]]
    assert len(audit_fleet(str(base), [str(folder)], cache=False, include="*q_proj*").adapters) == 9
    for wrong, said in [("nothing*", "matches no file"), ("@nothing.txt", "cannot be read")]:
        with pytest.raises(SettingError, match=said):
            audit_fleet(str(base), [wrong], cache=False)
    with pytest.raises(SettingError, match="no adapter was given"):
        audit_fleet(str(base), [], cache=False)


def test_models_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import huggingface_hub

    from intruders.checkpoints.opening.many_sources import each_source
    from intruders.errors import CheckpointError

    items = [
        SimpleNamespace(item_id="org/one", item_type="model"),
        SimpleNamespace(item_id="org/data", item_type="dataset"),
    ]
    monkeypatch.setattr(huggingface_hub, "get_collection", lambda slug: SimpleNamespace(items=items))
    assert each_source(["collection:org/some-123"]).models == ["org/one"]

    def unknown(slug: str) -> None:
        raise ValueError("no such collection")

    monkeypatch.setattr(huggingface_hub, "get_collection", unknown)
    with pytest.raises(CheckpointError, match="'org/some-123' cannot be fetched"):
        each_source(["collection:org/some-123"])


@pytest.mark.slow
def test_a_thousand_adapters_need_little_memory_each(tmp_path: Path) -> None:
    """Peaks of ten and of a thousand, in a process of its own each."""
    import subprocess
    import sys

    weights = {f"layers.{i}.q_proj.weight": torch.randn(16, 16) for i in range(2)}
    save_file(weights, tmp_path / "base.safetensors")
    generator = torch.Generator().manual_seed(0)
    for number in range(1000):
        folder = tmp_path / "adapters" / f"{number:04d}"
        folder.mkdir(parents=True)
        tensors = {}
        for name in weights:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(2, 16, generator=generator)
            tensors[f"{module}.lora_B.weight"] = torch.randn(16, 2, generator=generator)
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    script = (
        "import sys, intruders\n"
        "from benchmarks.memory import resident_peak\n"
        "found = intruders.audit_fleet(sys.argv[1], sys.argv[2:3], cache=False, out=sys.argv[3])\n"
        "assert found.adapters['matrices'].eq(2).all()\n"
        "print(len(found.adapters), resident_peak())\n"
    )

    def peak(adapters: str, out: str) -> tuple[int, int]:
        command = [
            sys.executable,
            "-c",
            script,
            str(tmp_path / "base.safetensors"),
            adapters,
            str(tmp_path / out),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
        count, size = done.stdout.split()
        return int(count), int(size)

    folder = str(tmp_path / "adapters")
    (few, start), (many, end) = peak(f"{folder}/000?", "few"), peak(folder, "many")
    assert (few, many) == (10, 1000)
    # Headers of four tensors and twenty rows of vectors until they are written: 74 kB each when this was written.
    assert (end - start) / (many - few) < 128 * 2**10
