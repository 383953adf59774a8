"""Shows that the parts of a masked model's rise sum to it, on MiniLM-L6.

    python -m benchmarks.masked_attribution

MiniLM-L6 comes without its head for masked tokens. A head is trained on the frozen body first, on the text of `pydoc`,
and body and head are the base. `intruders finetune` then learns a task on it, with LoRA of rank 8 and in full, and
`intruders attribute` splits the rise of the masked loss. It takes minutes on one core.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

import intruders
from intruders.data.corpora import load_corpora
from intruders.models.base_model import base_model_location

from .machine import this_machine

_HEAD_STEPS, _TOKENS = 80, 96
_METHODS: dict[str, dict[str, Any]] = {
    "LoRA of rank 8": {"method": "lora", "rank": 8, "alpha": 16, "lr": 3e-3},
    "full": {"method": "full", "lr": 2e-4},
}


def base_with_head(folder: Path) -> None:
    """Train a head for masked tokens on MiniLM's frozen body, and save both."""
    set_seed(0)
    location = base_model_location("minilm-l6")
    model = AutoModelForMaskedLM.from_pretrained(location)
    tokenizer = AutoTokenizer.from_pretrained(location)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("cls."))
    rows = [
        {"input_ids": tokenizer(text, truncation=True, max_length=_TOKENS)["input_ids"]}
        for corpus in load_corpora("pydoc")
        for text in corpus.documents
    ]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(folder / "unused"),
            max_steps=_HEAD_STEPS,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    torch.set_num_threads(1)
    print(this_machine())
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        base_with_head(base)
        for name, method in _METHODS.items():
            run = Path(scratch) / str(method["method"])
            config = intruders.FinetuneConfig(
                base=str(base),
                task="pydoc-topics-1",
                out=str(run),
                steps=100,
                batch_size=16,
                max_length=64,
                **method,
            )
            intruders.finetune(config)
            settings = intruders.AttributionSettings(max_documents=32, max_tokens=_TOKENS, check=0)
            result = intruders.attribute(str(base), str(run), loss_on="pydoc", settings=settings)
            for rise in result.rises:
                missed = rise.total / rise.rise.estimate - 1
                print(
                    f"{name}: masked loss on {rise.name} {rise.rise.estimate:+.4f} nats per token; the parts of "
                    f"{len(result.matrices)} matrices sum to {rise.total:+.4f} ({missed:+.2%}, {rise.nodes} nodes)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
