"""The dense singular value decomposition, clusters of singular values, and eigenvalues of small matrices.

Within a cluster of equal singular values the vectors are not defined by the matrix: any rotation of them is as good.
What is defined is their common space, and everything here that must not depend on such a choice works with that
space.

On a GPU torch decomposes batches of matrices beyond a side of 32 one after another, each with several launches and
waits (pytorch issues 174674 and 175585). They go to the processor in one transfer, and come back in one. A matrix
that is alone, or large enough to fill a GPU by itself, stays.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .products import Batched

# Sides between which a batch leaves a GPU.
_BATCHED_UP_TO, _FILLS_A_GPU = 32, 1024


def moves_to_processor(shape: torch.Size, device: torch.device) -> bool:
    """Return whether a batch ``(*batch, a, a)`` on a device is decomposed on the processor.

    >>> moves_to_processor(torch.Size([7, 100, 100]), torch.device("cuda"))
    True
    >>> moves_to_processor(torch.Size([7, 20, 20]), torch.device("cuda"))
    False
    """
    is_batch = shape[:-2].numel() > 1
    return device.type != "cpu" and is_batch and _BATCHED_UP_TO < shape[-1] < _FILLS_A_GPU


def eigh(cores: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(*batch, a)``, ascending, and eigenvectors as columns ``(*batch, a, a)`` of symmetric matrices."""
    where = "cpu" if moves_to_processor(cores.shape, cores.device) else cores.device
    values, vectors = torch.linalg.eigh(cores.to(where))
    return values.to(cores.device), vectors.to(cores.device)


def eigvalsh(cores: Tensor) -> Tensor:
    """Eigenvalues ``(*batch, a)`` alone."""
    where = "cpu" if moves_to_processor(cores.shape, cores.device) else cores.device
    values: Tensor = torch.linalg.eigvalsh(cores.to(where))
    return values.to(cores.device)


# Two singular values closer than this, relative to the largest of their matrix, count as one.
# Single-precision weights carry errors of 6e-8, and vectors of values 2e-6 apart turn by several per cent
# under them.
CLUSTER_TOLERANCE = 2e-6
# Width, in these tolerances, that a cluster may have.
_WIDEST = 4
# Singular values up to this share of the largest are what rounding leaves of zeros: their vectors are arbitrary.
ZERO_SHARE = 1e-12
# Values closer than this, as a share of the largest, are equal as far as double precision can tell.
_EQUAL = 1e-11


@dataclass(frozen=True)
class Components(Batched):
    """A matrix or a part of it, ``sum_j values_j left_j right_j^T``, in double precision.

    Of a thin decomposition they are all there: c = min(m, n), and the values descend.
    """

    values: Tensor  # (*batch, c)
    left: Tensor  # (*batch, c, m), unit rows
    right: Tensor  # (*batch, c, n), unit rows

    def first(self, count: int) -> "Components":
        """The first ``count`` of them; all, where there are fewer."""
        return Components(self.values[..., :count], self.left[..., :count, :], self.right[..., :count, :])

    def with_values(self, values: Tensor) -> "Components":
        return Components(values, self.left, self.right)

    def factors(self, factor: float = 1.0) -> tuple[Tensor, Tensor]:
        """``factor`` times it, as an (m, c) and a (c, n) matrix."""
        return (self.left * (factor * self.values).unsqueeze(-1)).mT, self.right


