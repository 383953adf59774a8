"""Random combinations of PEFT method, start, settings and way of giving them, for as long as is wanted.

    python -m tests.checkpoints.random_combinations 25

Each is one model, trained by a random step, audited in one way, and compared as in ``test_every_way``: with PEFT's own
merged weights and two full decompositions in double precision. A seed that fails is printed and can be run again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

from .adapted import (
    CALLBACKS,
    LORA,
    OTHERS,
    STARTS,
    WAYS,
    adapt,
    does_not_exist,
    require_right_audit,
    require_right_callbacks,
)

MODULES = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
}


def combination(seed: int) -> tuple[str, str, bool | str, str, dict[str, Any]]:
    """Kind of model, method, start, way, and further settings of LoRA."""
    rng = random.Random(seed)
    kind = rng.choice(["llama", "llama", "gpt2"])
    method = rng.choice([*LORA, *OTHERS] if kind == "llama" else ["lora", "dora", "rslora"])
    start = rng.choice(list(STARTS)) if method in LORA else True
    way = rng.choice([*WAYS, CALLBACKS[0]])
    extra: dict[str, Any] = {}
    if method in LORA:
        modules = MODULES[kind]
        extra = {
            "r": rng.choice([1, 2, 3, 4]),
            "lora_alpha": rng.choice([1, 3, 8, 32]),
            "target_modules": rng.sample(modules, rng.randint(1, len(modules))),
            "bias": rng.choice(["none", "none", "lora_only", "all"]),
        }
        extra["r"] += start == "orthogonal" and extra["r"] % 2  # PEFT wants an even rank there
    return kind, method, start, way, extra


def tried(seed: int, folder: Path) -> str:
    """What became of the combination: "right", or why it was not tried."""
    kind, method, start, way, extra = combination(seed)
    if does_not_exist(method, start, way) or _is_beyond_peft(kind, start, way, extra):
        return "does not exist"
    try:
        adapted = adapt(kind, method, start, folder, seed=seed, train=way not in CALLBACKS, **extra)
    except (ValueError, RuntimeError, KeyError, NotImplementedError, IndexError) as error:
        return f"PEFT refuses: {type(error).__name__}"
    if way in CALLBACKS:
        require_right_callbacks(kind, adapted, folder)
    else:
        require_right_audit(kind, adapted, way, folder)
    return "right"


def _is_beyond_peft(kind: str, start: bool | str, way: str, extra: dict[str, Any]) -> bool:
    """OLoRA and LoftQ take a Conv1D from the wrong side, so that PEFT cannot run it; no conversion has biases."""
    if kind == "gpt2" and start in ("olora", "loftq"):
        return True
    return way == "converted to a plain LoRA" and extra.get("bias", "none") != "none"


def main() -> None:
    """Tries combinations for some minutes, and prints how many there were and what became of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=0, help="The first one.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    found: Counter[str] = Counter()
    end = time.monotonic() + 60 * arguments.minutes
    seed = arguments.seed
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[tried(seed, Path(folder))] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                found["failed"] += 1
                print(
                    f"seed {seed}, {combination(seed)}: {''.join(traceback.format_exception(error))[-1500:]}",
                    flush=True,
                )
        seed += 1
    print(f"{found.total()} combinations: {dict(found)}")


if __name__ == "__main__":
    main()
