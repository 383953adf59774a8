"""Put a trained LoRA adapter into the package, so that everyone can try the commands on it.

    make demo
    python examples/make_demo_adapter.py demo/lora

    intruders finetune --base smollm2-135m --task word-problems --method lora --rank 1 --alpha 16 --lr 5e-3 \\
        --steps 100 --batch-size 8 --warmup-steps 10 --precision bf16 --match accuracy=0.90 --eval-steps 25 \\
        --max-eval-samples 64 --out runs/language
    python examples/make_demo_adapter.py runs/language smollm2-135m-lora

The first is for `intruders audit --demo`, the second for `intruders heal`. A classification head is left out: an audit
does not need it. The settings that PEFT writes and that say nothing of the adapter are left out too. Factors of the
language model are stored in bfloat16.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from intruders.checkpoints.stored.locate import DEMO_ADAPTER, DEMO_ADAPTERS, locate

KEPT = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "target_modules",
    "bias",
    "fan_in_fan_out",
    "peft_version",
)


def main(run: Path, alias: str = DEMO_ADAPTER) -> None:
    folder = locate(alias)
    dtype = torch.float32 if alias == DEMO_ADAPTER else torch.bfloat16
    config = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    small = {key: config[key] for key in KEPT} | {"base_model_name_or_path": DEMO_ADAPTERS[alias]}
    small["target_modules"] = sorted(small["target_modules"])
    tensors = {
        name: tensor.to(dtype)
        for name, tensor in load_file(run / "adapter_model.safetensors").items()
        if ".lora_" in name
    }
    trained = {
        "made by": "examples/make_demo_adapter.py",
        "settings": {key: value for key, value in record["config"].items() if key != "out"},
        "steps": record["steps"],
        "validation": record["validation"],
        "versions": record["versions"],
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    for name, content in (("adapter_config.json", small), ("training.json", trained)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{len(tensors)} tensors, {size / 1000:.0f} KB in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
