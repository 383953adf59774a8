"""Put the LoRA adapter that `make demo` trains into the package, for `intruders audit --demo`.

    make demo
    python examples/make_demo_adapter.py demo/lora

The classification head is left out: an audit does not need it. The settings that PEFT writes and that say nothing of
this adapter are left out too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from intruders.checkpoints.demo_models import DEMO_ADAPTER

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


def main(run: Path) -> None:
    config = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    small = {key: config[key] for key in KEPT} | {"base_model_name_or_path": DEMO_ADAPTER.base}
    small["target_modules"] = sorted(small["target_modules"])
    tensors = {
        name: tensor
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
    DEMO_ADAPTER.folder.mkdir(exist_ok=True)
    save_file(tensors, DEMO_ADAPTER.folder / "adapter_model.safetensors", metadata={"format": "pt"})
    for name, content in (("adapter_config.json", small), ("training.json", trained)):
        (DEMO_ADAPTER.folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in DEMO_ADAPTER.folder.iterdir())
    print(f"{len(tensors)} tensors, {size / 1000:.0f} KB in {DEMO_ADAPTER.folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
