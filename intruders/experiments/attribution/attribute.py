"""Which matrices made a fine-tuned model forget, as parts that sum to the measured rise of its loss."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...audits.audit import audited_whole
from ...audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ...audits.result.audit_result import Audit
from ...checkpoints.stored.names import ModulePath, module_paths
from ...data.columns import Columns
from ...data.corpora import Corpora, digests_of, load_all
from ...data.load_task import load_task
from ...data.task import Task, names_given
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...measures.intervals import RESAMPLES, Interval, expanded_percentiles
from ...measures.kept_outcomes import KeptOutcomes, digest_of_intruders
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.tuned_matrices import TunedMatrices
from ...models.loading_settings import AS_STORED, Loading
from ...settings.numbers import check_seeds
from ...system.callers_process import apart_from_caller
from ...system.files import user_path
from ...system.folders import working_folder
from ...system.progress import Progress, silent
from ..bench.given_sides import GivenSides, OpenedSides
from ..doses.dose_groups import ELSEWHERE, DoseGroups, dose_groups
from ..doses.dosed_model import DosedModel, DosedUpdate, DoseVector
from ..doses.open_to_dose import distinct_models, in_doses, open_to_dose
from ..doses.updates import Updates, read_updates
from .attribution import Attribution, LeftOut, MatrixShare, MeasuredRise, Share, rank_correlation
from .attribution_settings import ATTRIBUTION, AttributionSettings
from .document_losses import DocumentMeasure, task_measure, text_measure
from .path_integral import DosePath, Floats, PathIntegral


@apart_from_caller()
def attribute(
    base: str | os.PathLike[str] | None,
    tuned: str | os.PathLike[str] | None = None,
    *,
    loss_on: str | Sequence[str],
    task: str | Sequence[str] = (),
    settings: AttributionSettings = ATTRIBUTION,
    columns: Columns | None = None,
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    data_seed: int | None = None,
    seed: int = 0,
    keep: str | os.PathLike[str] | None = None,
    loading: Loading = AS_STORED,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> Attribution:
    """Split the rise of a loss from base to tuned into parts of the matrices that were tuned.

    ``L(W0 + D) - L(W0) = sum_m int_0^1 <dL/dW_m (W0 + t D), D_m> dt``, by Gauss-Legendre quadrature along the straight
    line from base to tuned. The parts sum to the measured rise. Another path would split it otherwise.

    Args:
      base: folder, Hub id or demo model of the model before fine-tuning; None if an adapter names it.
      tuned: the fine-tuned model, or its adapter. An adapter that names its base may be passed alone.
      loss_on: text whose loss rose, such as the base was trained on.
      task: the learned task, such as "word-problems", "sst2" or a data file; its loss is split too.
      settings: amount of data, and accuracy of the integral.
      columns: the columns of a data file and their meaning.
      audit: settings of the audit, an earlier audit of these two models, or the path of a saved one.
      data_seed: seed of the task's rows, as in fine-tuning; by default that of the run.
      seed: seed of samples, masked tokens and the bootstrap.
      keep: folder in which finished passes are kept, so that a killed attribution resumes.
      loading: how the models are loaded. Parts and gradients are in single precision whatever the type.
      compute: where the audit is computed.
      progress: called with (what is being done, done, in all).

    Returns:
      The parts by matrix, direction of the update, layer and kind of module, in nats per token.

    Raises:
      SettingError: no text was given, or the tuned model equals the base.
      NonFiniteError: a loss, a gradient or a weight is NaN or infinite.
      IntrudersError: as the audit, the models and the data raise it.

    Examples:
      With a base in the folder ``base`` and an adapter in ``tuned``:

      >>> few = AttributionSettings(nodes=5, check=0, max_documents=2, max_tokens=32)
      >>> result = attribute("base", "tuned", loss_on="pydoc", settings=few)
      >>> [list(share.parts) for share in result.largest(1)]
      [['pydoc']]
    """
    started = time.perf_counter()
    check_seeds(seed=seed, data_seed=data_seed)
    texts = names_given(loss_on)
    if not texts:
        raise SettingError(
            "no text to measure; expected text such as the base was trained on; pass --loss-on CORPUS"
        )
    sources = GivenSides.of(base, tuned)
    rows_by = sources.data_seed(data_seed)
    if both := set(texts) & set(names_given(task)):
        raise SettingError(
            f"{min(both)!r} is given as text and as a task, and a part has one name; pass a copy of the file for one"
        )
    tasks = {name: load_task(name, columns or Columns(), rows_by) for name in names_given(task)}
    corpora = load_all(texts, max_documents=settings.max_documents, seed=seed)
    sides = sources.open()
    key = {
        **sides.key(loading),
        "settings": {
            name: value for name, value in settings.recorded().items() if name not in ("nodes", "check")
        },
        "seed": seed,
        "text": digests_of(corpora),
        "tasks": {name: one_task.fingerprint() for name, one_task in tasks.items()},
    }
    with working_folder(None if keep is None else user_path(keep), "keep") as folder:
        kept = KeptOutcomes(folder, key)
        audited = audited_whole(*sides.both, audit, compute, progress)
        work = _Work(sides, settings, seed, loading)
        # On the CPU: the parts inside the intruders need double precision, which not every device has.
        matrices = TunedMatrices.of(sides.before, audited, torch.device("cpu"))
        measured = work.measured(corpora, tasks, matrices, kept, progress)
        return _attribution(
            measured,
            sides.base_source,
            sides.tuned,
            audited.audit,
            settings,
            seed,
            time.perf_counter() - started,
        )


@dataclass(frozen=True)
class _Measured:
    """Everything that the models told."""

    measures: Sequence[DocumentMeasure]
    integrals: Mapping[str, PathIntegral]
    groups: DoseGroups
    inside: Sequence[str]  # the matrices with intruders, in the order of the further factors
    checks: Sequence[LeftOut]


@dataclass(frozen=True)
class _Work:
    sides: OpenedSides
    settings: AttributionSettings
    seed: int
    loading: Loading

    def measured(
        self,
        corpora: Corpora,
        tasks: Mapping[str, Task],
        matrices: TunedMatrices,
        kept: KeptOutcomes,
        progress: Progress,
    ) -> _Measured:
        progress("open the models", 0, 1)
        language, scored = open_to_dose(self.sides, tasks, self.loading)
        device = next(language.model.parameters()).device
        updates = read_updates(self.sides.pairs, "matrix", device, progress, language.dtype).in_directions()
        if not updates.names:
            raise SettingError(
                f"'{self.sides.tuned}' changes nothing in '{self.sides.base_source}', so no loss rose; pass the "
                "model after fine-tuning"
            )
        of_intruders = _inside_intruders(matrices, updates, device)
        inside = DoseVector(torch.zeros(len(of_intruders), device=device))
        in_models = in_doses(language, scored, self.sides, updates, "direction", tasks)
        with in_models as (groups, doses), ExitStack() as entered:
            for model in distinct_models(language, scored):
                entered.enter_context(
                    DosedModel(
                        model,
                        self.sides.stacks,
                        of_intruders,
                        dose_groups(list(of_intruders), "matrix"),
                        inside,
                        is_base=True,
                    )
                )
            measures = [
                text_measure(name, language, parts, self.settings.max_tokens, self.seed)
                for name, parts in corpora.items()
            ] + [
                replace(task_measure(opened, tasks[name], labels, self.settings.max_examples), name=name)
                for name, (opened, labels) in scored.items()
            ]
            path = DosePath(doses, inside, digest_of_intruders(matrices.audit), kept, progress)
            integrals = {measure.name: path.integral(measure, self.settings.nodes) for measure in measures}
            checks = self._checks(path, measures[0], integrals[measures[0].name], groups)
        return _Measured(measures, integrals, groups, list(of_intruders), checks)

    def _checks(
        self, path: DosePath, measure: DocumentMeasure, integral: PathIntegral, groups: DoseGroups
    ) -> list[LeftOut]:
        """Check the largest parts, each by leaving its matrix out of the tuned model."""
        tokens = integral.tokens.sum()
        parts = {
            name: float(integral.parts[:, list(groups.places[name])].sum() / tokens)
            for name in groups.matrices
        }
        largest = sorted(parts, key=lambda name: -abs(parts[name]))[: self.settings.check]
        return [
            LeftOut(
                name,
                parts[name],
                float((integral.tuned - integral.weights * without).sum() / tokens),
            )
            for name in largest
            for without in [path.losses(measure, 1.0, torch.tensor(groups.places[name]))]
        ]


def _inside_intruders(
    matrices: TunedMatrices, updates: Updates, device: torch.device
) -> dict[str, DosedUpdate]:
    """Return ``Y^T (Y D)``, the update inside the intruders' span, for every matrix with intruders Y (c, m)."""
    remedy = ScaledIntruders(0.0)
    inside = {}
    for case in matrices.read([remedy]):
        left = case.parts[remedy.scaled(case.matrix)].left.double()  # (c, m)
        if len(left) and case.matrix.name in updates.by_name:
            right = case.update.double().apply_transpose(left)  # (c, n)
            inside[case.matrix.name] = DosedUpdate.of(LowRank(left.mT.float(), right.float()), device)
    return inside


