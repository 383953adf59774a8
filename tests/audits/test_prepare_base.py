"""Bases decomposed ahead of their audits: kept, gone on with, made again where damaged, and used."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import intruders
from intruders.audits.base_cache import DiskCache
from intruders.checkpoints.stored.selection import AS_AUDITED
from intruders.errors import NonFiniteError, SettingError
from intruders.linalg.whole_base import WholeBase
from tests.tiny import lora

SIDE = 300


def falling(*shapes: tuple[int, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"layers.{i}.weight": torch.randn(shape, generator=generator) * torch.arange(1, shape[1] + 1) ** -0.5
        for i, shape in enumerate(shapes or [(SIDE, SIDE), (SIDE, 350), (350, SIDE)])
    }


def adapter_of(base: dict[str, Tensor], size: float = 60.0, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, matrix in base.items():
        m, n = matrix.shape
        a = torch.randn(2, n, generator=generator) / n**0.5
        found[name.removesuffix(".weight")] = size * torch.randn(m, 2, generator=generator) / m**0.5, a
    return lora(found)


def certificates(audit: intruders.Audit) -> set[str]:
    return {vector.certificate for matrix in audit.matrices for vector in matrix.vectors}


def test_a_prepared_base_is_judged_in_its_coordinates(tmp_path: Path) -> None:
    base = falling()
    prepared = intruders.prepare(base, out=tmp_path / "bases")
    assert (prepared.matrices, prepared.decomposed) == (3, 3)
    assert DiskCache(tmp_path / "bases").size_of_whole_bases()[0] == 3
    adapter = adapter_of(base)
    for k in (10, 5):
        audit = intruders.audit(base, adapter, k=k, cache=tmp_path / "bases")
        exact = intruders.audit(base, adapter, k=k, exact=True)
        assert certificates(audit) == {"coordinates"}
        assert audit.intruders == exact.intruders > 0
        for mine, theirs in zip(audit.matrices, exact.matrices, strict=True):
            for one, other in zip(mine.vectors, theirs.vectors, strict=True):
                assert one.max_cosine == pytest.approx(other.max_cosine, abs=1e-3)
                assert one.singular_value == pytest.approx(other.singular_value, rel=1e-6)
    fleet = intruders.audit_fleet(base, [adapter, adapter_of(base, 0.1)], cache=tmp_path / "bases")
    assert certificates(fleet.audit(0)) == {"coordinates"}
    assert fleet.audit(0).intruders == intruders.audit(base, adapter, exact=True).intruders


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = WholeBase.of
    calls = 0

    def stopped(matrix: Tensor) -> WholeBase:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return made(matrix)

    monkeypatch.setattr(WholeBase, "of", stopped)
    with pytest.raises(KeyboardInterrupt):
        intruders.prepare(falling(), out=tmp_path)
    monkeypatch.setattr(WholeBase, "of", made)
    again = intruders.prepare(falling(), out=tmp_path)
    assert (again.matrices, again.decomposed) == (3, 1)
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".safetensors"}


def test_what_is_chosen_and_what_cannot_be_decomposed(tmp_path: Path) -> None:
    base = falling() | {"embed_tokens.weight": torch.randn(30, 8), "norm.weight": torch.ones(8)}
    assert intruders.prepare(base, out=tmp_path, include="layers.0.*").matrices == 1
    assert intruders.prepare(base, out=tmp_path, exclude="layers.0.*").matrices == 2
    assert intruders.prepare(base, out=tmp_path, include_embeddings=True).decomposed == 1
    with pytest.raises(SettingError, match="no matrix to decompose"):
        intruders.prepare(base, out=tmp_path, exclude="*")
    with pytest.raises(SettingError, match="matches none"):
        intruders.prepare(base, out=tmp_path, include="nothing.*")
    with pytest.raises(NonFiniteError, match=r"'up\.weight' contains NaN or infinity in the base"):
        intruders.prepare({"up.weight": torch.full((4, 4), torch.nan)}, out=tmp_path)


def test_the_size_is_told_before(tmp_path: Path) -> None:
    from intruders.audits.prepare_base import Preparation

    preparation = Preparation.of(falling(), AS_AUDITED)
    prepared = intruders.prepare(falling(), out=tmp_path)
    assert prepared.bytes == preparation.bytes == 4 * (600 * 300 + 2 * 650 * 300)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert prepared.bytes < stored < 1.02 * prepared.bytes
    assert preparation.expected_seconds(torch.device("cpu")) > 0


def test_a_url_is_a_folder_that_others_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec, url = pytest.importorskip("fsspec"), "memory://bases"
    base = falling()
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "first"))
    prepared = intruders.prepare(base, out=url)
    assert (prepared.folder, prepared.decomposed) == (url, 3)
    entries = [
        name for name in fsspec.filesystem("memory").find("/bases") if name.endswith("-all.safetensors")
    ]
    assert len(entries) == 3
    # What was lost there is sent again from the copies.
    fsspec.filesystem("memory").rm(entries[2])
    assert intruders.prepare(base, out=url).decomposed == 0
    assert fsspec.filesystem("memory").exists(entries[2])
    # Another person's machine has no copies yet.
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "elsewhere"))
    assert intruders.prepare(base, out=url).decomposed == 0
    assert certificates(intruders.audit(base, adapter_of(base), cache=url)) == {"coordinates"}
    # What was damaged on the way is made again, and put in the place of the old one.
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "third"))
    fsspec.filesystem("memory").pipe(entries[0], b"no tensors")
    with pytest.warns(UserWarning, match="is broken and is computed again"):
        assert intruders.prepare(base, out=url).decomposed == 1
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "fourth"))
    assert intruders.prepare(base, out=url).decomposed == 0