def dense_svd(matrix: Tensor) -> Components:
    """``W = sum_i s_i left_i right_i^T`` of ``(*batch, m, n)`` matrices, computed in double precision."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Components(values, left.mT, right)


def leading_count(k: int, m: int, n: int) -> int:
    """Count the base vectors of a matrix ``(m, n)`` that are followed for k tuned ones: some resemble later ones."""
    return min(2 * k + 4, m, n)


def gram_svd(matrix: Tensor) -> Components:
    """As :func:`dense_svd`, through the eigenvectors of the smaller Gram matrix in double precision: several
    times faster.

    Values are right to about 1e-16 of the largest squared over themselves, so that those below
    ``CLUSTER_TOLERANCE`` of the largest are noise. The vectors of these are arbitrary: orthonormal on the smaller side,
    and on the other not even that below 1e-8 of the largest.
    """
    matrix = matrix.double()
    m, n = matrix.shape[-2:]
    if m <= n:
        _, left = gram_left_vectors(matrix)
        products = left @ matrix
        values = products.norm(dim=-1)
        order = values.argsort(dim=-1, descending=True)
        left = left.gather(-2, order.unsqueeze(-1).expand(left.shape))
        products = products.gather(-2, order.unsqueeze(-1).expand(products.shape))
        values = values.gather(-1, order)
        right = products / values.unsqueeze(-1).clamp_min(torch.finfo(values.dtype).tiny)
        return Components(values, left, right)
    swapped = gram_svd(matrix.mT)
    return Components(swapped.values, swapped.right, swapped.left)


def leading_svd(matrix: Tensor, count: int) -> Components:
    """The decomposition of ``(m, n)`` whose ``count`` leading triplets are right: the quickest that can give them."""
    svd = gram_svd(matrix)
    if svd.values[count - 1] <= CLUSTER_TOLERANCE * svd.values[0]:
        return dense_svd(matrix)  # the eigenvectors of the square say nothing of values that small
    return svd


def gram_left_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """All left vectors ``(*batch, p, m)`` and values ``(*batch, p)`` of :func:`gram_svd`, without the right ones.

    Values are right to 1e-8 of the largest.
    """
    matrix = matrix.double()
    m, n = matrix.shape[-2:]
    squares, vectors = eigh(matrix @ matrix.mT if m <= n else matrix.mT @ matrix)
    values, rows = squares.flip(-1).clamp_min(0.0).sqrt(), vectors.mT.flip(-2)
    if m <= n:
        return values, rows
    return values, torch.nn.functional.normalize(rows @ matrix.mT, dim=-1)


def significant(values: Tensor) -> int:
    """Count the descending singular values ``(p,)`` of one matrix that are not what rounding leaves of zeros."""
    return int((values > ZERO_SHARE * values[0]).sum())


def cluster_ids(values: Tensor) -> Tensor:
    """Number the clusters of descending ``values`` ``(*batch, p)``: neighbors in one cluster share an id.

    Ids count up from 0. Neighbours belong together when they differ by less than ``CLUSTER_TOLERANCE`` of
    the largest value; a chain of such neighbours is one cluster. Each value of a chain wider than ``_WIDEST`` of that
    is one of its own, with those equal to it: under an outlier a whole spectrum can be a chain, and its ends are not
    alike.
    """
    tolerance = CLUSTER_TOLERANCE * values[..., :1]
    is_new = (values[..., :-1] - values[..., 1:]) > tolerance
    ids = _numbered(is_new)
    if are_alone(ids):
        return ids
    low = torch.full_like(values, torch.inf).scatter_reduce(-1, ids, values, "amin").gather(-1, ids)
    high = torch.zeros_like(values).scatter_reduce(-1, ids, values, "amax").gather(-1, ids)
    is_wide = high - low > _WIDEST * tolerance
    # Equal values have no vectors of their own, wherever they are.
    is_equal = values[..., :-1] - values[..., 1:] <= _EQUAL * values[..., :1]
    return _numbered(is_new | (is_wide[..., 1:] & ~is_equal))


def are_alone(ids: Tensor) -> bool:
    """Return whether each value is a cluster of its own, as nearly always; most work on clusters is then skipped."""
    return bool((ids[..., -1] == ids.shape[-1] - 1).all())


def _numbered(is_new: Tensor) -> Tensor:
    """Ids that count up where ``is_new`` ``(*batch, p - 1)`` says that the next value begins a cluster."""
    return torch.nn.functional.pad(is_new.long().cumsum(-1), (1, 0))


def cluster_projections(cosines: Tensor, ids: Tensor) -> Tensor:
    """Norm of a vector's projection on each cluster's space: ``sqrt(sum of cosine^2 over the cluster)``.

    ``cosines`` is ``(*batch, p, k)``, between p vectors with cluster ``ids`` ``(*batch, p)`` and k others.
    The answer has the same shape: row i holds the value of the cluster that vector i belongs to.
    """
    if are_alone(ids):
        return cosines.abs()
    sums = torch.zeros_like(cosines)
    index = ids.unsqueeze(-1).expand(cosines.shape)
    sums.scatter_add_(-2, index, cosines.square())
    return sums.gather(-2, index).sqrt()


def distances_beyond(down: Tensor, inside: Tensor, ids: Tensor) -> Tensor:
    """Distance ``(*batch, k)`` of each value's cluster to the nearest value outside it.

    ``down`` are those to the values below, and ``inside`` ``(*batch, k - 1)`` the steps among the values; infinite
    within a cluster.
    """
    up = torch.nn.functional.pad(inside, (1, 0), value=torch.inf)
    nearest = torch.full_like(down, torch.inf).scatter_reduce(-1, ids, torch.minimum(down, up), "amin")
    return nearest.gather(-1, ids)


def settle_clusters(svd: Components, count: int, base: Tensor) -> Tensor:
    """The ``count`` leading left vectors ``(count, m)`` of one matrix, with every cluster's vectors chosen
    by ``base``.

    Within a cluster, the vectors are those that diagonalize ``base @ base.T`` ``(m, m)`` there, in
    descending order. It makes the answer independent of the algorithm, and where a cluster is one of the
    base's too, it takes the base's own vectors. A cluster that reaches beyond ``count`` is settled whole
    before it is cut.
    """
    ids = cluster_ids(svd.values)
    left = svd.left.clone()
    for cluster in torch.unique(ids[:count]).tolist():
        members = (ids == cluster).nonzero().squeeze(-1)
        if len(members) > 1:
            rows = svd.left[members]
            products = rows @ base
            _, rotation = eigh(products @ products.mT)
            left[members] = rotation.mT.flip(0) @ rows
    return left[:count]
