"""The finding of an audit, its meaning, and the next steps: measure, heal or scale the update, retrain.

These words and commands are in the terminal, in the HTML report and in a model card.
"""

from __future__ import annotations

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
# What the commands propose: documents of pydoc (all 79 take minutes on two cores), and folders to write.
PROPOSED_DOCUMENTS = 20
HEALED, SCALED, INTERPOLATED, COMPARED = "healed", "scaled", "interpolated", "compared"
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
        """The command as one shell line."""
        return None if self.command is None else shlex.join(self.command)


@dataclass(frozen=True)
class Facts:
    """The known facts on a tuned model, from which the next steps follow."""

    base: str
    tuned: str
    intruders: int
    settings: AuditSettings
    has_commands: bool  # a command can name both models
    writes_merged: bool  # an adapter whose updates have no factors: what is written is a checkpoint
    scales: CriticalScales | None = None

    @classmethod
    def of(cls, audit: Audit, scales: CriticalScales | None = None) -> Facts:
        """Collect the facts of an audit, with what else was measured of the model."""
        return cls(
            base=audit.base_source,
            tuned=audit.tuned_source,
            intruders=audit.intruders,
            settings=AuditSettings.of(audit),
            has_commands=is_from_files(audit),
            writes_merged=audit.tuned_kind == "adapter"
            and not is_sum(audit.tuned_source)
            and None in [matrix.rank for matrix in audit.matrices],
            scales=scales,
        )

    @property
    def has_loss(self) -> bool:
        """True if a command can measure the loss on text of both models."""
        sides = (self.base, self.tuned)
        return self.has_commands and self.base not in _HEADLESS and all(is_loadable(side) for side in sides)

    def command(self, name: str, *options: str, only: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a command on the two models, with the audit's changed settings that are in ``only``."""
        return (*command_of(name, self.base, self.tuned), *options, *changed_options(self.settings, only))


def steps(facts: Facts) -> list[Step]:
    """Return what to do, in order: measure, heal or turn down, retrain, and scale intruders only where it pays."""
    return [
        _measured(facts),
        *_heal(facts),
        *_turn_down(facts),
        _retrain(),
        *_scale_intruders(facts),
        *_on_scales(facts),
    ]


def is_loadable(source: str) -> bool:
    """Return True for a folder, Hub id or demo model, which transformers may load; not for a file or a sum."""
    return source in DEMO_MODELS or not (is_sum(source) or _WEIGHTS_FILE.search(source))


def _measured(facts: Facts) -> Step:
    """Say how forgetting is measured."""
    if facts.base in _HEADLESS:
        return Step(
            f"{UNMEASURED} '{facts.base}' has no language-model head, so its pre-training loss is not defined. "
            "On a language model, `intruders evaluate TUNED --base BASE --loss-on pydoc` comes first."
        )
    if not facts.has_loss:
        return Step(f"{UNMEASURED} `intruders evaluate` measures it for a model that transformers can load.")
    return Step(
        f"{UNMEASURED} Measure the rise of the loss on {PROPOSED_DOCUMENTS} documents first; if its interval "
        "includes zero, no forgetting was found:",
        command_of(
            "evaluate", facts.tuned, base=facts.base, loss_on="pydoc", max_documents=PROPOSED_DOCUMENTS
        ),
    )


def _heal(facts: Facts) -> Iterator[Step]:
    if not facts.has_loss:
        return
    yield Step(
        f"If the loss rose, recover what the model forgot. {TASK} is the task or data file that it was tuned on, "
        "which it keeps:",
        facts.command("heal", *_measuring(HEALED), only=FINDING_INTRUDERS),
    )


def _turn_down(facts: Facts) -> Iterator[Step]:
    if facts.has_loss:
        yield Step(
            "Or turn the complete update down, by the share that both losses favor:",
            facts.command("scale", *_measuring(SCALED), only=()),
        )
    if not facts.has_commands:
        return
    start = "A share" if facts.has_loss else "If it forgot, turn the complete update down. A share"
    # Not the selection: a share of the complete update is asked for, whatever part of it was audited.
    yield Step(
        f"{start} {SHARE} that you measured (1 is as trained) is written by:",
        facts.command("scale", "--at", SHARE, "--out", INTERPOLATED, *_merged(facts), only=()),
    )


def _retrain() -> Step:
    return Step(f"If you can train again, use a third of the learning rate. {_OF_RATES}")


def _scale_intruders(facts: Facts) -> Iterator[Step]:
    """Suggest a comparison of scaled intruders, if there are some."""
    if not facts.intruders:
        return
    sentence = f"Scale the intruders only if a comparison on your own model favors it. {_OF_DOSES}"
    if not facts.has_loss:
        yield Step(sentence)
    else:
        yield Step(
            f"{sentence} This compares them:",
            facts.command("remedies", "--only", "intruders", *_measuring(COMPARED), only=FINDING_INTRUDERS),
        )


def _merged(facts: Facts) -> tuple[str, ...]:
    return ("--as", "checkpoint") if facts.writes_merged else ()


def at_most(target: int) -> str:
    """Return the intruders that a scale may have, in words."""
    return f"at most {plural(target, 'intruder')}" if target else "no intruders"


def _on_scales(facts: Facts) -> Iterator[Step]:
    """Report the update scale without intruders, which does not measure forgetting."""
    if facts.scales is not None and facts.scales.is_at_search_end:
        verb = "is" if facts.scales.target <= 1 else "are"
        yield Step(
            f"There {verb} {facts.scales.up_to_search_end()}. This counts intruders and does not measure forgetting."
        )
    elif facts.scales is not None:
        yield Step(
            f"The largest update scale with {at_most(facts.scales.target)} is {number(facts.scales.largest)} "
            "(1 = as trained). This counts intruders and does not measure forgetting."
        )
    elif not facts.intruders and facts.has_commands:
        yield Step(
            "Find how far the update can be scaled up before the first intruder appears:",
            facts.command("scale", only=OF_WHOLE_WEIGHTS),
        )


def _measuring(out: str) -> tuple[str, ...]:
    return ("--task", TASK, "--loss-on", "pydoc", "--out", out)


@dataclass(frozen=True)
class NextSteps:
    """The finding of an audit, its meaning by the paper and by our studies, and the next steps."""

    finding: str
    meaning: str
    steps: list[Step]


def next_steps(audit: Audit, scales: CriticalScales | None = None) -> NextSteps:
    """Return the words for `audit`; with its critical scales, they name the largest update scale too."""
    if not audit.matrices:
        return _nothing_audited(audit)
    matrices = plural(len(audit.matrices), "changed matrix", "changed matrices")
    what_to_do = steps(Facts.of(audit, scales))
    if audit.intruders == 0:
        return NextSteps(
            f"None of the {plural(audit.vectors, 'examined vector')} of {matrices} is an intruder.",
            "This does not mean that the model forgot nothing: "
            f"vectors below the top {audit.k} were not examined. {STUDIES_WITHOUT}",
            what_to_do,
        )
    return NextSteps(
        f"Fine-tuning left {plural(audit.intruders, 'intruder')} in {audit.affected:,} of {matrices}.",
        f"{PAPER} {STUDIES}",
        what_to_do,
    )


def _nothing_audited(audit: Audit) -> NextSteps:
    if not_compared(audit.matrices, audit.skipped) is not None:
        finding = "Nothing to audit: no selected matrix differs and can be compared."
        meaning = "This says nothing about the skipped tensors; the reasons are listed with them."
    else:
        finding = "Nothing to audit: base and tuned are equal in every selected matrix."
        meaning = "This says nothing about the tensors that were not selected."
    if not is_from_files(audit):
        return NextSteps(finding, meaning, [])
    command = command_of("inspect", audit.tuned_source, base=audit.base_source)
    step = Step("Check that the paths are the intended ones, and what they contain:", command)
    return NextSteps(finding, meaning, [step])
