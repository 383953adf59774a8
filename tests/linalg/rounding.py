"""What single precision does to Golub-Kahan steps, measured in double precision.

With U and V the computed bases (as rows) and B the computed bidiagonal matrix, ``U A - B V`` and ``V A^T - B^T U`` are
zero in exact arithmetic, and U and V orthonormal. The steps are exactly those of a matrix no farther from A than the
sum of the norms of all four. Run as a program, it prints them for sizes of real layers::

    python -m tests.linalg.rounding
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.inputs import LARGEST, llm_like
from intruders.linalg.moments import Bidiagonalization
from intruders.linalg.operators import Dense
from intruders.linalg.products import rounding

SHAPES = ((256, 256), (1024, 1024), (4096, 4096), (11008, 4096), (4096, 11008), (53248, 1024), (1024, 53248))
STEPS = 28
CHUNK = 2048


@dataclass(frozen=True)
class StepErrors:
    """Spectral norms, in roundings of the matrix's norm."""

    products: tuple[float, float]  # of U A - B V, and of V A^T - B^T U
    bases: tuple[float, float]  # of U U^T - 1, and of V V^T - 1, times the matrix's norm


def step_errors(matrix: Tensor, norm: float, steps: int) -> StepErrors:
    """Of so many steps from a random vector."""
    m = len(matrix)
    generator = torch.Generator().manual_seed(3)
    start = torch.nn.functional.normalize(torch.randn(1, 1, m, generator=generator), dim=-1)
    process = Bidiagonalization.start(start).extended(Dense(matrix[None]), steps, torch.tensor([norm]))
    left, right = process.left[0, 0].double(), process.right[0, 0].double()
    core = torch.zeros(steps + 1, steps, dtype=torch.float64)
    core[range(steps), range(steps)] = process.alphas[0, 0]
    core[range(1, steps + 1), range(steps)] = process.betas[0, 0]
    to_right, to_left = -core[:-1] @ right, -core.mT @ left
    for first in range(0, m, CHUNK):
        wide = matrix[first : first + CHUNK].double()
        to_right += left[:-1, first : first + CHUNK] @ wide
        to_left[:, first : first + CHUNK] += right @ wide.mT
    unit = torch.finfo(torch.float32).eps * norm
    return StepErrors(
        (_norm(to_right) / unit, _norm(to_left) / unit),
        (_not_orthonormal(left) * norm / unit, _not_orthonormal(right) * norm / unit),
    )


def _not_orthonormal(rows: Tensor) -> float:
    return _norm(rows @ rows.mT - torch.eye(len(rows), dtype=rows.dtype))


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def main() -> None:
    print("roundings of the norm     products        bases       sum   2 x rounding")
    for m, n in SHAPES:
        errors = step_errors(llm_like(m, n, seed=0), LARGEST, STEPS)
        parts = (*errors.products, *errors.bases)
        numbers = "".join(f"{part:7.1f}" for part in (*parts, sum(parts), 2 * rounding(m, n)))
        print(f"{f'{m} x {n}':>16}, {STEPS} steps {numbers}")


if __name__ == "__main__":
    main()
