"""What is kept of bases: found by content alone, and by nothing else."""

import os
import pwd
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import intruders
from intruders.audits.audit import audit
from intruders.audits.base_cache import WHOLE, BaseKeys, DiskCache, MemoryCache, default_folder
from intruders.engine.known_base import KnownBase
from intruders.errors import CacheError, SettingError, StoreError
from intruders.system.files import sibling
from tests.matrices import hot_update, planted_update, with_values

Weights = dict[str, Tensor]

# Sides on both sides of the size from which the Krylov path is taken, tall and wide.
SHAPES = {"small": (24, 16), "square": (270, 270), "tall": (400, 270), "wide": (270, 400)}
# One of each path, for what does not depend on the shape.
FEW = ("small", "wide")


@cache
def all_shapes() -> tuple[Weights, Weights]:
    """A base and a tuned model with a few intruders in every matrix."""
    rng = np.random.default_rng(0)
    base, tuned = {}, {}
    for name, (m, n) in SHAPES.items():
        values = (1.0 + np.arange(min(m, n))) ** -0.5
        update = hot_update if name == "small" else planted_update
        pair = update(with_values(m, n, values, rng), rng)
        base[f"model.{name}.weight"] = pair.base
        tuned[f"model.{name}.weight"] = torch.from_numpy(pair.tuned_double()).float()
    return base, tuned


def models(*names: str) -> tuple[Weights, Weights]:
    """Those matrices of :func:`all_shapes`, or :data:`FEW`."""
    base, tuned = (
        {f"model.{name}.weight": side[f"model.{name}.weight"] for name in names or FEW}
        for side in all_shapes()
    )
    return base, tuned


@cache
def plain(*names: str) -> intruders.Audit:
    return audit(*models(*names), cache=False)


@cache
def exact() -> intruders.Audit:
    return audit(*all_shapes(), exact=True)


def decisions(found: intruders.Audit) -> list[list[bool]]:
    return [[vector.intruder for vector in matrix.vectors] for matrix in found.matrices]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


class WatchedCache(MemoryCache):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []  # whether it was found, but for bases decomposed in full

    def get(self, key: str) -> KnownBase | None:
        known = super().get(key)
        if not key.endswith(WHOLE):
            self.asked.append(known is not None)
        return known


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DiskCache | MemoryCache:
    return DiskCache(tmp_path / "bases") if request.param == "disk" else MemoryCache()


def test_a_warm_audit_answers_as_a_cold_one(store: DiskCache | MemoryCache) -> None:
    cold, warm = (audit(*all_shapes(), cache=store) for _ in range(2))
    # The first one does not know that it is being watched.
    assert cold.matrices == plain(*SHAPES).matrices
    assert cold.intruders > 0
    assert decisions(warm) == decisions(cold)
    assert decisions(exact()) == decisions(cold)
    for matrix, truth in zip(warm.matrices, exact().matrices, strict=True):
        for vector, true in zip(matrix.vectors, truth.vectors, strict=True):
            lower, upper = vector.max_cosine
            assert lower - 1e-4 <= true.max_cosine[0] <= upper + 1e-4
        base_values = np.array(matrix.base_singular_values)
        np.testing.assert_allclose(base_values, truth.base_singular_values[: len(base_values)], rtol=1e-2)


def test_what_was_learnt_of_a_base_serves_another_tuned_model() -> None:
    base, tuned = models()
    other = {name: value + 0.01 * tuned[name].roll(1, 0) for name, value in base.items()}
    store = WatchedCache()
    audit(base, tuned, cache=store)
    assert store.asked == [False, False]
    found = audit(base, other, cache=store)
    assert store.asked == [False, False, True, True]
    assert decisions(found) == decisions(audit(base, other, cache=False))


def test_a_key_tells_contents_shapes_types_and_settings_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 4, generator=generator)
    negative_zero = torch.zeros(6, 4)
    negative_zero[0, 0] = -0.0
    different = [
        (matrix, 10),
        (matrix, 9),
        (matrix.reshape(4, 6), 10),
        (matrix.mT, 10),
        (matrix.double(), 10),
        (-matrix, 10),
        (torch.zeros(6, 4), 10),
        (negative_zero, 10),
        (torch.zeros(0, 4), 10),
        (torch.zeros(4, 0), 10),
    ]
    assert len({BaseKeys.of(*arguments).leading for arguments in different}) == len(different)
    assert BaseKeys.of(matrix.mT.contiguous().mT, 10) == BaseKeys.of(matrix, 10)  # strides are no content


