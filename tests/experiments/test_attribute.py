"""Parts of a rise against a path integral in double precision, and against the rise itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM

import intruders
from intruders.errors import SettingError
from intruders.experiments.experiment_settings import AttributionSettings
from intruders.experiments.path_integral import DocumentMeasure
from intruders.models.loading import load_model, load_tokenizer
from intruders.system.folders import locked_folder
from tests.checkpoints.models import with_lora
from tests.json_lines import write_rows
from tests.tiny import mean_loss_by_hand, save_bert, save_llama, short_texts

from .healed_models import Models, tuned_in_full

SETTINGS = AttributionSettings(nodes=5, check=3, max_documents=4, max_tokens=24, max_examples=3)
AUDIT = intruders.AuditSettings(k=3)
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_texts(tmp_path_factory.mktemp("text") / "text.jsonl", 4)


def attributed(models: Models, text: Path, **options: Any) -> intruders.Attribution:
    given: dict[str, Any] = {"settings": SETTINGS, "audit": AUDIT, **options}
    return intruders.attribute(*models, loss_on=str(text), **given)


def by_hand(
    base: Any, tuned: Tensors, documents: list[list[int]], nodes: int, inside: Tensors | None = None
) -> dict[str, float]:
    """``int <dL/dW, D> dt`` per tensor, from gradients of whole weights in double precision.

    With a part of D ``inside`` it, the same of that part.
    """
    model = base.double()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    change = {name: tuned[name].double() - before[name] for name in before}
    parts = dict.fromkeys(before, 0.0)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    tokens = sum(len(ids) - 1 for ids in documents)
    for point, weight in zip(points, weights, strict=True):
        at = (1 + point) / 2
        for name, parameter in model.named_parameters():
            parameter.data = before[name] + at * change[name]
        model.zero_grad()
        for ids in documents:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            (cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum") / tokens).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                along = (inside or change).get(name, torch.zeros(()))
                parts[name] += weight / 2 * float((parameter.grad * along).sum())
    return parts


def documents_of(base: str, text: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(base)
    texts = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    return [tokenizer(document)["input_ids"][:24] for document in texts]


def merged(models: Models) -> Tensors:
    opened: Any = PeftModel.from_pretrained(load_model(models[0], "causal"), models[1]).merge_and_unload()
    return dict(opened.state_dict())


def assert_total(rise: Any) -> None:
    assert abs(rise.total - rise.rise.estimate) <= max(0.02 * abs(rise.rise.estimate), 1e-4)


def assert_parts(attribution: intruders.Attribution, base: str, after: Tensors, text: Path) -> None:
    expected = by_hand(load_model(base, "causal"), after, documents_of(base, text), 40)
    rise = attribution.rises[0]
    assert_total(rise)
    most = max(2e-3 * abs(rise.rise.estimate), 1e-5)
    for share in attribution.matrices:
        assert share.parts[str(text)].estimate == pytest.approx(expected[share.name], abs=most)


def test_the_parts_are_those_of_a_path_integral_over_whole_weights(models: Models, text: Path) -> None:
    """And layers and kinds hold the parts of their matrices, of a text as of a task."""
    attribution = attributed(models, text, task="word-problems")
    assert_parts(attribution, models[0], merged(models), text)
    for share in attribution.matrices:
        parts = share.directions[str(text)]
        assert sum(parts) == pytest.approx(share.parts[str(text)].estimate, abs=1e-9)
    for rise in attribution.rises:
        whole = sum(share.parts[rise.name].estimate for share in attribution.matrices)
        assert whole == pytest.approx(rise.total, abs=1e-9)
        for groups in (attribution.layers, attribution.kinds):
            assert sum(group.parts[rise.name].estimate for group in groups) == pytest.approx(whole, abs=1e-9)
    assert attribution.task == "word-problems"
    assert {rise.kind for rise in attribution.rises} == {"text", "task"}


def test_what_lies_in_the_span_of_intruders_is_part_of_the_matrix(models: Models, text: Path) -> None:
    """``<G, Y Y^T D>`` against gradients of whole weights."""
    audit = intruders.audit(*models, k=3)
    matrix = next(matrix for matrix in audit.matrices if matrix.intruders)
    attribution = attributed(models, text, audit=audit)
    base, after = load_model(models[0], "causal"), merged(models)
    before, tuned = base.state_dict()[matrix.name].double(), after[matrix.name].double()
    span = torch.linalg.svd(tuned)[0][:, [vector.index for vector in matrix.vectors if vector.intruder]]
    projected = span @ (span.T @ (tuned - before))
    documents = documents_of(models[0], text)
    expected = by_hand(base, after, documents, 20, {matrix.name: projected})[matrix.name]
    share = next(share for share in attribution.matrices if share.name == matrix.name)
    rise = abs(attribution.rises[0].rise.estimate)
    assert share.of_intruders[str(text)] == pytest.approx(expected, abs=5e-3 * rise)


def test_a_mixture_rises_by_the_weighted_mean_of_its_parts(models: Models, tmp_path: Path) -> None:
    """The truth is the mean loss of each part from plain forward passes; the parts differ in length and number."""
    first, second = short_texts(tmp_path / "a.jsonl", 4), tmp_path / "b.jsonl"
    write_rows(second, [{"text": "zzzz"}, {"text": "(((((("}])
    mixture = f"{first}@3+{second}@1"
    attribution = intruders.attribute(*models, loss_on=mixture, settings=SETTINGS, audit=AUDIT)
    base, tuned = load_model(models[0], "causal"), load_model(models[0], "causal")
    tuned.load_state_dict(merged(models))
    rise = attribution.rises[0]
    for model, told in ((base, rise.base_loss), (tuned, rise.tuned_loss)):
        means = [mean_loss_by_hand(model, documents_of(models[0], file)) for file in (first, second)]
        assert told == pytest.approx(0.75 * means[0] + 0.25 * means[1], abs=1e-5)
    assert_total(rise)
    for check in attribution.checks:
        weight = tuned.state_dict()[check.name]
        own = weight.clone()
        weight.copy_(base.state_dict()[check.name])
        means = [mean_loss_by_hand(tuned, documents_of(models[0], file)) for file in (first, second)]
        assert check.fall == pytest.approx(rise.tuned_loss - 0.75 * means[0] - 0.25 * means[1], abs=1e-5)
        weight.copy_(own)


def test_the_start_of_a_document_is_read_with_a_tokenizer_that_cuts_on_the_left(
    models: Models, tmp_path: Path, text: Path
) -> None:
    """As the tokenizers of many models that chat do."""
    base = Path(shutil.copytree(models[0], tmp_path / "base"))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "left"}))
    attribution = attributed((str(base), models[1]), text)
    expected = mean_loss_by_hand(load_model(models[0], "causal"), documents_of(models[0], text))
    assert attribution.rises[0].base_loss == pytest.approx(expected, abs=1e-5)


def test_a_full_fine_tuning_has_parts_of_norms_too(tmp_path: Path, text: Path) -> None:
    base = str(save_llama(tmp_path / "base"))
    tuned = tuned_in_full(base, tmp_path / "tuned")
    after = dict(load_model(tuned, "causal").state_dict())
    assert_parts(attributed((base, tuned), text), base, after, text)


def test_a_masked_model(tmp_path: Path, text: Path) -> None:
    base, adapter = str(save_bert(tmp_path / "bert")), str(tmp_path / "adapter")
    model = AutoModelForMaskedLM.from_pretrained(base)
    with_lora(model, target_modules=["query", "value"]).save_pretrained(adapter)
    rise = attributed((base, adapter), text).rises[0]
    assert rise.measure == "masked-15%-estimate"
    assert_total(rise)


def test_finished_passes_are_kept_and_are_not_found_with_other_intruders_or_another_seed(
    models: Models, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attributed(models, text, keep=tmp_path / "kept")
    asked: list[int] = []
    loss = DocumentMeasure.loss
    monkeypatch.setattr(
        DocumentMeasure, "loss", lambda measure, index: asked.append(index) or loss(measure, index)
    )
    again = attributed(models, text, keep=tmp_path / "kept")
    assert not asked
    assert again.to_document() == first.to_document()
    other = intruders.AuditSettings(k=3, epsilon=0.95)
    again = attributed(models, text, keep=tmp_path / "kept", audit=other)
    assert again.matrices == attributed(models, text, audit=other).matrices
    asked.clear()
    attributed(models, text, keep=tmp_path / "kept", seed=1)
    assert asked


def test_keep_that_is_in_use_or_no_folder_is_refused(models: Models, text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"^keep '.*file' cannot be written"):
        attributed(models, text, keep=tmp_path / "file")
    in_use = pytest.raises(SettingError, match=r"^keep '.*' is in use by another process")
    with locked_folder(tmp_path), in_use:
        attributed(models, text, keep=tmp_path)


def test_two_tasks_whose_files_have_one_name_are_two(models: Models, text: Path, tmp_path: Path) -> None:
    files = []
    for name, answer in (("first", "57"), ("second", "1 2 3 4")):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "rows.jsonl")
        rows = [{"prompt": f"{number} + 1 =", "completion": answer} for number in range(40)]
        write_rows(files[-1], rows)
    both = attributed(models, text, task=[str(file) for file in files])
    for file in files:
        [alone] = [rise for rise in attributed(models, text, task=str(file)).rises if rise.name == str(file)]
        [found] = [rise for rise in both.rises if rise.name == str(file)]
        assert found.rise.estimate == alone.rise.estimate
    with pytest.raises(SettingError, match="given as text and as a task"):
        attributed(models, text, task=str(text))


def test_a_model_that_changes_nothing_is_refused(models: Models, text: Path) -> None:
    with pytest.raises(SettingError, match="changes nothing"):
        attributed((models[0], models[0]), text)
