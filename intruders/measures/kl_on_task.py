"""How far a tuned model's predictions on its own task are from the base's.

    KL(base || tuned) = sum_v p(v) (log p(v) - log q(v)),  p of the base, q of the tuned model

per predicted token, apart for the tokens of prompts and those of answers. This direction is the one that "RL's Razor"
(arXiv 2509.04259) measures on the new task and finds to predict forgetting.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..data.task import Task
from ..errors import NonFiniteError, SettingError
from ..models.answers import evaluating
from ..models.encoding import IGNORED, batches_by_length, encode_completions, labels_of_next
from ..models.loading_settings import AS_STORED, Loading
from ..models.tuned_model import open_for_task
from .intervals import Interval, loss_interval
from .losses import DocumentLosses
from .task_score import first_examples

_ROWS = 8  # in one pass: the logits of both models are kept


@dataclass(frozen=True)
class KLOnTask:
    """The mean KL(base || tuned) in nats per token, with its 95 % interval over examples."""

    examples: int
    prompts: Interval
    answers: Interval


def kl_on_task(
    base: str,
    tuned: str,
    task: Task,
    *,
    max_examples: int | None = None,
    drop_too_long: bool = False,
    loading: Loading = AS_STORED,
) -> KLOnTask:
    """Measure KL(base || tuned) on the first examples of the test split, or of the validation split without one.

    ``drop_too_long`` leaves out those that do not fit in the context of both models. The first token of a prompt is not
    predicted. SettingError for a task of classes, and for an example that does not fit.
    """
    if task.kind == "classification":
        raise SettingError(
            f"task {task.name!r} is classification, whose head starts at random: the base has no predictions to "
            "compare with; use a task with prompts and completions, or leave kl_to_base out"
        )
    _, examples = first_examples(task, None, max_examples)
    opened = [open_for_task(source, task, base, loading) for source in (base, tuned)]
    context = min(model_of.context for model_of in opened)
    tokenizer = opened[1].tokenizer  # of the model that was trained on such rows
    rows = encode_completions(
        tokenizer, examples, context, drop_too_long=drop_too_long, where="examples of the KL to the base"
    )
    sums = np.zeros((len(rows), 2))
    tokens = np.zeros((len(rows), 2), dtype=np.int64)
    before, after = (model_of.model for model_of in opened)
    device = next(before.parameters()).device
    with evaluating(before), evaluating(after), torch.no_grad():
        for chosen, batch in batches_by_length(rows, tokenizer, _ROWS, device):
            of_answers = labels_of_next(batch.pop("labels")) != IGNORED  # (rows, width)
            seen = batch["attention_mask"].bool()
            predicts = torch.cat([seen[:, 1:], torch.zeros_like(seen[:, :1])], dim=1)
            # (positions, vocabulary) each
            p, q = (model(**batch).logits[predicts].float().log_softmax(-1) for model in (before, after))
            kl = torch.zeros(predicts.shape, dtype=torch.float64, device=device)  # where none is asked for
            kl[predicts] = (p.exp() * (p - q)).sum(-1).double()
            for at, row in enumerate(chosen):
                for part, mask in enumerate((predicts[at] & ~of_answers[at], of_answers[at])):
                    sums[row, part] = float(kl[at][mask].sum())
                    tokens[row, part] = int(mask.sum())
    if not np.isfinite(sums).all():
        raise NonFiniteError(
            f"the KL to the base on task {task.name!r} is NaN or infinite; expected finite numbers; check the tuned "
            "model"
        )

    def mean(part: int) -> Interval:
        kept = tokens[:, part] > 0
        losses = DocumentLosses("kl", sums[kept, part], tokens[kept, part])
        return loss_interval(losses) if kept.any() else Interval(math.nan, -math.inf, math.inf, 0)

    return KLOnTask(len(rows), mean(0), mean(1))
