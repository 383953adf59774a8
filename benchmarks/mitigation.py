"""``python -m benchmarks.mitigation``: PEFT's reduce_intruder_dimension and intruders.mitigate on one hot adapter.

Shows how long each takes to mitigate SmolLM2-135M with an intruder in every matrix, with the same updates out (both
cut back to the adapter's rank), from a model in memory to an adapter on disk. Nothing is cached before; the second
line starts from what the first has kept of the base.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from intruders.audits.audit_settings import Compute
from intruders.audits.base_cache import MemoryCache
from intruders.mitigation.mitigate import mitigate
from intruders.models.base_model import base_model_location
from intruders.models.quiet import hush_imports, quiet_transformers

from .machine import this_machine

SCALE, RANK, GAIN = 0.3, 1, 0.4  # spectral norm of the update, as a share of the base's Frobenius norm


def hot_adapter() -> Any:
    """Random factors, large enough that their product leads every matrix."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(base_model_location("smollm2-135m"), dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(0)
    for module in peft.modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            a.data = torch.randn(a.shape, generator=generator)
            b.data = torch.randn(b.shape, generator=generator)
            size = torch.linalg.matrix_norm(b.data @ a.data, 2)
            b.data *= GAIN * module.get_base_layer().weight.norm() / size
    return peft.eval()


def timed(what: str, do: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time, which other work on the machine disturbs less, and what ``do`` gives."""
    started, used = time.perf_counter(), time.process_time()
    result = do()
    seconds, busy = time.perf_counter() - started, time.process_time() - used
    print(f"{what:<58}{seconds:>8.2f} s{busy:>8.2f} s", flush=True)
    return busy, result


def main() -> None:
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    hush_imports()
    model = hot_adapter()
    print(this_machine())
    print(f"{'':<58}{'wall':>8}  {'processor':>9}")
    with tempfile.TemporaryDirectory() as folder:
        store = MemoryCache()

        def ours(name: str, **more: Any) -> Any:
            model.set_adapter("default")
            return mitigate(
                model, scale=SCALE, rank="keep", out=Path(folder) / name, compute=Compute(cache=store), **more
            )

        cold, first = timed("intruders: audit, mitigate, write, audit what was written", lambda: ours("one"))
        warm, _ = timed("the same with the base kept", lambda: ours("two"))
        given, _ = timed(
            "a saved audit given, without the second one",
            lambda: ours("three", audit=first.before, check=False),
        )

        def theirs() -> None:
            model.set_adapter("default")
            reduce_intruder_dimension(model, mitigation_lambda=SCALE, logging_sink=None)
            model.save_pretrained(str(Path(folder) / "peft"), selected_adapters=["intruder_reduced"])

        peft, _ = timed("PEFT: reduce_intruder_dimension, save_pretrained", theirs)
        print(
            f"{first.before.intruders} intruders in {len(first.matrices)} of {len(first.before.matrices)} matrices"
        )
        print(
            f"PEFT's processor time over ours: {peft / cold:.1f}, base kept {peft / warm:.1f}, "
            f"audit given {peft / given:.1f}"
        )
        print(f"  of ours the two audits took {first.before.seconds:.2f} s and {first.after.seconds:.2f} s")
        model.load_adapter(str(Path(folder) / "one"), "ours")
        print(f"largest relative difference of the two updates: {difference(model):.1e}")


def difference(model: Any) -> float:
    worst = 0.0
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "lora_A") and "ours" in module.lora_A:
                ours, theirs = (module.get_delta_weight(name) for name in ("ours", "intruder_reduced"))
                worst = max(worst, float((ours - theirs).norm() / theirs.norm()))
    return worst


if __name__ == "__main__":
    main()
