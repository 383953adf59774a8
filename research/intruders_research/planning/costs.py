"""What a study costs before it runs: operations and memory of its runs, from shapes alone; nothing is loaded.

Operations count multiplications and additions of the linear matrices: 2 per weight and token forward, 4 backward where
the weight is trained and 2 where only its input's gradient is needed. Attention and the classification head are left
out, which is 10 % at 512 tokens of RoBERTa-base. Activations are those of Korthikanti et al. 2022 (arXiv 2205.05198,
equation 1), 34 bytes per token, layer and unit of width in half precision, without the scores of attention, which
torch's fused kernels do not keep.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from intruders.data.hub_tasks import HUB_TASKS
from intruders.studies.experiment_stages import models_of_sweep
from intruders.studies.runs import Run
from intruders.studies.study import Measure
from intruders.system.words import duration, plural
from intruders.training.finetune_config import FinetuneConfig

from .known_sizes import ASSUMED_ROW_TOKENS, ROW_TOKENS, TRAIN_ROWS, ModelSize, model_size

# Operations per second that a training reaches, as assumptions: about 40 % of what an H100 promises in single precision
# without tensor cores, and in bf16 with them.
CARD = {"fp32": 25e12, "bf16": 400e12, "fp16": 400e12}
CARD_NAME = "one H100"
_CARD_STEP = 0.03  # seconds that a step takes at least, however small: its kernels have to be started
_ACTIVATIONS = 34.0  # bytes per token, layer and unit of width, in half precision
_BYTES = 4  # of a weight, a gradient and each moment of Adam
_HUB_DOCUMENTS, _WINDOW, _DOCUMENT_TOKENS = 200, 1024, 512
_GIB = 2.0**30


@dataclass(frozen=True)
class RunCost:
    """What one run takes."""

    operations: float
    steps: int
    memory: float  # bytes, at most at one time
    is_tokens_assumed: bool  # whether the length of its rows is an assumption


def cost_lines(runs: Sequence[Run], operations_per_second: float | None = None) -> Iterator[str]:
    """Yield the expected memory and time of a study on a card and on this machine.

    Args:
      runs: all that are to be done.
      operations_per_second: of this machine; measured by a matrix product if None.
    """
    sizes = {base: model_size(base) for base in dict.fromkeys(run.base for run in runs)}
    costs = [(run, cost) for run in runs if (cost := run_cost(run, sizes[run.base])) is not None]
    if not costs:
        return
    largest, most = max(costs, key=lambda pair: pair[1].memory)
    yield f"memory: at most {most.memory / _GIB:.1f} GiB, by {largest.id}, with the base and every activation"
    here = operations_per_second or matrix_product_speed()
    on_card = math.fsum(_card_seconds(run, cost) for run, cost in costs)
    machine = math.fsum(cost.operations for _, cost in costs) / here
    yield (
        f"time expected, one run after another, for {plural(len(costs), 'run')}: {duration(on_card)} on {CARD_NAME}, "
        f"{duration(machine)} on this machine ({here / 1e9:.0f} billion operations per second in a matrix product)"
    )
    yield (
        "time is that of the training and of the losses and scores that are measured, at the steps that are asked for; "
        f"{CARD_NAME} is assumed to do {CARD['fp32'] / 1e12:.0f} TFLOP/s in single precision, "
        f"{CARD['bf16'] / 1e12:.0f} TFLOP/s in bf16, and no step in less than {_CARD_STEP:g} s"
    )
    stopping = sum(run.config is not None and run.config.match is not None for run, _ in costs)
    if stopping:
        yield (
            f"{plural(stopping, 'run')} with match may stop before these steps, so that their time is an upper bound, "
            "except for the looks at the score, which are not in it"
        )
    assumed = sorted({run.config.task for run, cost in costs if run.config and cost.is_tokens_assumed})
    if assumed:
        lengths = " and ".join(f"{tokens:.0f} of a {kind}" for kind, tokens in ASSUMED_ROW_TOKENS.items())
        yield f"length of rows, in tokens, is assumed to be {lengths} for {', '.join(assumed)}"
    further = sorted({name for run, _ in costs for name in _uncounted(run)})
    if further:
        yield f"not in this time: {', '.join(further)}"
    left_out = len(runs) - len(costs)
    if left_out:
        yield f"no cost is told of {plural(left_out, 'run')}: the size of the base or of the data is not known here"


def run_cost(run: Run, size: ModelSize | None) -> RunCost | None:
    """Return what a run costs on a base of this size; None without training, or if a size is not known."""
    config = run.config
    if config is None or size is None:
        return None
    operations, all_steps, is_assumed = 0.0, 0, False
    for task in run.tasks or (config.task,):
        steps = _steps(config, task)
        if steps is None:
            return None
        all_steps += steps
        tokens, assumed = _row_tokens(config, task)
        is_assumed |= assumed
        operations += steps * rows_a_step(config) * tokens * _operations_a_token(config, size)
        if run.kind == "finetune":
            operations += _measured(run.measure, size, tokens)
    return RunCost(operations, all_steps, _memory(config, size), is_assumed)


def matrix_product_speed(side: int = 1024, seconds: float = 0.3) -> float:
    """Measure operations per second of this machine's matrix product in single precision, for so long."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(side, side, device=device)
    (a @ a).sum().item()
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        (a @ a)[0, 0].item()
        products += 1
    return products * 2.0 * side**3 / (time.perf_counter() - began)


