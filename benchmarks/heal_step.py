"""Shows the time and the peak memory of a step of healing against a training step of the same model.

    python -m benchmarks.heal_step [TUNED]

All steps see 4 documents and 16 examples of word problems on a tuned SmolLM2-135M, as a step of `intruders heal` does:
by default under its rank-1 adapter of every linear layer. The training step has the gradient of all factors, or of all
weights of a TUNED in full, and takes the same two losses forward and backward. The steps of healing learn a dose for
every matrix, and the weights besides; they compare with what base and tuned model predicted, which the first step keeps
for documents that come again. Each runs in a process of its own.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

TRAIN, DOSES, WEIGHTS = "train", "doses", "weights"
_TOKENS, _STEPS = 96, 3


def main() -> None:
    tuned = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-lora"
    for dtype in ("float32", "bfloat16"):
        for kind in (TRAIN, DOSES, WEIGHTS):
            command = [sys.executable, "-m", "benchmarks.heal_step", kind, tuned, dtype]
            found = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            print(
                f"{kind:>7} step in {dtype}: {found['seconds']:.2f} s, peak {found['peak'] / 2**30:.2f} GiB, "
                f"{found['loaded'] / 2**30:.2f} GiB before the first step",
                flush=True,
            )


def measure(kind: str, tuned: str, dtype: str) -> dict[str, float]:
    """The median time of a step, and the peak of the process."""
    from intruders.data.corpora import load_corpora
    from intruders.data.load_task import load_task
    from intruders.experiments.dosed_model import parameters_of, with_parameters
    from intruders.experiments.experiment_settings import DOCUMENTS, EXAMPLES, HealSettings
    from intruders.experiments.objective import Objective
    from intruders.experiments.open_dosed import encoded_texts, open_to_heal
    from intruders.experiments.question import Question
    from intruders.measures.task_score import encoded_examples
    from intruders.models.loading import attend_by_products_if_short
    from intruders.models.loading_settings import Loading

    loading = Loading(dtype=dtype)
    (corpus,) = load_corpora("pydoc", max_documents=2 * DOCUMENTS)
    task = load_task("word-problems")
    rows = task.train[: EXAMPLES * (_STEPS + 1)]
    if kind == TRAIN:
        return _training(tuned, loading, corpus, task, rows)
    settings = HealSettings(max_documents=2 * DOCUMENTS, max_tokens=_TOKENS)
    question = Question.about("smollm2-135m", tuned, loading=loading)
    bench = open_to_heal(question, {"pydoc": [corpus]}, {task.name: task}, settings)
    values, learned = torch.ones_like(bench.doses.values, requires_grad=True), None
    if kind == WEIGHTS:
        own = [tensor.float().clone().requires_grad_() for tensor in parameters_of(bench.updates)]
        learned = with_parameters(bench.updates, own)
    opened = bench.language
    attend_by_products_if_short(opened.model, _TOKENS, in_bf16=opened.dtype is torch.bfloat16)
    texts, encoded = encoded_texts(opened, corpus, _TOKENS), encoded_examples(opened, task, rows)
    with bench.doses.at(values, learned):
        objective = Objective(opened, opened, bench.doses, [texts], [1.0], encoded, 0)
        return timed(lambda number: objective.gradient(number, 12.0))


def _training(tuned: str, loading: Any, corpus: Any, task: Any, rows: Any) -> dict[str, float]:
    from peft import PeftModel

    from intruders.checkpoints.adapters.peft_adapter import ADAPTER_CONFIG
    from intruders.checkpoints.stored.locate import locate
    from intruders.experiments.experiment_settings import DOCUMENTS, EXAMPLES
    from intruders.experiments.open_dosed import encoded_texts
    from intruders.measures.task_score import encoded_examples
    from intruders.models.encoding import PadRight, pad_token_id
    from intruders.models.loading import attend_by_products_if_short
    from intruders.models.tuned_model import open_language_model

    is_adapter = (locate(tuned) / ADAPTER_CONFIG).is_file()
    opened = open_language_model("smollm2-135m" if is_adapter else tuned, loading=loading)
    attend_by_products_if_short(opened.model, _TOKENS, in_bf16=opened.dtype is torch.bfloat16)
    model: Any = opened.model.requires_grad_(not is_adapter)
    if is_adapter:
        model = PeftModel.from_pretrained(model, locate(tuned), is_trainable=True)
    pad = PadRight(pad_token_id(opened.tokenizer))
    texts = [{"input_ids": ids, "labels": ids} for ids in encoded_texts(opened, corpus, _TOKENS)[:DOCUMENTS]]
    encoded = encoded_examples(opened, task, rows)

    def train(number: int) -> None:
        for batch in (texts, encoded[EXAMPLES * number : EXAMPLES * (number + 1)]):
            model(**pad(batch)).loss.backward()

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
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
