"""What an audit found means, and what to do next: the same words in the terminal and in the HTML report."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..audits.audit_result import Audit
from ..audits.critical_scales_result import CriticalScales
from ..charts.text import number, plural
from ..checkpoints.demo_models import DEMO_MODELS
from ..checkpoints.pairing.pairing import SkipKind
from .audit_command import is_from_files

# What the commands propose: documents of pydoc (all 79 take minutes on two cores), and a mitigation.
PROPOSED_DOCUMENTS = 20
PROPOSED_SCALE = 0.3
PROPOSED_OUT = "mitigated"

_DEFAULTS = {"k": 10, "epsilon": 0.5}
# A demo model that is stored without a language-model head has no pre-training loss.
_HEADLESS = ("minilm-l6",)
_WEIGHTS_FILE = re.compile(r"\.(safetensors|gguf|bin|pt|pth|ckpt|json)$")
# Kinds of reasons to skip a tensor that leave open whether fine-tuning changed it, though it was selected.
_NOT_COMPARED = (SkipKind.OTHER_SHAPE, SkipKind.NO_COUNTERPART, SkipKind.NOT_FINITE)


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
class NextSteps:
    """What an audit found, what that means, and what to do next."""

    finding: str
    meaning: str
    steps: list[Step]


def next_steps(audit: Audit, scales: CriticalScales | None = None) -> NextSteps:
    """Return the words for `audit`; with its critical scales, the largest update scale instead of a command."""
    if not audit.matrices:
        return _nothing_audited(audit)
    matrices = plural(len(audit.matrices), "changed matrix", "changed matrices")
    if audit.intruders == 0:
        return NextSteps(
            f"None of the {plural(audit.vectors, 'examined vector')} of {matrices} is an intruder.",
            "This does not mean that the model forgot nothing: a model can forget without intruders, and "
            f"vectors below the top {audit.k} were not examined.",
            [_evaluate(audit), *_scale(audit, scales)],
        )
    affected = sum(matrix.intruders > 0 for matrix in audit.matrices)
    return NextSteps(
        f"Fine-tuning left {plural(audit.intruders, 'intruder')} in {affected:,} of {matrices}.",
        "Shuttleworth et al. (2024) found that models with intruders forget more of their pre-training.",
        [_evaluate(audit), *_scale(audit, scales), *_mitigate(audit)],
    )


def _nothing_audited(audit: Audit) -> NextSteps:
    if any(skipped.kind in _NOT_COMPARED for skipped in audit.skipped):
        finding = "Nothing to audit: no selected matrix differs and can be compared."
        meaning = "This says nothing about the skipped tensors; the reasons are listed with them."
    else:
        finding = "Nothing to audit: base and tuned are equal in every selected matrix."
        meaning = "This says nothing about the tensors that were not selected."
    if not is_from_files(audit):
        return NextSteps(finding, meaning, [])
    command = ("intruders", "inspect", audit.tuned_source, "--base", audit.base_source)
    step = Step("Check that the paths are the intended ones, and what they contain:", command)
    return NextSteps(finding, meaning, [step])


def _evaluate(audit: Audit) -> Step:
    unmeasured = "An audit does not measure forgetting."
    if audit.base_source in _HEADLESS:
        return Step(
            f"{unmeasured} '{audit.base_source}' has no language-model head, so its pre-training loss is not "
            "defined."
        )
    if not (is_from_files(audit) and _is_folder(audit.base_source) and _is_folder(audit.tuned_source)):
        return Step(f"{unmeasured} `intruders evaluate` measures it for a model that transformers can load.")
    return Step(
        f"{unmeasured} For a language model, measure the rise of its pre-training loss on "
        f"{PROPOSED_DOCUMENTS} documents:",
        (
            *("intruders", "evaluate", audit.tuned_source, "--base", audit.base_source),
            *("--loss-on", "pydoc", "--max-documents", str(PROPOSED_DOCUMENTS)),
        ),
    )


def _scale(audit: Audit, scales: CriticalScales | None) -> Iterator[Step]:
    if scales is not None:
        most = f"at most {plural(scales.target, 'intruder')}" if scales.target else "no intruders"
        yield Step(f"The largest update scale with {most} is {number(scales.largest)} (1 = as trained).")
    elif is_from_files(audit):
        if audit.intruders:
            sentence = "Find the largest update scale without intruders:"
        else:
            sentence = "Find how far the update can be scaled up before the first intruder appears:"
        yield Step(sentence, _command("scale", audit))


def _mitigate(audit: Audit) -> Iterator[Step]:
    if not is_from_files(audit):
        return
    share = f"{100 * PROPOSED_SCALE:g} %"
    if audit.settings.get("split_fused"):
        what = f"Scale the intruders to {share} (fused weights as one matrix, so the count can differ)"
    else:
        what = f"Scale the {plural(audit.intruders, 'intruder')} to {share}"
    command = [*_command("mitigate", audit), "--scale", f"{PROPOSED_SCALE:g}", "--out", PROPOSED_OUT]
    ranks = [matrix.rank for matrix in audit.matrices]
    if audit.tuned_kind != "adapter" or _is_sum(audit.tuned_source):
        form = "a checkpoint"
    elif None in ranks:
        form = "a merged checkpoint"
        command += ["--as", "checkpoint"]
    else:
        form = f"an adapter of rank {max((m.rank or 0) + m.intruders for m in audit.matrices)} or less"
    yield Step(f"{what} and save {form}:", tuple(command))


def _command(name: str, audit: Audit) -> tuple[str, ...]:
    """Return a command on the same two models, with the audit's settings that are not the defaults."""
    parts = ["intruders", name, audit.base_source, audit.tuned_source]
    for setting, default in _DEFAULTS.items():
        if getattr(audit, setting) != default:
            parts += [f"--{setting}", f"{getattr(audit, setting):g}"]
    for setting in ("include", "exclude"):
        for pattern in audit.settings.get(setting) or ():
            parts += [f"--{setting}", str(pattern)]
    if audit.settings.get("include_embeddings"):
        parts.append("--include-embeddings")
    return tuple(parts)


def _is_folder(source: str) -> bool:
    """Whether transformers may load it: a folder, a Hub id or a demo model, not one file or a sum of models."""
    return source in DEMO_MODELS or not (_is_sum(source) or _WEIGHTS_FILE.search(source))


def _is_sum(source: str) -> bool:
    if "@" not in source and "+" not in source:
        return False
    try:
        return not Path(source).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name, or an unknown home: no path
        return True