def test_exact_neither_reads_nor_writes() -> None:
    store = WatchedCache()
    audit(*models(), exact=True, cache=store)
    assert (store.asked, store._entries) == ([], {})


def test_size_and_clear(tmp_path: Path) -> None:
    store = DiskCache(tmp_path / "bases")
    assert store.size() == (0, 0)
    audit(*models(), cache=store)
    files = entries(store.folder)
    assert store.size() == (2, sum(path.stat().st_size for path in files))
    sibling(files[0]).write_bytes(b"half a download")
    (files[0].parent / f"{'0' * len(files[0].stem)}.safetensors").mkdir()  # a folder is no entry
    keepsake = store.folder / "notes.txt"
    keepsake.write_text("not an entry")
    # A folder of models, passed by mistake: their weights are no entries, whatever their folders are called.
    weights = [store.folder / "run" / "model.safetensors", store.folder / "a" / "adapter_model.safetensors"]
    for file in weights:
        file.parent.mkdir(exist_ok=True)
        save_file({"w": torch.ones(2, 2)}, file)
    assert store.size()[0] == 2
    assert store.clear() == (2, 0)
    assert store.size() == (0, 0)
    left = [path for path in store.folder.rglob("*") if path.is_file()]
    assert sorted(left) == sorted([keepsake, *weights])
    assert store.clear() == (0, 0)


def test_the_default_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INTRUDERS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "intruders" / "bases"
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "chosen"))
    assert default_folder() == tmp_path / "chosen" / "bases"
    audit(*models(), cache=True)
    assert DiskCache().size()[0] == 2


def test_a_user_without_a_home_keeps_nothing_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as a number: no HOME, and no line in the list of users."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("INTRUDERS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(CacheError, match="set INTRUDERS_CACHE to a folder, or pass one with --cache"):
        default_folder()
    with pytest.warns(UserWarning, match="no home folder and HOME is not set; .*; nothing is kept"):
        audit(*models("small"), cache=True)


@pytest.mark.parametrize("cache", [None, 0, 1, "", {}, ["mine"]])
def test_what_is_no_cache_is_refused(cache: Any) -> None:
    with pytest.raises(SettingError, match=r"^cache is .*; expected True, False, the path of a folder"):
        audit(*models(), cache=cache)


def test_an_update_too_large_for_squares_breaks_no_later_audit(store: DiskCache | MemoryCache) -> None:
    """A training that diverged goes through the dense path, which learns other things of a base than audits expect."""
    base, tuned = models()
    diverged = {name: value + 1e25 * (tuned[name] - value) for name, value in base.items()}
    audit(base, diverged, cache=store)
    assert decisions(audit(base, tuned, cache=store)) == decisions(plain())
    audit(base, diverged, cache=store)
    assert decisions(audit(base, tuned, cache=store)) == decisions(plain())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_entries_have_the_permissions_of_the_umask(open_folder: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        audit(*models("small"), cache=DiskCache(open_folder))
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode & 0o777) for path in entries(open_folder)] == [oct(mode)]


@contextmanager
def another_user() -> Iterator[None]:
    """Not the superuser, who may read and write everything."""
    am_root = os.geteuid() == 0
    if am_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if am_root:
            os.seteuid(0)


def test_what_another_user_may_not_remove_stays(open_folder: Path) -> None:
    weights = {"up.weight": torch.eye(4), "down.weight": torch.eye(5)}  # whose keys begin differently
    intruders.prepare(weights, out=open_folder)
    [mine, theirs] = entries(open_folder)
    theirs.parent.chmod(0o555)
    mine.parent.chmod(0o777)
    sibling(theirs).touch()
    with another_user():
        assert DiskCache(open_folder).clear() == (1, 1)
    assert entries(open_folder) == [theirs]
    theirs.parent.chmod(0o755)


