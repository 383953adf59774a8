"""TRL's SFTTrainer with a LoRA config, audited while it trains: ``python examples/trl_sft.py BASE ROWS.jsonl OUT``.

The one line that is ours is ``callbacks=[...]``. ``BASE`` is a model folder or hub id; every row has a prompt and a
completion. TRL comes with ``pip install trl``.
"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import intruders


def main(base: str, rows: str, out: str) -> None:
    callback = intruders.IntruderCallback(every=25, alert_above=50)
    trainer = SFTTrainer(
        base,
        args=SFTConfig(
            output_dir=out,
            max_steps=100,
            learning_rate=2e-4,
            logging_steps=5,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=load_dataset("json", data_files=rows, split="train"),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[callback],
    )
    trainer.train()
    trainer.save_model(out)
    for entry in trainer.state.log_history:
        if "intruders/total" in entry:
            print(f"step {entry['step']}: {entry['intruders/total']} intruders")
    print(f"every vector of every audit: {callback.trace}")


if __name__ == "__main__":
    main(*sys.argv[1:])
