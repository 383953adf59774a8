"""Shows what half-precision weights gain from products in single precision on a processor that has none of half.

    python -m benchmarks.half_products

First one product of each shape by torch and by `intruders`, in bfloat16, then products with their gradient in the
inputs, then the losses of SmolLM2-135M on documents of `pydoc`, both ways and in float32. One thread, and the least
processor time of several turns in one process, so that a busy machine counts for little. On a processor with arithmetic
of half precision nothing is changed, and nothing is measured.
"""

import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch.nn import functional

from intruders.data.corpora import load_corpora
from intruders.measures.corpus_loss import losses_by_corpus
from intruders.measures.intervals import loss_interval, paired_difference
from intruders.measures.losses import DocumentLosses
from intruders.measures.measure_settings import LossSettings
from intruders.models import half_products
from intruders.models.half_products import lacks_half, linear_of_half
from intruders.models.loading_settings import Loading
from intruders.models.tuned_model import open_language_model

from .machine import this_machine

_SHAPES = ((576, 576), (1536, 576), (4096, 4096), (11008, 4096))
_INPUTS = (16, 64, 512)
# The products of an update in a dose, which `attribute` and `heal` differentiate; the last one is the head of SmolLM2.
_DIFFERENTIATED = (*_SHAPES[:2], (49152, 576))
_TOKENS = 95
_TURNS = 3


def main() -> None:
    torch.set_num_threads(1)
    if not lacks_half():
        print(f"{torch.backends.cpu.get_cpu_capability()}: nothing is changed on this processor")
        return
    for m, n in _SHAPES:
        weight = torch.randn(m, n).to(torch.bfloat16)
        ratios = []
        for count in _INPUTS:
            inputs = torch.randn(count, n).to(torch.bfloat16)
            ours, of_torch = _least(
                lambda w=weight, x=inputs: linear_of_half(x, w, None),  # type: ignore[misc]
                lambda w=weight, x=inputs: functional.linear(x, w),  # type: ignore[misc]
            )
            ratios.append(f"{of_torch / ours:.1f}x with {count} inputs")
        print(f"{m} x {n}: {', '.join(ratios)}", flush=True)
    for m, n in _DIFFERENTIATED:
        weight = torch.randn(m, n).to(torch.bfloat16)
        inputs = torch.randn(_TOKENS, n).to(torch.bfloat16).requires_grad_()
        ours, of_torch = _least(
            lambda w=weight, x=inputs: torch.autograd.grad(linear_of_half(x, w, None).sum(), x),  # type: ignore[misc]
            lambda w=weight, x=inputs: torch.autograd.grad(functional.linear(x, w).sum(), x),  # type: ignore[misc]
        )
        print(f"{m} x {n}: {of_torch / ours:.1f}x with the gradient in {_TOKENS} inputs", flush=True)
    _losses()
    print(f"{this_machine()}; processor seconds of one thread")


def _losses() -> None:
    corpora, settings = load_corpora("pydoc", max_documents=8), LossSettings(max_tokens=192)
    measured: dict[str, tuple[float, DocumentLosses]] = {}
    for way in ("float32", "bfloat16 by torch", "bfloat16"):
        opened = open_language_model("smollm2-135m", None, Loading(dtype=way.split()[0]))
        by = functional.linear if way.endswith("torch") else linear_of_half
        with patch.object(half_products, "linear_of_half", by):
            started = time.process_time()
            (losses,) = losses_by_corpus(opened, {"": corpora}, settings)[""]
            measured[way] = time.process_time() - started, losses
        del opened
    seconds, by_torch = measured["bfloat16 by torch"]
    for way, (own, losses) in measured.items():
        difference = paired_difference(losses, by_torch)
        print(
            f"smollm2-135m in {way}: {loss_interval(losses).estimate:.4f} nats per token in {own:.1f} s, "
            f"{seconds / own:.1f}x; minus bfloat16 by torch {difference.text('+.5f')}",
            flush=True,
        )


def _least(*ways: Callable[[], object]) -> list[float]:
    """Return the least processor seconds of each way, in turns."""
    times = [[_seconds(way) for way in ways] for _ in range(_TURNS)]
    return [min(of_way) for of_way in zip(*times, strict=True)]


def _seconds(work: Callable[[], object]) -> float:
    started, count = time.process_time(), 0
    while time.process_time() - started < 0.1 or not count:
        work()
        count += 1
    return (time.process_time() - started) / count


if __name__ == "__main__":
    main()