def _attribution(
    measured: _Measured,
    base: str,
    tuned: str,
    audit: Audit,
    settings: AttributionSettings,
    seed: int,
    seconds: float,
) -> Attribution:
    names = measured.groups.matrices
    intruders = {matrix.name: matrix.intruders for matrix in audit.matrices}
    splits = {name: _Split(integral, seed) for name, integral in measured.integrals.items()}

    def parts_of(members: Sequence[str]) -> dict[str, Interval]:
        numbers = [number for name in members for number in measured.groups.places[name]]
        return {name: split.interval(numbers) for name, split in splits.items()}

    def matrix_share(name: str) -> MatrixShare:
        numbers = list(measured.groups.places[name])
        return MatrixShare(
            name=name,
            parts=parts_of([name]),
            matrices=1,
            intruders=intruders.get(name),
            of_intruders={key: split.inside(measured.inside.index(name)) for key, split in splits.items()}
            if name in measured.inside
            else {},
            directions={key: split.each(numbers) for key, split in splits.items()},
        )

    def grouped(label_of: Callable[[ModulePath], str]) -> list[Share]:
        members: dict[str, list[str]] = {}
        for name, path in zip(names, module_paths(names), strict=True):
            members.setdefault(label_of(path), []).append(name)
        return [Share(label, parts_of(own), len(own)) for label, own in members.items()]

    matrices = [matrix_share(name) for name in names]
    text = measured.measures[0].name
    return Attribution(
        base=base,
        tuned=tuned,
        rises=[
            _rise(measure, measured.integrals[measure.name], splits[measure.name])
            for measure in measured.measures
        ],
        matrices=matrices,
        layers=grouped(lambda path: path.layer_label),
        kinds=grouped(lambda path: path.kind),
        elsewhere=Share(ELSEWHERE, parts_of([ELSEWHERE]), 0) if ELSEWHERE in measured.groups.places else None,
        checks=measured.checks,
        correlations=dict(_correlations(matrices, text, audit)),
        settings=settings.recorded(),
        seconds=seconds,
    )