def _card_seconds(run: Run, cost: RunCost) -> float:
    precision = run.config.precision if run.config is not None else "fp32"
    speed = CARD["bf16" if precision == "auto" else precision]
    return max(cost.operations / speed, _CARD_STEP * cost.steps)


def rows_a_step(config: FinetuneConfig) -> int:
    """Return the rows of data that a step of training takes."""
    return config.batch_size * config.gradient_accumulation_steps


def steps_of(run: Run) -> int | None:
    """Return the steps of a run's training, over all of its tasks; None where the size of its data is not known."""
    assert run.config is not None
    steps = [_steps(run.config, task) for task in run.tasks or (run.config.task,)]
    return None if None in steps else sum(each for each in steps if each is not None)


def _steps(config: FinetuneConfig, task: str) -> int | None:
    if config.steps is not None:
        return config.steps
    rows = TRAIN_ROWS.get(task)
    if rows is None or config.epochs is None:
        return None
    rows = min(rows, config.max_train_samples or rows)
    return math.ceil(rows / rows_a_step(config) * config.epochs)


def _row_tokens(config: FinetuneConfig, task: str) -> tuple[float, bool]:
    """Return the mean length of a row, cut at the longest allowed, and whether it is an assumption."""
    hub = HUB_TASKS.get(task)
    is_causal = task == "word-problems" or (hub is not None and hub.kind == "causal")
    kind = "completion" if is_causal else "classification"
    tokens = ROW_TOKENS.get(task, ASSUMED_ROW_TOKENS[kind])
    return min(tokens, config.max_length or tokens), task not in ROW_TOKENS


def _adapter_weights(config: FinetuneConfig, size: ModelSize) -> int:
    return size.layers * sum(config.rank * (m + n) for m, n in size.linear_shapes)


def _operations_a_token(config: FinetuneConfig, size: ModelSize) -> float:
    again = 2.0 * size.linear if config.gradient_checkpointing else 0.0
    if config.method == "full":
        return 6.0 * size.linear + again
    return 4.0 * size.linear + 6.0 * _adapter_weights(config, size) + again


def _measured(measure: Measure, size: ModelSize, row_tokens: float) -> float:
    models = 1 + (models_of_sweep(measure.intervene) if measure.intervene is not None else 0)
    documents = measure.max_documents or _HUB_DOCUMENTS
    window = measure.window or _WINDOW
    tokens = min(_DOCUMENT_TOKENS, measure.max_tokens or _DOCUMENT_TOKENS)
    # A masked model reads its window once for every token of it.
    passes = 1 if size.is_causal or measure.estimate else min(tokens, window)
    text = len(measure.loss_on) * documents * tokens * passes
    examples = (measure.max_examples or 5_000) * row_tokens
    return models * (text + examples) * 2.0 * size.linear


def _uncounted(run: Run) -> Iterator[str]:
    """Yield what is measured of a run, or done between its stages, beside losses and scores."""
    measure = run.measure
    for name in ("remedies", "attribute", "kl_to_base", "output_energy", "critical_scale"):
        if getattr(measure, name):
            yield name
    if run.retrain_heads:
        yield "retrain_heads"


def _memory(config: FinetuneConfig, size: ModelSize) -> float:
    """Bytes of weights, gradients, moments and activations of a batch of the longest rows."""
    trained = size.linear if config.method == "full" else _adapter_weights(config, size)
    state = (
        _BYTES * size.weights + (0 if config.method == "full" else _BYTES * trained) + 3 * _BYTES * trained
    )
    length = config.max_length or _DOCUMENT_TOKENS
    tokens = config.batch_size * length
    width = 2.0 if config.precision == "fp32" else 1.0  # of the activations, in half precisions
    a_layer = _ACTIVATIONS * width * tokens * size.width
    kept = 2 * width * tokens * size.width
    activations = size.layers * kept + a_layer if config.gradient_checkpointing else size.layers * a_layer
    logits = 2 * _BYTES * tokens * size.vocabulary if size.is_causal else 0
    return state + activations + logits
