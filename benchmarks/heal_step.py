"""Shows the time and the peak memory of a step of healing against a training step of the same adapter.

    python -m benchmarks.heal_step [--quick]

Both steps see the same 8 documents and 8 examples of word problems on SmolLM2-135M under a rank-1 adapter of every
linear layer. The training step has the gradient of all factors and takes the same two losses forward and backward; the
step of healing has a dose for every matrix, and compares with what base and tuned model predicted, which the first step
keeps for the others. It runs in float32 and in bfloat16, each in a process of its own.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

HEAL, TRAIN = "heal", "train"
_TOKENS, _QUICK_TOKENS, _STEPS = 192, 32, 3


def main() -> None:
    tokens = _QUICK_TOKENS if "--quick" in sys.argv else _TOKENS
    for kind, dtype in ((TRAIN, "float32"), (HEAL, "float32"), (HEAL, "bfloat16")):
        command = [sys.executable, "-m", "benchmarks.heal_step", kind, str(tokens), dtype]
        found = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        print(
            f"{kind:>6} step in {dtype}: {found['seconds']:.2f} s, peak {found['peak'] / 2**30:.2f} GiB, "
            f"{found['loaded'] / 2**30:.2f} GiB before the first step"
        )


def measure(kind: str, tokens: int, dtype: str) -> dict[str, float]:
    """The median time of a step, and the peak of the process."""
    from intruders.data.corpora import load_corpora
    from intruders.data.load_task import load_task
    from intruders.experiments.experiment_settings import HealSettings
    from intruders.experiments.objective import Objective
    from intruders.experiments.open_dosed import encoded_texts, open_to_heal
    from intruders.measures.task_score import encoded_examples

    settings = HealSettings(max_documents=8, max_tokens=tokens)
    (corpus,) = load_corpora("pydoc", max_documents=8)
    task = load_task("word-problems")
    if kind == HEAL:
        from intruders.experiments.question import Question
        from intruders.models.loading_settings import Loading

        question = Question.about("smollm2-135m", "smollm2-135m-lora", loading=Loading(dtype=dtype))
        bench = open_to_heal(question, {"pydoc": [corpus]}, {task.name: task}, settings)
        bench.doses.values = torch.ones_like(bench.doses.values, requires_grad=True)
        opened = bench.language
        texts = encoded_texts(opened, corpus, tokens)
        rows = encoded_examples(opened, task, task.train[:8], [])
        objective = Objective(opened, opened, bench.doses, [texts], [1.0], rows, 0)
        return timed(lambda number: objective.gradient(number, 3.0))
    from peft import PeftModel

    from intruders.checkpoints.stored.locate import locate
    from intruders.models.encoding import PadRight, pad_token_id
    from intruders.models.tuned_model import open_language_model

    opened = open_language_model("smollm2-135m")
    model: Any = PeftModel.from_pretrained(opened.model, locate("smollm2-135m-lora"), is_trainable=True)
    pad = PadRight(pad_token_id(opened.tokenizer))
    texts = [{"input_ids": ids, "labels": ids} for ids in encoded_texts(opened, corpus, tokens)]
    batches = [pad(texts), pad(encoded_examples(opened, task, task.train[:8], []))]

    def train(number: int) -> None:
        for batch in batches:
            model(**batch).loss.backward()

    return timed(train)


def timed(step: Any) -> dict[str, float]:
    loaded = _peak()
    step(0)
    seconds = []
    for number in range(1, _STEPS + 1):
        started = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - started)
    return {"seconds": sorted(seconds)[_STEPS // 2], "peak": _peak(), "loaded": loaded}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    else:
        main()