def _correlations(matrices: Sequence[MatrixShare], text: str, audit: Audit) -> Iterator[tuple[str, float]]:
    """Correlate forgetting with intruders and with the size of the update, over matrices."""
    audited = {matrix.name: matrix for matrix in audit.matrices}
    both = [share for share in matrices if share.name in audited]
    parts = [share.parts[text].estimate for share in both]
    for name, values in (
        ("intruders", [float(audited[share.name].intruders) for share in both]),
        ("update_norm", [float(audited[share.name].update.frobenius) for share in both]),
    ):
        correlation = rank_correlation(parts, values)
        if correlation is not None:
            yield name, correlation


def _rise(measure: DocumentMeasure, integral: PathIntegral, split: _Split) -> MeasuredRise:
    tokens = int(integral.tokens.sum())
    return MeasuredRise(
        name=measure.name,
        kind=measure.kind,
        measure=measure.measure,
        documents=len(integral.tokens),
        tokens=tokens,
        base_loss=float(integral.base.sum() / tokens),
        tuned_loss=float(integral.tuned.sum() / tokens),
        rise=split.of(integral.tuned - integral.base),
        total=integral.total,
        nodes=integral.nodes,
    )


class _Split:
    """Parts per token with intervals over documents, all from the same resamples."""

    def __init__(self, integral: PathIntegral, seed: int) -> None:
        self._integral = integral
        count = len(integral.tokens)
        drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=RESAMPLES)
        self._drawn: Floats = drawn.astype(np.float64)  # (resamples, documents): how often each is drawn
        self._tokens: Floats = self._drawn @ (integral.weights * integral.tokens)

    def of(self, sums: Floats) -> Interval:
        """Return the interval of sums over documents (documents,), per token."""
        estimate = float(sums.sum() / self._integral.tokens.sum())
        return expanded_percentiles(estimate, self._drawn @ sums / self._tokens, len(sums))

    def interval(self, numbers: Sequence[int]) -> Interval:
        return self.of(self._integral.parts[:, list(numbers)].sum(axis=1))

    def each(self, numbers: Sequence[int]) -> list[float]:
        per_token = self._integral.parts[:, list(numbers)].sum(axis=0) / self._integral.tokens.sum()
        return [float(part) for part in per_token]

    def inside(self, number: int) -> float:
        return float(self._integral.added[:, number].sum() / self._integral.tokens.sum())
