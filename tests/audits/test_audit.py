"""The audit of a model in memory: what is examined, in which order and units, and what is refused."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import intruders
from intruders.audits.audit import audit
from intruders.audits.audit_settings import Compute
from intruders.audits.base_cache import MemoryCache
from intruders.audits.batches import device_for
from intruders.engine import decide as decide_module
from intruders.errors import IntrudersError, NonFiniteError, SettingError
from intruders.linalg import full_precision
from tests.audits.test_base_cache import all_shapes

Weights = dict[str, Tensor]


def weights(seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def matrix(m: int, n: int) -> Tensor:
        return torch.randn(m, n, generator=generator) / n**0.5

    found = {"model.embed_tokens.weight": matrix(50, 12)}
    for layer in range(11):
        found[f"model.layers.{layer}.self_attn.q_proj.weight"] = matrix(12, 12)
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = matrix(20, 12)
        found[f"model.layers.{layer}.norm.weight"] = torch.ones(12)
    return found


def with_intruder(matrix: Tensor, strength: float = 30.0) -> Tensor:
    """The matrix with one direction that mixes all its left singular vectors alike."""
    u, _, vt = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    mix = u.sum(1) / u.shape[1] ** 0.5
    return (matrix.double() + strength * torch.from_numpy(np.outer(mix, vt[0]))).float()


def tuned_weights(*changed: str, base: Weights | None = None) -> Weights:
    base = weights() if base is None else base
    return {name: with_intruder(value) if name in changed else value for name, value in base.items()}


LAST, FIRST = "model.layers.10.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.weight"


def run(base: Any, tuned: Any, **settings: Any) -> intruders.Audit:
    return audit(base, tuned, cache=False, **settings)


def test_only_what_changed_is_audited_and_the_rest_is_listed() -> None:
    """And what is done is told, of every matrix that could have changed."""
    empty = {"model.layers.0.gone.weight": torch.zeros(0, 12)}
    told: list[tuple[str, int, int]] = []
    base, tuned = weights() | empty, tuned_weights(LAST, FIRST) | empty
    found = run(base, tuned, k=5, progress=lambda *numbers: told.append(numbers))
    assert [matrix.name for matrix in found.matrices] == [FIRST, LAST]  # the base's order
    assert found.intruders == 2
    assert [[vector.intruder for vector in matrix.vectors] for matrix in found.matrices] == [
        [True, False, False, False, False]
    ] * 2
    reasons = {skipped.name: skipped.reason for skipped in found.skipped}
    assert len(found.matrices) + len(reasons) == len(base)
    assert reasons["model.layers.0.mlp.up_proj.weight"] == "unchanged"
    assert reasons["model.layers.0.norm.weight"] == "one-dimensional"
    assert "embedding" in reasons["model.embed_tokens.weight"]
    assert told[-1] == ("audit, 2 intruders", 22, 22)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_numbers_of_a_matrix_are_those_of_numpy(dtype: torch.dtype) -> None:
    base = {name: value.to(dtype) for name, value in weights().items()}
    tuned = {name: value.to(dtype) for name, value in tuned_weights(FIRST).items()}
    matrix = run(base, tuned, k=20, exact=True).matrix(FIRST)
    x, _, _ = np.linalg.svd(base[FIRST].double().numpy())
    y, values, _ = np.linalg.svd(tuned[FIRST].double().numpy())
    change = np.linalg.svd((tuned[FIRST].double() - base[FIRST].double()).numpy(), compute_uv=False)
    assert len(matrix.vectors) == 12  # all there are, though k is larger
    np.testing.assert_allclose([v.singular_value for v in matrix.vectors], values, rtol=1e-6)
    cosines = np.abs(x.T @ y)
    np.testing.assert_allclose([v.max_cosine for v in matrix.vectors], cosines.max(0)[:, None] * [1, 1])
    np.testing.assert_allclose(matrix.similarity, cosines, atol=1e-6)
    assert matrix.update.spectral == pytest.approx(change[0], rel=1e-6)
    assert matrix.update.frobenius == pytest.approx(np.linalg.norm(change), rel=1e-6)
    assert matrix.intruder_energy_share == pytest.approx(values[0] ** 2 / (values**2).sum())


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_units_are_those_of_the_checkpoint(scale: float) -> None:
    base, tuned = weights(), tuned_weights(FIRST, LAST)
    plain = run(base, tuned)
    scaled = run({n: scale * t for n, t in base.items()}, {n: scale * t for n, t in tuned.items()})
    for one, other in zip(plain.matrices, scaled.matrices, strict=True):
        assert [v.intruder for v in one.vectors] == [v.intruder for v in other.vectors]
        values = [scale * v.singular_value for v in one.vectors]
        np.testing.assert_allclose([v.singular_value for v in other.vectors], values, rtol=1e-4)
        assert other.update.frobenius == pytest.approx(scale * one.update.frobenius, rel=1e-4)
        assert other.update.spectral == pytest.approx(scale * one.update.spectral, rel=1e-4)
        assert other.update.stable_rank == pytest.approx(one.update.stable_rank, rel=1e-4)
        base_values = scale * np.array(one.base_singular_values)
        np.testing.assert_allclose(other.base_singular_values, base_values, rtol=1e-3)


@pytest.mark.parametrize("side", ["base", "tuned model"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_a_number_is_refused_by_name_or_left_out_by_name(value: float, side: str) -> None:
    base, tuned = weights(), tuned_weights(FIRST, LAST)
    spoilt = base if side == "base" else tuned
    spoilt[LAST] = spoilt[LAST].clone()
    spoilt[LAST][3, 4] = value
    with pytest.raises(NonFiniteError, match=f"'{LAST}'.*{side}"):
        run(base, tuned)
    found = run(base, tuned, skip_non_finite=True)
    assert [matrix.name for matrix in found.matrices] == [FIRST]
    assert f"NaN or infinity in the {side}" in {s.reason for s in found.skipped if s.name == LAST}


WRONG: dict[str, tuple[object, ...]] = {
    "k": (0, -3, 2.5, True),
    "epsilon": (0.0, 1.01, -0.5, float("nan"), "half"),
    "workers": (0, -1, 1.5, True, "2"),
    "device": ("abacus", "meta"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_settings_out_of_range_are_quoted_before_anything_is_read(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=rf"^{name} (is )?{re.escape(repr(value))}.*$"):
        run("/no/such/place", "/nor/this", **{name: value})


def test_include_exclude_and_embeddings() -> None:
    base = weights()
    tuned = tuned_weights(*base, base={n: t for n, t in base.items() if t.ndim == 2})
    tuned |= {n: t for n, t in base.items() if t.ndim == 1}
    names = [m.name for m in run(base, tuned, include=["*.q_proj.*"], exclude=["*.1.*", "*.1?.*"]).matrices]
    assert names == [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert "model.embed_tokens.weight" in [m.name for m in run(base, tuned, include_embeddings=True).matrices]
    every = [m.name for m in run(base, tuned).matrices]
    assert [m.name for m in run(base, tuned, include=None, exclude=None).matrices] == every


@pytest.mark.parametrize("given", [({}, {}), (None, None), (3, 4), ({"a": 1}, {"a": 2})], ids=str)
def test_what_is_no_model_is_refused(given: tuple[Any, Any]) -> None:
    with pytest.raises(IntrudersError):
        run(*given)


# --- where it computes: what `auto` takes, what is refused, and that workers change no record

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_workers_change_no_record() -> None:
    stores = {workers: MemoryCache() for workers in (1, 2, 5)}
    for _ in range(2):  # without what is known of the base, and with it
        first, *others = (
            intruders.audit(*all_shapes(), workers=workers, cache=store).matrices
            for workers, store in stores.items()
        )
        assert sum(matrix.intruders for matrix in first) > 3
        assert all(matrices == first for matrices in others), "to the last bit"


@pytest.mark.parametrize("covered", [True, False])
def test_auto_takes_cuda_only_where_proofs_cover_it(covered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(full_precision, "is_covered", lambda device: covered or device.type == "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Compute("auto").torch_device() == (CUDA if covered else CPU)


def test_a_device_that_is_not_covered_decides_in_full_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (full_precision, decide_module):
        monkeypatch.setattr(module, "is_covered", lambda device: False)
    with pytest.warns(UserWarning, match="on device 'cpu' are not known to be as exact as the proofs need"):
        found = run(*all_shapes(), device="cpu")
    assert {vector.certificate for matrix in found.matrices for vector in matrix.vectors} == {"exact"}


def test_a_device_without_double_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch.zeros

    def refuse(*size: Any, **how: Any) -> Tensor:
        if how.get("dtype") == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return made(*size, **how)

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(SettingError, match="device 'cpu' has no double precision"):
        Compute("cpu").torch_device()


def test_small_matrices_stay_on_the_processor() -> None:
    assert device_for((127, 4000), CUDA) == CPU
    assert device_for((4000, 128), CUDA) == CUDA
    assert device_for((128, 128), CPU) == CPU
