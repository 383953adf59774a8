"""The dense decomposition and clusters, against numpy and by hand; and where small decompositions run."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from intruders.linalg.svd import (
    CLUSTER_TOLERANCE,
    Components,
    cluster_ids,
    cluster_projections,
    dense_svd,
    eigh,
    eigvalsh,
    moves_to_processor,
    settle_clusters,
)
from tests.matrices import orthonormal_columns


def test_cluster_ids_by_hand() -> None:
    step = CLUSTER_TOLERANCE
    values = torch.tensor([1.0, 1 - step / 2, 1 - step, 0.5, 0.5 - 2 * step, 0.0, 0.0], dtype=torch.float64)
    # A chain of close neighbours is one cluster, though its ends are not that close.
    assert cluster_ids(values).tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert cluster_ids(1e20 * values).tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert cluster_ids(torch.zeros(3)).tolist() == [0, 0, 0]
    assert cluster_ids(torch.ones(1)).tolist() == [0]
    assert cluster_ids(torch.stack([values, values.flip(0).cumsum(0).flip(0)])).shape == (2, 7)

    # Under an outlier of 1e5 all values below 10 are a chain, in which each is one of its own unless it is equal.
    values = torch.tensor(
        [1e5, 10, 10, 9.85, 9.7, 9.55, 9.4, 9.25, 9.1, 9.1 - 1e-8, 8.95], dtype=torch.float64
    )
    assert cluster_ids(values).tolist() == [0, 1, 1, 2, 3, 4, 5, 6, 7, 7, 8]


def test_cluster_projections_by_hand() -> None:
    cosines = torch.tensor([[0.3, 0.0], [0.4, 0.0], [0.1, -0.9]])
    expected = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.1, 0.9]])
    torch.testing.assert_close(cluster_projections(cosines, torch.tensor([0, 0, 1])), expected)
    both = cluster_projections(cosines.expand(2, 3, 2), torch.tensor([[0, 0, 1], [0, 1, 2]]))
    torch.testing.assert_close(both, torch.stack([expected, cosines.abs()]))


def rotated(svd: Components, members: slice, seed: int) -> Components:
    """The decomposition with other vectors in one cluster: as valid as before."""
    size = svd.left[members].shape[0]
    turn = torch.from_numpy(orthonormal_columns(size, size, np.random.default_rng(seed)))
    left, right = svd.left.clone(), svd.right.clone()
    left[members], right[members] = turn @ left[members], turn @ right[members]
    return Components(svd.values, left, right)


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_settled_vectors_do_not_depend_on_the_algorithms_choice(count: int) -> None:
    rng = np.random.default_rng(1)
    left, right = orthonormal_columns(8, 6, rng), orthonormal_columns(6, 6, rng)
    tuned = torch.from_numpy((left * [5.0, 3, 3, 3, 2, 1]) @ right.T)
    base = torch.from_numpy(rng.standard_normal((8, 6)))
    svd = dense_svd(tuned)
    first = settle_clusters(svd, count, base)
    assert first.shape == (count, 8)
    for seed in range(3):
        again = settle_clusters(rotated(svd, slice(1, 4), seed), count, base)
        torch.testing.assert_close((first * again).sum(-1).abs(), torch.ones(count, dtype=torch.float64))
    # Whatever is chosen spans the same space: each vector still belongs to its singular value.
    np.testing.assert_allclose(np.linalg.norm(first @ tuned, axis=1), [5.0, 3, 3, 3, 2, 1][:count])


def test_a_cluster_that_is_the_bases_too_takes_the_bases_vectors() -> None:
    base = torch.diag(torch.tensor([5.0, 4, 3, 2], dtype=torch.float64))
    tuned = torch.eye(4, dtype=torch.float64) * 7
    settled = settle_clusters(dense_svd(tuned), 3, base)
    torch.testing.assert_close(settled.abs(), torch.eye(4, dtype=torch.float64)[:3])


CUDA = torch.device("cuda", 0)


class Devices(TorchDispatchMode):
    """Counts copies between devices, and where matrices are decomposed; for fake tensors, which have no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: Counter[str] = Counter()
        self.decomposed: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is torch.ops.aten._to_copy.default and given.get("device") is not None:
            self.copies[f"{args[0].device.type} to {given['device'].type}"] += 1
        if func is torch.ops.aten._linalg_eigh.default:
            self.decomposed[args[0].device.type] += 1
        return func(*args, **given)


@pytest.mark.parametrize(
    ("shape", "is_moved"),
    [
        ((8, 33, 33), True),
        ((2, 3, 100, 100), True),
        ((8, 32, 32), False),  # torch has a batched way
        ((1, 100, 100), False),
        ((100, 100), False),
        ((2, 4096, 4096), False),  # each fills a GPU
    ],
)
def test_batches_beyond_a_side_of_32_leave_a_gpu(shape: tuple[int, ...], is_moved: bool) -> None:
    assert moves_to_processor(torch.Size(shape), CUDA) == is_moved
    assert not moves_to_processor(torch.Size(shape), torch.device("cpu"))
    with FakeTensorMode(), Devices() as devices:
        values, vectors = eigh(torch.empty(shape, device=CUDA))
        alone = eigvalsh(torch.empty(shape, device=CUDA))
    assert values.device == vectors.device == alone.device == CUDA
    assert (values.shape, vectors.shape, alone.shape) == (shape[:-1], shape, shape[:-1])
    assert devices.decomposed == {"cpu" if is_moved else "cuda": 2}
    # One transfer of all cores, and one back for each result.
    assert devices.copies == ({"cuda to cpu": 2, "cpu to cuda": 3} if is_moved else {})