def test_a_folder_is_measured_while_others_clear_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskCache(tmp_path)
    intruders.prepare(models()[0], out=tmp_path)
    [file, other] = entries(tmp_path)
    bytes_of_other = other.stat().st_size
    listed = [file, other]
    monkeypatch.setattr(DiskCache, "_entries", lambda self: listed)
    file.unlink()
    assert store.size() == store.size_of_whole_bases() == (1, bytes_of_other)


def test_a_folder_is_cleared_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being written is left to its writer, and comes after the end of the clearing."""

    def cleared_meanwhile(tensors: Any, file: Any, metadata: Any) -> None:
        DiskCache(tmp_path).clear()
        save_file(tensors, file, metadata=metadata)

    monkeypatch.setattr("safetensors.torch.save_file", cleared_meanwhile)
    assert intruders.prepare(models("small")[0], out=tmp_path).decomposed == 1
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_can_only_be_read_serves_what_it_has(open_folder: Path) -> None:
    """The prepared base of a team: no note where all is there, and one where something is missing."""
    intruders.prepare(models()[0], out=open_folder)
    before = {path: path.stat().st_mtime_ns for path in entries(open_folder)}
    open_folder.chmod(0o555)
    with another_user():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warm = audit(*models(), cache=open_folder)
        said = r"cannot be written to \(Permission denied\)"
        with pytest.warns(UserWarning, match=f"{said}.* not kept$") as told:
            other = audit(*models("tall", "square"), cache=open_folder)
        with pytest.raises(CacheError, match=said):
            intruders.prepare(models("tall")[0], out=open_folder)
    open_folder.chmod(0o777)
    assert decisions(warm) == decisions(plain())
    assert decisions(other) == decisions(plain("tall", "square"))
    assert len(told) == 1
    assert {path: path.stat().st_mtime_ns for path in entries(open_folder)} == before


def test_a_folder_that_can_neither_be_read_nor_written_is_refused(open_folder: Path) -> None:
    open_folder.chmod(0)
    with another_user(), pytest.raises(CacheError, match=r"cannot be written to \(Permission denied\); pass"):
        DiskCache(open_folder)
    open_folder.chmod(0o777)


def test_an_entry_that_another_user_may_not_read_is_computed_again_and_said_so(open_folder: Path) -> None:
    wanted = audit(*models("small"), cache=DiskCache(open_folder))
    for path in entries(open_folder):
        path.chmod(0)
    said = r"cannot be read \(Permission denied\).*computed again"
    with another_user(), pytest.warns(UserWarning, match=said) as told:
        found = audit(*models("small"), cache=DiskCache(open_folder))
    assert found.matrices == wanted.matrices
    assert "broken" not in "".join(str(warning.message) for warning in told)


# --- under a URL whose store fails: an audit needs none, and a preparation is nothing without it

URL = "memory://team/bases"


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A store in memory, without the folder of the URL."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "mine"))
    system = pytest.importorskip("fsspec").filesystem("memory")
    if system.exists("/team"):
        system.rm("/team", recursive=True)
    return system


def failing(*given: Any, **named: Any) -> None:
    raise OSError("503 slow down")


@pytest.mark.parametrize("operation", ["put_file", "get_file", "exists"])
def test_an_audit_goes_on_without_a_store_that_fails(
    operation: str, system: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says so once, the answer is the same, and a later audit sends what is missing there."""
    if operation != "put_file":
        audit(*models(), cache=URL)
        monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "another"))
    with monkeypatch.context() as patched:
        patched.setattr(type(system), operation, failing)
        with pytest.warns(UserWarning, match=r"503 slow down; the audit continues") as told:
            found = audit(*models(), cache=URL)
        assert len(told) == 1
        assert decisions(found) == decisions(plain())
        base, tuned = models()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fleet = intruders.audit_fleet(base, [tuned], cache=URL)
        assert (fleet.refused, fleet.intruders) == ({}, plain().intruders)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decisions(audit(*models(), cache=URL)) == decisions(plain())
    assert len(system.find("/team")) == len(models()[0])


def test_a_preparation_fails_with_its_store(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(system), "put_file", failing)
    with pytest.raises(StoreError, match="503 slow down"):
        intruders.prepare(models()[0], out=URL)
