"""An adapter on a base whose linear layers bitsandbytes quantized while loading: PEFT's own model is the truth."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import intruders
from intruders.data.corpora import load_corpora
from intruders.data.load_task import load_task
from intruders.errors import SettingError
from intruders.experiments.data_shares import data_of
from intruders.experiments.dosed_model import DoseVector, put_in_doses
from intruders.experiments.experiment_settings import HealSettings
from intruders.measures.corpus_loss import losses_by_corpus
from intruders.measures.measure_settings import LossSettings
from intruders.models.loading import load_model
from intruders.models.tuned_model import open_language_model
from tests.tiny import save_llama

from .healed_models import IDS, TARGETS, Models, adapter_of, read_sides, run, sums, tuned_in_full

FEW = HealSettings(steps=2, max_documents=4, max_tokens=24, max_examples=4, allow=10.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """bitsandbytes computes on a processor in blocks of 64 inputs."""
    folder = tmp_path_factory.mktemp("quantized")
    base = save_llama(folder / "base", width=128)
    return str(base), adapter_of(base, folder / "tuned", TARGETS, size=0.05)


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_the_healed_loss_is_that_in_peft(load_in: str, models: Models, text: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    loading = intruders.Loading(load_in=load_in)
    healing = run(models, text, tmp_path / "healed", settings=FEW, loading=loading)
    assert healing.settings["dtype"] == load_in
    tasks = {"sums": load_task(sums(models))}
    documents = data_of({text: load_corpora(text, max_documents=4)}, tasks, FEW, 0).report.corpora[text]
    # PEFT wraps its own layers around the quantized ones, and the doses are in the saved B.
    for source, point in ((str(tmp_path / "healed"), healing.healed_point), (models[1], healing.points[1])):
        opened = open_language_model(source, models[0], loading)
        assert any(type(module).__module__.startswith("peft") for module in opened.model.modules())
        [measured] = losses_by_corpus(opened, {"": documents}, LossSettings(max_tokens=24))[""]
        # An update beside the layer and one in PEFT's layer are rounded at other places.
        assert measured.mean == pytest.approx(point.corpora[text].loss.estimate, abs=1e-4)


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_gradients_in_the_doses_are_those_of_peft(load_in: str, models: Models) -> None:
    """The gradient in a dose is the inner product of the gradient in PEFT's B with B."""
    pytest.importorskip("bitsandbytes")
    loading = intruders.Loading(load_in=load_in)
    language = open_language_model(models[0], loading=loading, merged=True)
    language.model.requires_grad_(False).eval()
    before, updates, groups = read_sides(models)
    doses = DoseVector(torch.ones(len(groups.names), requires_grad=True))
    put_in_doses(language.model, before, updates, groups, doses, is_base=True)
    with torch.no_grad():
        language.model(input_ids=IDS)  # bitsandbytes may repack a layer that is used without gradients
    language.model(input_ids=IDS, labels=IDS).loss.backward()
    of_peft: Any = PeftModel.from_pretrained(
        load_model(models[0], "causal", loading=loading), models[1], is_trainable=True
    )
    of_peft(input_ids=IDS, labels=IDS).loss.backward()
    for name, (position, *_) in groups.places.items():
        weight = of_peft.get_submodule(
            f"base_model.model.{name.removesuffix('.weight')}.lora_B.default"
        ).weight
        expected = float((weight.grad * weight).sum().detach())
        assert float(doses.values.grad[position]) == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_what_changes_weights_refuses_them(models: Models, text: str, tmp_path: Path) -> None:
    full = tuned_in_full(models[0], tmp_path / "full")
    for tuned, loading, said in (
        (full, {"load_in": "4bit"}, "load_in is '4bit', but this measurement changes weights in memory"),
        (models[1], {"device_map": "auto"}, "device_map is 'auto', but updates are added beside layers"),
    ):
        with pytest.raises(SettingError, match=said):
            run((models[0], tuned), text, None, settings=FEW, loading=intruders.Loading(**loading))
