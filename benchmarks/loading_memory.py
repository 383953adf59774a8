"""Shows the peak memory of the measurements that load a model, as a multiple of the checkpoint's bytes.

    python -m benchmarks.loading_memory [--quick]

A Llama of 514 million random weights in bfloat16 (1.03 GB, a vocabulary of 100 characters) and a rank-8 adapter of all
its linear layers are written to a temporary folder. `evaluate`, `heal`, the measured `scale` and `remedies` then each
run in a process of their own, on two short documents and two sums, of which only losses are measured.
The peak is the resident set at its largest
(``VmHWM``). transformers maps safetensors files into memory: a page of the file that was read counts there as a
page of the process, also where the kernel could drop it, so the figure is an upper bound of what must be there. What
torch, transformers and this package take themselves is the peak of the same call on a Llama of 20 thousand weights.
"""

import json
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from intruders.system.this_process import keep_freed_memory, use_large_pages

from .memory import resident_peak

GOAL = 1.35
COMMANDS = ("evaluate", "heal", "scale", "remedies")
_LARGE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 10, "num_attention_heads": 16}
_QUICK = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8}
_TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TOKENS = 32


def main() -> None:
    use_large_pages()  # which the processes started here inherit
    shape = _QUICK if "--quick" in sys.argv else _LARGE
    with tempfile.TemporaryDirectory() as folder:
        large, tiny = Path(folder) / "large", Path(folder) / "tiny"
        write_models(large, shape)
        write_models(tiny, _TINY)
        size = sum(file.stat().st_size for file in (large / "base").glob("*.safetensors"))
        print(f"checkpoint: {size / 1e9:.2f} GB in bfloat16, adapter of rank 8; goal at most {GOAL} times")
        for command in COMMANDS:
            own, whole = measured(command, tiny), measured(command, large)
            ratio = (whole["peak"] - own["peak"]) / size
            print(
                f"{command:>9}: peak {whole['peak'] / 2**30:.2f} GiB, {own['peak'] / 2**30:.2f} GiB of these without "
                f"the model, so {ratio:.2f} times its bytes ({whole['seconds']:.0f} s)",
                flush=True,
            )


def measured(command: str, folder: Path) -> dict[str, float]:
    """Run one command on the models in a folder, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.loading_memory", command, str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    numbers: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return numbers


def write_models(folder: Path, shape: dict[str, int]) -> None:
    """Write a base in bfloat16, an adapter of it, and two documents."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = characters()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=shape["num_attention_heads"],
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **shape,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapted: Any = get_peft_model(
        model,
        LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"),
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.01 * torch.randn(parameter.shape)
    adapted.save_pretrained(folder / "adapter")
    for split in ("train", "validation", "test"):
        rows = [f"{first} + {second} =,{first + second}" for first in range(1, 6) for second in range(1, 6)]
        (folder / f"{split}.csv").write_text("\n".join(["question,answer", *rows]))
    texts = folder / "texts"
    texts.mkdir()
    for number in range(2):
        (texts / f"{number}.txt").write_text(f"{number}: " + "the sum of three and four is seven. " * 4)


def characters() -> Any:
    """A tokenizer with one token per character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<s>", "</s>", "<unk>", *string.printable[:95], "\n"]
    tokenizer = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def run(command: str, folder: Path) -> None:
    """Make one small measurement, as the command does."""
    import intruders
    from intruders.experiments.choose_scale import choose_scale

    keep_freed_memory()
    base, adapter, text = (str(folder / name) for name in ("base", "adapter", "texts"))
    settings = intruders.HealSettings(steps=1, max_documents=2, max_tokens=_TOKENS, max_examples=2)
    rest = "&".join(f"{split}={folder / f'{split}.csv'}" for split in ("validation", "test"))
    task = f"{folder / 'train.csv'}?prompt=question&completion=answer&score=none&{rest}"
    compute = intruders.Compute(cache=False)
    # An audit holds one matrix at a time, so that of one layer peaks as that of all.
    audit = intruders.AuditSettings(include=("*layers.0.*",))
    if command == "evaluate":
        intruders.evaluate(adapter, base=base, losses=intruders.LossSettings((text,), max_tokens=_TOKENS))
    elif command == "heal":
        intruders.heal(
            base, adapter, task=task, loss_on=text, settings=settings, audit=audit, compute=compute
        )
    elif command == "scale":
        choose_scale(base, adapter, task=task, loss_on=text, settings=settings)
    else:
        intruders.compare_remedies(
            base,
            adapter,
            comparison=intruders.ComparisonSettings(only=("interpolate", "truncate"), strengths=1),
            losses=intruders.LossSettings((text,), max_tokens=_TOKENS),
            scores=intruders.ScoreSettings(tasks=(task,), max_examples=2, max_new_tokens=8),
            audit=audit,
            compute=compute,
        )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        started = time.perf_counter()
        run(sys.argv[1], Path(sys.argv[2]))
        print(json.dumps({"peak": resident_peak(), "seconds": time.perf_counter() - started}))
    else:
        main()
