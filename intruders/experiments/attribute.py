"""Which matrices made a fine-tuned model forget, as parts that sum to the measured rise of its loss."""

import os
import time
from collections.abc import Callable, Container, Mapping, Sequence

import pandas as pd
import torch

from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..audits.result.audit_result import Audit
from ..audits.result.records import AuditedMatrix
from ..checkpoints.stored.names import ModulePath, module_paths
from ..data.columns import Columns
from ..data.corpora import digests_of, load_all
from ..data.task import names_given
from ..errors import SettingError
from ..linalg.low_rank import LowRank
from ..measures.intervals import Interval
from ..mitigation.remedies.remedy import ScaledIntruders
from ..mitigation.tuned_matrices import TunedMatrices
from ..models.loading_settings import AS_STORED, Loading
from ..system.callers_process import apart_from_caller
from ..system.progress import Progress, silent
from ..system.store import Kept
from .attribution import Attribution, LeftOut, MatrixShare, Share
from .dosed_model import ELSEWHERE, DoseGroups
from .experiment_settings import ATTRIBUTION, AttributionSettings
from .open_dosed import open_dosed
from .path_integral import DosePath, PathIntegral, task_measure, text_measure
from .question import Question, digest_of_intruders


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
      loading: how the models are loaded. Parts are summed in single precision whatever the type.
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
    question = Question.about(
        base, tuned, data_seed, seed, audit=audit, loading=loading, compute=compute, progress=progress
    )
    texts, names = names_given(loss_on), names_given(task)
    if not texts:
        raise SettingError(
            "no text to measure; expected text such as the base was trained on; pass --loss-on CORPUS"
        )
    if both := set(texts) & set(names):
        raise SettingError(
            f"{min(both)!r} is given as text and as a task, and a part has one name; pass a copy of the file for one"
        )
    tasks = question.tasks(names, columns or Columns())
    corpora = load_all(texts, max_documents=settings.max_documents, seed=seed)
    with question.working_in(keep, "keep") as folder:
        recorded = settings.recorded()
        key = {
            **question.key(),
            "settings": {name: value for name, value in recorded.items() if name not in ("nodes", "check")},
            "seed": seed,
            "text": digests_of(corpora),
            "tasks": {name: one_task.fingerprint() for name, one_task in tasks.items()},
        }
        # On the CPU: the parts inside the intruders need double precision, which not every device has.
        matrices = TunedMatrices(question.both[0], question.audited, torch.device("cpu"))
        dosed = open_dosed(question, tasks, "direction", so="no loss rose")
        groups, of_intruders = dosed.groups, _inside_intruders(matrices, dosed.updates)
        inside = dosed.add(of_intruders, 0.0)
        measures = [
            text_measure(name, dosed.language, parts, settings.max_tokens, seed)
            for name, parts in corpora.items()
        ] + [
            task_measure(name, opened, tasks[name], settings.max_examples)
            for name, opened in dosed.scored.items()
        ]
        of_inside = digest_of_intruders(matrices.audit)
        path = DosePath(dosed.doses, inside, of_inside, Kept(folder, key), seed, question.progress)
        splits = {measure.name: path.integral(measure, settings.nodes) for measure in measures}
        checks = _checks(path, splits[measures[0].name], groups, settings.check)

    def parts_of(members: Sequence[str]) -> dict[str, Interval]:
        numbers = [number for name in members for number in groups.places[name]]
        return {name: split.interval(numbers) for name, split in splits.items()}

    def grouped(label_of: Callable[[ModulePath], str]) -> list[Share]:
        members: dict[str, list[str]] = {}
        for name, path in zip(groups.matrices, module_paths(groups.matrices), strict=True):
            members.setdefault(label_of(path), []).append(name)
        return [Share(label, parts_of(own), len(own)) for label, own in members.items()]

    audited = {matrix.name: matrix for matrix in matrices.audit.matrices}
    number_inside = {name: number for number, name in enumerate(of_intruders)}
    shares = [
        MatrixShare(
            name=name,
            parts=parts_of([name]),
            intruders=audited[name].intruders if name in audited else None,
            of_intruders={key: split.inside(number_inside[name]) for key, split in splits.items()}
            if name in number_inside
            else {},
            directions={key: split.each(groups.places[name]) for key, split in splits.items()},
        )
        for name in groups.matrices
    ]
    return Attribution(
        base=question.base_source,
        tuned=question.tuned,
        rises=[split.rise() for split in splits.values()],
        matrices=shares,
        layers=grouped(lambda path: path.layer_label),
        kinds=grouped(lambda path: path.kind),
        elsewhere=Share(ELSEWHERE, parts_of([ELSEWHERE]), 0) if ELSEWHERE in groups.places else None,
        checks=checks,
        correlations=_correlations(shares, texts[0], audited),
        settings=recorded,
        seconds=time.perf_counter() - started,
    )


def _checks(path: DosePath, integral: PathIntegral, groups: DoseGroups, count: int) -> list[LeftOut]:
    """Check the largest parts, each by leaving its matrix out of the tuned model."""
    measure, checks = integral.measure, list[LeftOut]()
    parts = {name: sum(integral.each(groups.places[name])) for name in groups.matrices}
    for name in sorted(parts, key=lambda name: -abs(parts[name]))[:count]:
        without = measure.weights * path.losses(measure, 1.0, groups.places[name])
        checks.append(LeftOut(name, parts[name], integral.per_token(integral.tuned - without)))
    return checks


def _inside_intruders(matrices: TunedMatrices, updates: Container[str]) -> dict[str, LowRank]:
    """Return ``Y^T (Y D)``, the update inside the intruders' span, for every matrix with intruders Y (c, m)."""
    remedy, inside = ScaledIntruders(0.0), {}
    for case in matrices.read([remedy]):
        left = case.parts[remedy.scaled(case.matrix)].left.double()  # (c, m)
        if len(left) and case.matrix.name in updates:
            right = case.update.double().apply_transpose(left)  # (c, n)
            inside[case.matrix.name] = LowRank(left.mT.float(), right.float())
    return inside


def _correlations(
    matrices: Sequence[MatrixShare], text: str, audited: Mapping[str, AuditedMatrix]
) -> dict[str, float]:
    """Correlate forgetting with intruders and with the size of the update, over matrices."""
    shares = [share for share in matrices if share.name in audited]
    if len(shares) < 3:
        return {}
    columns = {
        "part": [share.parts[text].estimate for share in shares],
        "intruders": [audited[share.name].intruders for share in shares],
        "update_norm": [audited[share.name].update.frobenius for share in shares],
    }
    with_part = pd.DataFrame(columns).corr("spearman")["part"].drop("part")
    return {str(name): float(value) for name, value in with_part.dropna().items()}  # a side may not vary
