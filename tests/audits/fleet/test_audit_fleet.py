"""Many adapters of one base in one pass: each is what an audit of its own finds, and the base is read once."""

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import intruders
from intruders.audits.fleet import fleet_work
from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.result.audit_result import Audit
from intruders.audits.result.summary import by_kind
from intruders.errors import IntrudersError, ResultFileError, SettingError
from intruders.reports.fleet import with_opinions
from tests.audits.fleet.compared_audits import medium_model, require_equal
from tests.checkpoints.models import saved
from tests.commands import environment
from tests.mitigation.hot import hot_llama
from tests.tiny import lora, save_lora


def test_targets_are_kinds_of_module_as_the_audit_lists_them() -> None:
    """BERT has three modules called dense."""
    places = ("attention.output.dense", "intermediate.dense", "output.dense")
    names = [f"encoder.layer.{layer}.{place}" for layer in (0, 1) for place in places]
    base = {f"{name}.weight": torch.eye(9) for name in names}
    adapter = lora(dict.fromkeys(names, (torch.ones(9, 1), torch.ones(1, 9))))
    kinds = {summary.kind for summary in by_kind(intruders.audit(base, adapter, cache=False).matrices)}
    fleet = audit_fleet(base, [adapter], cache=False)
    assert set(fleet.adapters["targets"][0].split(", ")) == kinds == set(places)


def test_a_fleet_says_where_no_temporary_file_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(SettingError, match=f"'{tmp_path}/none': .*; pass a folder as out, or set TMPDIR"):
        audit_fleet("base", ["adapter"], cache=False)


