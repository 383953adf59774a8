"""Learn on an opened bench: doses from the smallest interpolation that keeps the task, weights from the tuned model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..data.corpora import RANDOM_TOKENS, SELF, documents_in
from ..measures.losses import TaskOutcome
from ..measures.task_score import encoded_examples
from ..models.answers import own_text
from ..models.loading import attend_by_products_if_short
from ..system.progress import silent
from ..system.words import plural
from .bench import distinct_models
from .data_shares import HealData
from .dosed_model import DosedUpdate, TunedState, parameters_of, rates_of, with_parameters
from .experiment_settings import BLOCKS, DOSES, REPLAY, SHARE, WEIGHTS, HealSettings
from .healing import LITTLE
from .learning import LEAST, MOST, Allowance, Learnable, Learning, Measured, least_allowed
from .objective import Objective, StepLosses
from .open_dosed import HealBench, encoded_texts
from .work_folder import WorkFolder

_FEW = 8  # documents or examples; fewer choose and tell little
_STRANGE = 5.0  # nats per token of the base, on text that it does not know
_HALVINGS = 2  # of the range of doses for the start, which the learning leaves at once
_POINT = 0.01  # of accuracy, that a state that is kept may cost on the half that chooses


@dataclass(frozen=True)
class Learned:
    """The state that is kept, and how it was learned."""

    state: TunedState
    best: Measured  # the measures of the kept state
    start: float  # the interpolation that learning started from
    measured: Sequence[Measured]  # of every state on the half that chooses
    notes: Sequence[str] = ()  # what a person should know before the learning starts
    rivals: "Mapping[str, Learned]" = field(default_factory=dict)  # what was learned beside it, by name


def learn(bench: HealBench, settings: HealSettings, *, told: Callable[[str], None] = silent) -> Learned:
    """Learn what the settings say on the half that chooses, and their rivals on the same data and by the same rule.

    Doses begin at the smallest interpolation that is allowed, weights at the tuned model: the further away it is, the
    more their steps cost the task. An interrupted learning resumes where the bench keeps it.
    """
    data, progress = bench.data, bench.question.progress
    task = bench.measuring.tasks[data.task]
    rows = encoded_examples(bench.scored[data.task], task, task.train[: settings.learned_examples])
    longest = max([settings.max_tokens, *(len(row["input_ids"]) for row in rows)])
    for each in distinct_models(bench.language, bench.scored):
        attend_by_products_if_short(each, longest, in_bf16=bench.language.dtype is torch.bfloat16)
    progress("measure the base", 0, 2)
    base = _measured(bench, bench.everywhere(0.0))
    progress("measure the tuned model", 1, 2)
    tuned = _measured(bench, bench.everywhere(1.0))
    notes = _warnings(data, base, tuned)
    for note in notes:
        told(note)
    fewer = max(1, int(_POINT * len(data.choice.examples[data.task])))
    allowance = Allowance(tuned.task_loss + settings.allow, tuned.reproduced - fewer)
    learner = _Learner(bench, settings, rows, allowance)
    learned = learner.learned(settings.learn, told)
    rivals = {
        name: learned if name == settings.learn else learner.learned(name, silent) for name in settings.rivals
    }
    return replace(learned, notes=notes, rivals=rivals)


@dataclass(frozen=True)
class _Learner:
    """What every learning on a bench has in common."""

    bench: HealBench
    settings: HealSettings
    rows: Sequence[dict[str, Any]]  # the examples that are learned, encoded
    allowance: Allowance

    @cached_property
    def tuned(self) -> TaskOutcome:
        """The tuned model on the examples that choose."""
        return self.bench.task_outcome(self.bench.everywhere(1.0), self.bench.data.choice)

    @cached_property
    def smallest(self) -> float:
        """The smallest interpolation that is allowed."""
        bench, choice = self.bench, self.bench.data.choice
        bench.question.progress("find the interpolation to start from", 0, 1)

        return least_allowed(
            lambda dose: self.allowance.allows(bench.on_task(bench.everywhere(dose), choice)),
            halvings=_HALVINGS,
        )

    def learned(self, name: str, told: Callable[[str], None]) -> Learned:
        """Learn the doses, the weights, or a rival of them."""
        bench, data, steps = self.bench, self._data_of(name), self.settings.steps
        if name == SHARE:
            state = bench.everywhere(self.smallest)
            return Learned(state, _measured(bench, state), self.smallest, [])
        learns_weights = name not in (DOSES, BLOCKS)
        start = 1.0 if learns_weights else self.smallest
        values = torch.full_like(bench.doses.values, start, requires_grad=True)
        if name == BLOCKS:
            blocks = torch.tensor(bench.groups.blocks(), device=values.device)
            # The doses of a block are one number: its gradient is the sum of theirs.
            values.register_hook(  # type: ignore[no-untyped-call]
                lambda own: torch.zeros_like(own).index_add_(0, blocks, own)[blocks]
            )
        learned, of_weights = self._learnable_weights() if learns_weights else (None, [])
        # Doses settle where the task has become as bad as it may: an error would only move that bound.
        beside = self.tuned if learns_weights else None
        work = WorkFolder(bench.kept.folder)

        def present() -> TunedState:
            # The start of the weights is the tuned model, which was measured before.
            return TunedState(values.tolist(), learned if learning.measured else None)

        def tell(step: int, losses: StepLosses) -> None:
            said = f"divergence from the base {losses.text:.3f}, from the tuned model {losses.task:.4f}"
            bench.question.progress(f"learn {name}: {said}", step, steps)

        with bench.doses.at(values, learned):
            objective = Objective(
                bench.language,
                bench.scored[data.task],
                bench.doses,
                [encoded_texts(bench.language, part, self.settings.max_tokens) for part in data.text],
                [part.weight for part in data.text],
                self.rows,
                bench.question.seed,
                replays=name == REPLAY,
            )
            learning = Learning(
                [Learnable(values, self.settings.rate, (LEAST, MOST)), *of_weights],
                steps,
                self.settings.weight_of(WEIGHTS if learns_weights else DOSES, in_full=bench.is_in_full),
                objective.gradient,
                lambda: bench.on_task(present(), data.choice, beside=beside),
                lambda: bench.text_loss(present(), data.choice),
                self.allowance,
                self.settings.allow,
                lambda state: work.keep_learning(name, state),
                tell,
            )
            if (kept := work.learning(name)) is not None:
                told(f"resumed after step {learning.resume(kept)} of {steps}")
            bench.question.progress(f"learn {name}", 0, steps)
            best, [doses, *tensors] = learning.run()
        weights = None if learned is None else with_parameters(learned, tensors)
        return Learned(TunedState(doses.tolist(), weights), best, start, learning.measured)

    def _learnable_weights(self) -> tuple[dict[str, DosedUpdate], list[Learnable]]:
        """Return the updates of audited matrices, and their tensors to learn: others could not be written."""
        known = {matrix.name for matrix in self.bench.question.audited.audit.matrices}
        tuned = {matrix: update for matrix, update in self.bench.updates.items() if matrix in known}
        # In single precision: of a rounded weight small steps would be lost.
        tensors = [tensor.to(torch.float32, copy=True).requires_grad_() for tensor in parameters_of(tuned)]
        rates = [rate for update in tuned.values() for rate in rates_of(update, self.settings.rate)]
        return with_parameters(tuned, tensors), list(map(Learnable, tensors, rates))

    def _data_of(self, name: str) -> HealData:
        """Return the data that a rival learns from and is chosen by: of some, other text."""
        if name not in (SELF, RANDOM_TOKENS):
            return self.bench.data
        bench, data = self.bench, self.bench.data
        amount = (documents_in(data.text), self.settings.max_tokens, bench.question.seed)
        with bench.doses.off():
            text = own_text(bench.language, name, *amount, bench.kept, bench.question.progress)
        return replace(data, choice=replace(data.choice, corpora={name: [text]}))


def _measured(bench: HealBench, state: TunedState) -> Measured:
    choice = bench.data.choice
    on_task = bench.on_task(state, choice)
    return Measured(0, on_task.loss, on_task.reproduced, bench.text_loss(state, choice))


def _warnings(data: HealData, base: Measured, tuned: Measured) -> list[str]:
    """Return what a person should know before the learning starts."""
    warnings = []
    assert base.text_loss is not None
    assert tuned.text_loss is not None
    for name, what, count, more in (
        (data.corpus, "document", documents_in(data.text), "--max-documents"),
        (data.task, "example", len(data.choice.examples[data.task]), "--max-examples"),
    ):
        if count < _FEW:
            warnings.append(
                f"{plural(count, f'{what} of {name} chooses', f'{what}s of {name} choose')} what is kept; "
                f"expected {_FEW} or more; pass more data, or a larger {more}"
            )
    forgotten = tuned.text_loss - base.text_loss
    if forgotten < LITTLE:
        warnings.append(
            f"little was forgotten: the loss on {data.corpus} changed by {forgotten:+.3f} nats per token, so there is "
            "little to heal"
        )
    if base.text_loss > _STRANGE:
        warnings.append(
            f"the base itself has a loss of {base.text_loss:.1f} nats per token on {data.corpus}: expected text such "
            "as it was trained on, in a language that it knows"
        )
    if tuned.task_loss >= base.task_loss:
        warnings.append(
            f"the tuned model is not better at {data.task} than the base (loss {tuned.task_loss:.4f} and "
            f"{base.task_loss:.4f}): check that this is the task that it was tuned for"
        )
    return warnings
