"""Random numbers of the package's own, the same in every call.

Estimates from random vectors need vectors that are independent of the matrices. Users draw noise from small seeds, and
``torch.manual_seed(0)`` gives the same numbers to a matrix of noise and to probes of that seed.
"""

from __future__ import annotations

import torch

# Any number that nobody seeds a generator with. torch takes its last 32 bits.
_OWN = 0x5B6A7988


def own_generator(seed: int = 0) -> torch.Generator:
    """Return a generator on the processor; other small seeds give other streams.

    >>> probes = torch.randn(3, generator=own_generator())
    >>> bool((probes == torch.randn(3, generator=torch.Generator().manual_seed(0))).any())
    False
    """
    return torch.Generator().manual_seed(_OWN ^ seed)