def test_a_name_that_is_not_utf8_is_refused(base: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    good = next(iter(adapters.values()))
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/adapters/caf\xe9")
    shutil.copytree(good, odd)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/adapters/not\xe9")).touch()
    fleet = audit_fleet(str(base), [good, str(tmp_path / "adapters")], out=tmp_path / "out", cache=False)
    assert fleet.adapters["status"].tolist() == ["audited", "refused"]
    (reason,) = fleet.refused.values()
    assert "caf\\udce9' is not UTF-8, as results must be; rename the file or folder" in reason
    assert fleet.passed_over == {f"{tmp_path}/adapters/not\\udce9": "no weights"}
    read = pq.read_table(tmp_path / "out" / "adapters.parquet").column("adapter").to_pylist()
    assert read == [good, f"{tmp_path}/adapters/caf\\udce9"]


def alone(base: Path, adapter: str, **settings: Any) -> Audit | str:
    try:
        return intruders.audit(base, adapter, cache=False, **settings)
    except IntrudersError as error:
        return str(error)


@pytest.mark.parametrize("settings", [{}, {"exact": True}, {"skip_non_finite": True, "k": 5}], ids=str)
def test_each_adapter_is_what_an_audit_of_its_own_finds(
    base: Path, adapters: dict[str, str], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "exact" in settings:  # the rows of one adapter are read after the other, and not of all together
        monkeypatch.setattr(fleet_work, "_VECTORS_AT_ONCE", 1)
    found = audit_fleet(str(base), list(adapters.values()), cache=False, **settings)
    assert found.adapters["adapter"].tolist() == list(adapters.values())
    for (name, source), row in zip(adapters.items(), found.adapters.to_dict("records"), strict=True):
        wanted = alone(base, source, **settings)
        if isinstance(wanted, str):
            assert (row["status"], row["reason"]) == ("refused", wanted), name
            continue
        assert row["status"] == "audited", name
        counts = wanted.intruders, wanted.vectors, len(wanted.matrices)
        assert (row["intruders"], row["vectors"], row["matrices"]) == counts, name
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
    relative = wanted["relative_update"]
    assert rows["strong"]["update_relative_median"] == pytest.approx(relative.median(), rel=1e-4)
    assert rows["strong"]["update_relative_max"] == pytest.approx(relative.max(), rel=1e-4)
    assert rows["strong"]["frobenius"] == pytest.approx(np.linalg.norm(wanted["frobenius"]), rel=1e-4)
    assert rows["strong"]["effective_rank"] == pytest.approx(wanted["effective_rank"].median(), rel=1e-4)


def test_the_nearest_adapter_is_the_one_with_the_largest_cosine(base: Path, tmp_path: Path) -> None:
    """Of three adapters and a copy of one that was trained on a little; the copy comes in a second call."""
    made = [hot_llama(seed, 0.5, medium_model(), r=2) for seed in (1, 2, 3)]
    further = copy.deepcopy(made[1])
    torch.manual_seed(0)
    for name, weights in further.named_parameters():
        if "lora_B" in name:
            weights.data += 0.1 * weights.data.std() * torch.randn_like(weights)
    paths = [str(saved(one, tmp_path / f"adapter-{i}")) for i, one in enumerate([*made, further])]
    audit_fleet(str(base), paths[:3], out=tmp_path / "fleet", cache=False)
    table = audit_fleet(str(base), paths, out=tmp_path / "fleet", cache=False).adapters
    before = {name: tensor.double() for name, tensor in medium_model().state_dict().items()}
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


def test_tables_mean_what_those_of_an_audit_mean(base: Path, two: list[str], tmp_path: Path) -> None:
    """The same columns after the adapter, and a file is a saved audit."""
    out = tmp_path / "out"
    fleet = audit_fleet(str(base), two, out=out, cache=False)
    audits = [fleet.audit(source) for source in two]
    assert fleet.vectors == sum(audit.vectors for audit in audits)
    for of_fleet, of_audits in (
        (fleet.to_pandas(), [audit.to_pandas() for audit in audits]),
        (fleet.matrices_to_pandas(), [audit.matrices_to_pandas() for audit in audits]),
    ):
        frames = [frame.assign(adapter=source) for frame, source in zip(of_audits, two, strict=True)]
        wanted = pd.concat(frames, ignore_index=True)[["adapter", *of_audits[0]]]
        pd.testing.assert_frame_equal(of_fleet, wanted, check_dtype=False, check_exact=False, rtol=1e-12)
    loaded = intruders.FleetAudit.load(out)
    assert loaded.to_document() == fleet.to_document()
    loaded.save(tmp_path / "copy")
    copy = intruders.FleetAudit.load(tmp_path / "copy")
    assert copy.to_document() == fleet.to_document()
    assert copy.audit(1) == audits[1]
    files = (out / "vectors").iterdir()
    assert sorted(Audit.load(file).tuned_source for file in files) == sorted(two)


def test_the_matrices_of_models_of_one_name_stay_apart() -> None:
    """All state dicts have one name."""
    base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}
    models = [{"up.weight": base["up.weight"] + strength / 9} for strength in (100, 0.01, 100)]
    matrices = audit_fleet(base, models, k=3, cache=False).matrices_to_pandas()
    assert matrices["adapter"].nunique() == 1
    assert matrices["vectors"].tolist() == [3, 3, 3]
    assert matrices["intruders"].tolist() == [1, 0, 1]


def test_an_adapter_is_named_by_its_source_or_its_position(base: Path, two: list[str]) -> None:
    """A position may come from NumPy, as the row with the most intruders does, and a source may be a path."""
    sources = two[::-1]
    fleet = audit_fleet(str(base), sources, cache=False)
    most = fleet.adapters["intruders"].to_numpy(float).argmax()
    assert isinstance(most, np.integer)
    for named in (most, -1, sources[1], Path(sources[1])):
        assert fleet.audit(named).tuned_source == sources[1]
    for missing in (2, -3, np.int64(100), "nobody's", Path("nobody's")):
        with pytest.raises(SettingError, match=f"^'{missing}' is not in this fleet of 2; expected a source"):
            fleet.audit(missing)


def test_a_fleet_saved_over_another_has_its_own_files(base: Path, two: list[str], tmp_path: Path) -> None:
    """``vectors`` is read as one table; what is no longer of it is kept beside it."""

    def adapters_in(folder: str) -> list[str]:
        return list(pd.read_parquet(tmp_path / folder)["adapter"].unique())

    larger = audit_fleet(str(base), two, cache=False)
    larger.save(tmp_path)
    audit_fleet(str(base), two[:1], cache=False).save(tmp_path)
    assert (adapters_in("vectors"), adapters_in("others")) == (two[:1], two[1:])
    larger.save(tmp_path)
    assert adapters_in("vectors") == sorted(two)
    assert not list((tmp_path / "others").iterdir())


def test_globs_lists_and_folders(base: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    folder = Path(adapters["weak"]).parent
    listed = tmp_path / "list.txt"
    listed.write_text(f"# some\n\n{adapters['strong']}\n{folder}/weak*\n")
    found = audit_fleet(str(base), f"@{listed}", cache=False)
    assert found.adapters["adapter"].tolist() == [adapters["strong"], adapters["weak"]]
    assert len(audit_fleet(str(base), [str(folder)], cache=False, include="*q_proj*").adapters) == 9
    with pytest.raises(SettingError, match="no adapter"):
        audit_fleet(str(base), [], cache=False)


@pytest.mark.slow
def test_hundreds_of_adapters_need_little_memory_each(tmp_path: Path) -> None:
    """The peak of a process that audits a hundred, and then four hundred."""
    weights = {f"layers.{i}.q_proj.weight": torch.randn(16, 16) for i in range(2)}
    save_file(weights, tmp_path / "base.safetensors")
    generator = torch.Generator().manual_seed(0)
    for number in range(400):
        a, b = (torch.randn(shape, generator=generator) for shape in ((2, 16), (16, 2)))
        modules = {f"layers.{layer}.q_proj": (b, a) for layer in range(2)}
        save_lora(tmp_path / "adapters" / f"{number:03d}", modules)
    script = (
        "import sys, intruders\n"
        "from benchmarks.memory import resident_peak\n"
        "for adapters in sys.argv[3:]:\n"
        "    fleet = intruders.audit_fleet(sys.argv[1], [adapters], cache=False, out=sys.argv[2])\n"
        "    assert fleet.adapters['matrices'].eq(2).all()\n"
        "    print(len(fleet.adapters), resident_peak())\n"
    )
    base, out, folder = tmp_path / "base.safetensors", tmp_path / "out", tmp_path / "adapters"
    command = [sys.executable, "-c", script, *map(str, (base, out, folder / "0??", folder))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    (few, start), (many, end) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (100, 400)
    # Headers of four tensors and twenty rows of vectors until they are written: 74 kB each when this was written.
    assert (end - start) / (many - few) < 128 * 2**10


@pytest.mark.parametrize("factor", [1e18, 1e25, 3e37])
def test_an_adapter_that_diverged_to_large_numbers_does_not_end_its_fleet(factor: float) -> None:
    """Its row has numbers, and those of the others are the ones without it."""
    generator = torch.Generator().manual_seed(4)
    names = [f"model.layers.{layer}.q_proj" for layer in range(2)]
    base = {f"{name}.weight": torch.randn(48, 48, generator=generator) for name in names}

    def adapter(size: float) -> dict[str, torch.Tensor]:
        shapes = (48, 2), (2, 48)
        b, a = (size * torch.rand(shape, generator=generator) for shape in shapes)
        return lora(dict.fromkeys(names, (b, a)))

    others = [adapter(1.0), adapter(0.1)]
    alone = audit_fleet(base, others, cache=False).adapters
    table = audit_fleet(base, [*others, adapter(factor)], cache=False).adapters
    assert table["status"].tolist() == ["audited"] * 3
    assert table["intruders"][:2].tolist() == alone["intruders"].tolist()
    np.testing.assert_allclose(table["frobenius"][:2], alone["frobenius"], rtol=1e-6)
    own = table["nearest_cosine"][2]
    assert pd.isna(own) or -1 <= own <= 1


def _in_memory() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(12, 8, generator=generator) for name in ("up.weight", "down.weight")}
    tuned = {name: weight + 3 * torch.randn(12, 1, generator=generator) for name, weight in weights.items()}
    return weights, tuned


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, lambda fleet: pickle.loads(pickle.dumps(fleet))])
def test_a_copy_outlives_the_fleet_whose_folder_was_temporary(way: Any, tmp_path: Path) -> None:
    weights, tuned = _in_memory()
    alone = intruders.audit(weights, tuned, cache=False).to_pandas()
    fleet = audit_fleet(weights, tuned, cache=False)
    copied, folder = way(fleet), fleet.folder
    del fleet
    gc.collect()
    assert not folder.exists(), "the case shows something"
    for one in (copied, pickle.loads(pickle.dumps(copied))):
        assert one.to_pandas()["singular_value"].tolist() == alone["singular_value"].tolist()
    copied.save(tmp_path)
    assert len(list((tmp_path / "vectors").iterdir())) == 1
    assert len(pickle.loads(pickle.dumps(intruders.FleetAudit.load(tmp_path))).to_pandas()) == len(alone)


