"""Where an audit computes: what `auto` takes, what is refused, and that workers and precision change no record."""

from __future__ import annotations

import warnings

import pytest
import torch

import intruders
from intruders.audits import audit_settings
from intruders.audits.audit_settings import Compute
from intruders.audits.base_cache import MemoryCache
from intruders.audits.batches import device_for
from intruders.engine import decide as decide_module
from intruders.errors import SettingError
from intruders.linalg import full_precision
from tests.audits.test_base_cache import all_shapes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def records(**how: object) -> list[tuple[object, ...]]:
    audit = intruders.audit(*all_shapes(), cache=False, **how)  # type: ignore[arg-type]
    return [
        (matrix.name, vector.index, vector.intruder, vector.ambiguous, vector.certificate)
        for matrix in audit.matrices
        for vector in matrix.vectors
    ]


def test_workers_and_precision_change_no_record() -> None:
    stores = {workers: MemoryCache() for workers in (1, 2, 5)}
    for _ in range(2):  # without what is known of the base, and with it
        first, *others = (
            intruders.audit(*all_shapes(), workers=workers, cache=store).matrices
            for workers, store in stores.items()
        )
        assert all(matrices == first for matrices in others), "to the last bit"
    expected = records()
    assert sum(bool(record[2]) for record in expected) > 3
    torch.set_float32_matmul_precision("medium")
    try:
        assert records(workers=2) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("covered", [True, False])
def test_auto_takes_cuda_only_where_the_proofs_cover_it(
    covered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(full_precision, "is_covered", lambda device: covered or device.type == "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Compute("auto").torch_device() == (CUDA if covered else CPU)


def test_a_device_that_is_named_and_not_covered_decides_in_full_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (full_precision, decide_module):
        monkeypatch.setattr(module, "is_covered", lambda device: False)
    with pytest.warns(UserWarning, match="on device 'cpu' are not known to be as exact as the proofs need"):
        certificates = {record[-1] for record in records(device="cpu")}
    assert certificates == {"exact"}


def test_a_device_without_double_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_settings, "_has_double_precision", lambda device: False)
    with pytest.raises(SettingError, match="device 'cpu' has no double precision"):
        Compute("cpu").torch_device()


def test_small_matrices_stay_on_the_processor() -> None:
    assert device_for((127, 4000), CUDA) == CPU
    assert device_for((4000, 128), CUDA) == CUDA
    assert device_for((128, 128), CPU) == CPU
