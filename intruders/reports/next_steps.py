"""The finding of an audit, its meaning, and the next steps: measure, heal or scale the update, retrain.

These words and commands are in the terminal, in the HTML report and in a model card.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..audits.audit_settings import FINDING_INTRUDERS, OF_WHOLE_WEIGHTS, AuditSettings
from ..audits.result.audit_result import Audit
from ..audits.result.summary import not_compared
from ..audits.scales.critical_scales_result import CriticalScales
from ..checkpoints.opening.model_sum import is_sum
from ..checkpoints.stored.locate import DEMO_MODELS
from ..system.commands import changed_options, command_of
from ..system.words import number, plural
from .audit_command import is_from_files

UNMEASURED = "An audit does not measure forgetting."
PREDICTED = "The nats above are predicted."
PAPER = "Shuttleworth et al. (2024) found that models with intruders forget more of their pre-training."
STUDIES = (
    "Our studies of two small models did not decide whether intruders cause forgetting; models without intruders "
    "forgot too."
)
STUDIES_WITHOUT = "In our studies, models without intruders forgot too."
# What our studies found of a remedy; docs/results has the tables.
_OF_DOSES = (
    "At equal task loss, our study found that a share of the complete update forgets less than scaled intruders do "
    "(SmolLM2-135M, rank 1, eight of eight seeds)."
)
_OF_RATES = (
    "In our runs of MiniLM-L6 on two tasks, a third left at most one intruder in every setting that had reached the "
    "accuracy with some."
)
PROPOSED_DOCUMENTS = 20  # of pydoc: all 79 take minutes on two cores
# What only the user knows, in the place of a value.
TASK, SHARE = "TASK", "S"

# A demo model that is stored without a language-model head has no pre-training loss.
_HEADLESS = ("minilm-l6",)
_WEIGHTS_FILE = re.compile(r"\.(safetensors|gguf|bin|pt|pth|ckpt|json)$")


@dataclass(frozen=True)
class Step:
    """One thing to do: a sentence and, if there is one, the command that does it."""

    sentence: str
    command: tuple[str, ...] | None = None

    @property
    def line(self) -> str | None:
        return None if self.command is None else shlex.join(self.command)


def _steps(audit: Audit, scales: CriticalScales | None) -> Iterator[Step]:
    """Yield what to do, in order: measure, heal or turn down, retrain, and scale intruders only where it pays."""
    base, tuned, settings = audit.base_source, audit.tuned_source, AuditSettings.of(audit)
    has_commands = is_from_files(audit)
    has_loss = has_commands and base not in _HEADLESS and _is_loadable(base) and _is_loadable(tuned)

    def command(name: str, *options: str, only: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a command on the two models, with the audit's changed settings that are in ``only``."""
        return (*command_of(name, base, tuned), *options, *changed_options(settings, only))

    def measuring(out: str) -> tuple[str, ...]:
        return ("--task", TASK, "--loss-on", "pydoc", "--out", out)

    if base in _HEADLESS:
        yield Step(
            f"{UNMEASURED} '{base}' has no language-model head, so its pre-training loss is not defined. "
            "On a language model, `intruders evaluate TUNED --base BASE --loss-on pydoc` comes first."
        )
    elif not has_loss:
        yield Step(f"{UNMEASURED} `intruders evaluate` measures it for a model that transformers can load.")
    else:
        yield Step(
            f"{PREDICTED if audit.forgetting else UNMEASURED} Measure the rise of the loss on "
            f"{PROPOSED_DOCUMENTS} documents first; if its interval includes zero, no forgetting was found:",
            command_of("evaluate", tuned, base=base, loss_on="pydoc", max_documents=PROPOSED_DOCUMENTS),
        )
    if has_loss:
        yield Step(
            f"If the loss rose, recover what the model forgot. {TASK} is the task or data file that it was tuned on, "
            "which it keeps:",
            command("heal", "--task", TASK, "--out", "healed", only=FINDING_INTRUDERS),
        )
        yield Step(
            "Or turn the complete update down, by the share that both losses favor:",
            command("scale", *measuring("scaled")),
        )
    if has_commands:
        start = "A share" if has_loss else "If it forgot, turn the complete update down. A share"
        # An adapter whose updates have no factors: what is written is a checkpoint.
        is_merged = (
            audit.tuned_kind == "adapter" and not is_sum(tuned) and None in [m.rank for m in audit.matrices]
        )
        # Not the selection: a share of the complete update is asked for, whatever part of it was audited.
        form = ("--as", "checkpoint") if is_merged else ()
        yield Step(
            f"{start} {SHARE} that you measured (1 is as trained) is written by:",
            command("scale", "--at", SHARE, "--out", "interpolated", *form),
        )
    yield Step(f"If you can train again, use a third of the learning rate. {_OF_RATES}")
    if audit.intruders:
        sentence = f"Scale the intruders only if a comparison on your own model favors it. {_OF_DOSES}"
        if has_loss:
            options = ("--only", "intruders", *measuring("compared"))
            yield Step(
                f"{sentence} This compares them:", command("remedies", *options, only=FINDING_INTRUDERS)
            )
        else:
            yield Step(sentence)
    if scales is not None:
        largest = f"There {'is' if scales.target <= 1 else 'are'} {scales.up_to_search_end()}"
        if not scales.is_at_search_end:
            most = f"at most {plural(scales.target, 'intruder')}" if scales.target else "no intruders"
            largest = f"The largest update scale with {most} is {number(scales.largest)} (1 = as trained)"
        yield Step(f"{largest}. This counts intruders and does not measure forgetting.")
    elif not audit.intruders and has_commands:
        yield Step(
            "Find how far the update can be scaled up before the first intruder appears:",
            command("scale", only=OF_WHOLE_WEIGHTS),
        )


def _is_loadable(source: str) -> bool:
    """Return True for a folder, Hub id or demo model, which transformers may load; not for a file or a sum."""
    return source in DEMO_MODELS or not (is_sum(source) or _WEIGHTS_FILE.search(source))


@dataclass(frozen=True)
class NextSteps:
    """The finding of an audit, its meaning by the paper and by our studies, and the next steps."""

    finding: str
    meaning: str
    steps: Sequence[Step]


def next_steps(audit: Audit, scales: CriticalScales | None = None) -> NextSteps:
    """Return the words for `audit`; with its critical scales, they name the largest update scale too."""
    if audit.matrices:
        matrices = plural(len(audit.matrices), "changed matrix", "changed matrices")
        finding = (
            f"Fine-tuning left {plural(audit.intruders, 'intruder')} in {audit.affected:,} of {matrices}."
        )
        meaning = f"{PAPER} {STUDIES}"
        if audit.intruders == 0:
            finding = f"None of the {plural(audit.vectors, 'examined vector')} of {matrices} is an intruder."
            meaning = (
                "This does not mean that the model forgot nothing: "
                f"vectors below the top {audit.k} were not examined. {STUDIES_WITHOUT}"
            )
        return NextSteps(finding, meaning, list(_steps(audit, scales)))
    finding = "Nothing to audit: base and tuned are equal in every selected matrix."
    meaning = "This says nothing about the tensors that were not selected."
    if not_compared(audit.matrices, audit.skipped) is not None:
        finding = "Nothing to audit: no selected matrix differs and can be compared."
        meaning = "This says nothing about the skipped tensors; the reasons are listed with them."
    command = command_of("inspect", audit.tuned_source, base=audit.base_source)
    step = Step("Check that the paths are the intended ones, and what they contain:", command)
    return NextSteps(finding, meaning, [step] if is_from_files(audit) else [])
