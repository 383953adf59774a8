"""An evaluation as text for a terminal."""

from ..measures.corpus_loss import CorpusLoss
from ..measures.evaluation import Evaluation, Measured
from ..measures.harness import HarnessScore
from ..measures.task_score import TaskScore
from ..system.words import plural, shorten


def measure_lines(measure: Measured) -> list[str]:
    """Return one or two lines of one measure, with 95 % intervals, or the line of a note."""
    if isinstance(measure, CorpusLoss):
        return _loss_lines(measure)
    if isinstance(measure, TaskScore):
        count, accuracy = len(measure.right), measure.accuracy
        examples = f"{count} example{'s' * (count != 1)}"
        part = "the tenth held out of the file" if measure.is_held_out else measure.split
        unfinished = (
            f"  answers were read up to {measure.limit}; {measure.unfinished} of {count} had not ended"
        )
        lines = [f"accuracy on {measure.task}, {part} ({examples}): {accuracy.text('.4f')}"]
        return lines if measure.limit is None else [*lines, unfinished]
    if isinstance(measure, HarnessScore):
        error = "" if measure.standard_error is None else f" (standard error {measure.standard_error:.4f})"
        return [f"{measure.metric} on {measure.task} (lm-evaluation-harness): {measure.value:.4f}{error}"]
    return [f"note: {measure}"]


def step_lines(result: Evaluation) -> list[str]:
    """Return a table for each text, of the models of a series and what each adds to the loss of the one before it."""
    lines: list[str] = []
    for of_text in zip(*(step.losses for step in [result, *result.also]), strict=True):
        form, base = "+.3f", of_text[0].base_loss
        assert base is not None
        rows = [(str(result.base), f"{base.estimate:.3f}", "", "")]
        parts: list[tuple[float, str]] = []
        for step, loss in zip([result, *result.also], of_text, strict=True):
            change, own = loss.difference, loss.own_part or loss.difference
            assert change is not None
            assert own is not None
            rows.append((step.model, f"{loss.loss.estimate:.3f}", change.text(form), own.text(form)))
            if own.is_above_zero and step is not result:
                parts.append((own.estimate, f"{step.model!r} lost most, {own.text(form)} nats per token"))
        titles = (f"on {of_text[0].name}", "loss", "change from the base", "its own part")
        for name, loss_text, change_text, own_text in [titles, *rows]:
            lines.append(f"{shorten(name, 22):22}  {loss_text:>6}  {change_text:23}  {own_text}".rstrip())
        lost = max(parts)[1] if parts else "no step raised the loss beyond its interval"
        lines.append(f"after {result.model!r}: {lost}")
    return lines


def _loss_lines(loss: CorpusLoss) -> list[str]:
    measure = loss.losses[0].measure
    tokens = sum(int(part.tokens.sum()) for part in loss.losses)
    documents = plural(sum(len(part.sums) for part in loss.losses), "document")
    what = f"{measure} on {loss.name} ({tokens:,} tokens in {documents})"
    lines = [f"{what}: {loss.loss.text('.4f')} nats per token"]
    change, ratio = loss.difference, loss.perplexity_ratio
    if loss.base_loss is not None and change is not None and ratio is not None:
        perplexity = "perplexity" if measure == "cross-entropy" else f"perplexity of the {measure}"
        lines.append(
            f"  base {loss.base_loss.estimate:.4f}, change {change.text('+.4f')} nats per token: "
            f"{perplexity} x{ratio.estimate:.2f}{ratio.ends('.2f')}"
        )
        if not change.has_ends:
            lines.append("  one document has no confidence interval")
    return lines