def test_fleets_of_the_same_tables_are_equal(tmp_path: Path) -> None:
    weights, tuned = _in_memory()
    fleet = audit_fleet(weights, tuned, cache=False)
    fleet.save(tmp_path)
    assert fleet == intruders.FleetAudit.load(tmp_path)
    assert fleet == copy.deepcopy(fleet) == audit_fleet(weights, tuned, cache=False)
    weaker = {name: weight + 0.5 * (tuned[name] - weight) for name, weight in weights.items()}
    assert fleet != audit_fleet(weights, weaker, cache=False)
    assert fleet != audit_fleet(weights, tuned, cache=False, epsilon=0.4)
    assert fleet != fleet.to_document()


def test_a_fleet_whose_files_are_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    weights, tuned = _in_memory()
    fleet = audit_fleet(weights, tuned, cache=False)
    shutil.rmtree(fleet.folder / "vectors")
    for use in (
        fleet.to_pandas,
        fleet.matrices_to_pandas,
        lambda: fleet.not_compared,
        lambda: fleet.save(tmp_path / "saved"),
    ):
        with pytest.raises(ResultFileError, match=r"has no file of the adapter .*; run intruders fleet"):
            use()
    assert not (tmp_path / "saved" / "adapters.parquet").exists()


def test_one_model_is_a_fleet_of_one(tmp_path: Path) -> None:
    """A state dict may be iterated too, and a path is no list."""
    weights, tuned = _in_memory()
    file = tmp_path / "tuned.safetensors"
    save_file(tuned, file)
    count = intruders.audit(weights, tuned, cache=False).intruders
    assert count > 0, "the case shows something"
    for given in (tuned, file, str(file)):
        assert audit_fleet(weights, given, cache=False).adapters["intruders"].tolist() == [count]
