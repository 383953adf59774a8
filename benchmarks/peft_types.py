"""``python -m benchmarks.peft_types``: what PEFT's own code costs for the weight of one matrix, in a process a type.

The time is that of the processor, on one thread; the peak is what the process grew by while the weight was made, with
the copy of the base that becomes the result, in multiples of the matrix in single precision.
"""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = (1024, 2816)
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "MiSS": lambda peft: peft.MissConfig(r=64, target_modules=["a"]),
    "VB-LoRA": lambda peft: peft.VBLoRAConfig(r=4, num_vectors=256, vector_length=256, target_modules=["a"]),
    "VeRA": lambda peft: peft.VeraConfig(r=256, target_modules=["a"]),
    "SHiRA": lambda peft: peft.ShiraConfig(r=32, target_modules=["a"]),
    "GraLoRA": lambda peft: peft.GraloraConfig(r=32, gralora_k=2, target_modules=["a"]),
    "OFT": lambda peft: peft.OFTConfig(oft_block_size=32, target_modules=["a"]),
    "FourierFT": lambda peft: peft.FourierFTConfig(n_frequency=1000, target_modules=["a"]),
    "RandLoRA": lambda peft: peft.RandLoraConfig(r=32, target_modules=["a"]),
    "HRA": lambda peft: peft.HRAConfig(r=8, target_modules=["a"]),
    "BOFT": lambda peft: peft.BOFTConfig(boft_block_size=4, target_modules=["a"]),
    "C3A": lambda peft: peft.C3AConfig(block_size=256, target_modules=["a"]),
    "LoRA, OLoRA start": lambda peft: peft.LoraConfig(r=16, init_lora_weights="olora", target_modules=["a"]),
    "LoRA, PiSSA start": lambda peft: peft.LoraConfig(r=16, init_lora_weights="pissa", target_modules=["a"]),
    "OSF": lambda peft: peft.OSFConfig(target_modules=["a"]),
}


def measure(name: str) -> str:
    """One line of the table, measured in this process."""
    warnings.filterwarnings("ignore")
    import copy

    import peft
    import torch

    from intruders.checkpoints.opening.open import open_checkpoint, open_source
    from intruders.checkpoints.pairing.pair_sides import pair_sides

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, columns = SHAPE
    model = torch.nn.ModuleDict({"x": torch.nn.ModuleDict({"a": torch.nn.Linear(columns, rows, bias=False)})})
    with tempfile.TemporaryDirectory() as folder:
        adapted = peft.get_peft_model(copy.deepcopy(model), SETTINGS[name](peft))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.01 * torch.randn_like(parameter)
        adapted.save_pretrained(folder)
        del adapted
        (matrix,) = pair_sides(open_checkpoint(model), open_source(folder)).pairs
        before = _peak_from_now()
        started = time.process_time()
        loaded = matrix.load()
        seconds = time.process_time() - started
        assert loaded is not None
        peak = (_status("VmHWM") - before) / (4 * rows * columns)
    return f"| {name} | {seconds:.2f} | {peak:.1f} |"


def _peak_from_now() -> int:
    """Bytes that the process holds; its peak is counted again from here (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main() -> None:
    if len(sys.argv) > 1:
        print(measure(sys.argv[1]))
        return
    print(f"One matrix of {SHAPE[0]} x {SHAPE[1]}, one thread.\n")
    print("| Type | seconds | peak, in matrices |\n|---|---|---|")
    for name in SETTINGS:
        command = [sys.executable, "-m", "benchmarks.peft_types", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
