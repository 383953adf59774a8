"""Healings that learn weights: their form and rank stay, what was measured is written, and a kill loses nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import intruders
from intruders.errors import SettingError
from intruders.experiments import open_dosed
from intruders.experiments.bench import Measuring
from intruders.experiments.experiment_settings import RIVALS, HealSettings
from intruders.experiments.heal import doses_for
from intruders.experiments.healing import Healing
from intruders.measures.measure_settings import LossSettings
from intruders.models.answers import own_text, sampled_tokens
from intruders.models.loading import load_model
from intruders.models.tuned_model import open_language_model
from intruders.system.progress import silent
from intruders.system.store import Kept

from . import healed_models
from .healed_models import QUICK, Models, assert_reported, llama_and_adapter, tuned_in_full

Healed = tuple[Healing, Path]

WEIGHTS = replace(QUICK, learn="weights", rate=0.2, weight=0.1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A tuned model whose loss on the text is above its base's, so that there is something to heal."""
    return llama_and_adapter(tmp_path_factory.mktemp("models"), seed=3)


@pytest.fixture(scope="module")
def healed(models: Models, text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Healing, Path]:
    out = tmp_path_factory.mktemp("out") / "healed"
    return run(models, text, out), out


def run(models: Models, text: str | list[str], out: Path | None, **options: Any) -> Healing:
    return healed_models.run(models, text, out, **{"settings": WEIGHTS, **options})


def test_an_adapter_keeps_its_rank_form_and_targets_and_opens_in_plain_peft(
    models: Models, text: str, healed: Healed
) -> None:
    found, out = healed
    old, new = (json.loads((Path(folder) / "adapter_config.json").read_text()) for folder in (models[1], out))
    assert all(new[name] == old[name] for name in ("r", "lora_alpha", "target_modules"))
    before, after = (load_file(Path(folder) / "adapter_model.safetensors") for folder in (models[1], out))
    assert {name: tensor.shape for name, tensor in after.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert found.step > 0  # a state was learned, which no one dose makes
    assert len({round(now / was, 4) for was, now in found.norms.values()}) > 1
    assert_reported(found, models, out, text)


def test_a_full_fine_tuning_learns_its_own_matrices(models: Models, text: str, tmp_path: Path) -> None:
    tuned = tuned_in_full(models[0], tmp_path / "full")
    found = run((models[0], tuned), text, tmp_path / "healed")
    assert found.form == "checkpoint"
    assert found.step > 0
    assert_reported(found, models, tmp_path / "healed", text)
    # What no audit examines is in one dose.
    before, after, healed = (
        load_model(where, "causal").get_parameter("model.norm.weight")
        for where in (models[0], tuned, str(tmp_path / "healed"))
    )
    assert torch.allclose(healed, before + found.elsewhere * (after - before), atol=1e-6)


def test_the_tuned_model_that_weights_start_from_is_measured_once(
    models: Models, text: str, tmp_path: Path
) -> None:
    with patch.object(Measuring, "outcome", autospec=True, side_effect=Measuring.outcome) as measured:
        found = run(models, text, tmp_path / "healed")
    shares = [call.args[3] for call in measured.call_args_list]
    of_task = [share for share in shares if share.name == "choice" and not share.corpora]
    assert len(of_task) == 1 + len(found.learning)  # the base, and every state of the learning


def test_killed_it_ends_in_the_same_bytes(models: Models, text: str, healed: Healed, tmp_path: Path) -> None:
    def killed(stage: str, done: int, in_all: int) -> None:
        if stage.startswith("learn weights: divergence") and done == 6:
            raise KeyboardInterrupt

    out = tmp_path / "healed"
    with pytest.raises(KeyboardInterrupt):
        run(models, text, out, progress=killed)
    said: list[str] = []
    run(models, text, out, told=said.append)
    assert "resumed after step 6 of 6" in said
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (healed[1] / name).read_bytes()


def test_the_base_writes_the_text_itself(models: Models, text: str, tmp_path: Path) -> None:
    assert list(run(models, [], None).documents) == ["self"]
    found = run(models, ["self", text], tmp_path / "healed")
    assert found.documents == {"self": 3, text: 3}
    opened = open_language_model(models[0])
    drawn = [("self", 6, 24, 0), ("self", 3, 24, 0), ("self", 3, 24, 1), ("random-tokens", 2, 24, 0)]
    six, three, other, mixed = (own_text(opened, *asked, Kept(None), silent).documents for asked in drawn)
    assert six[:3] == three != other
    ordinary = set(range(len(opened.tokenizer))) - set(opened.tokenizer.all_special_ids)
    for document in mixed:
        assert set(opened.tokenizer(document)["input_ids"]) <= ordinary | {opened.tokenizer.unk_token_id}


def test_samples_have_the_probabilities_of_the_base(models: Models) -> None:
    """Of 512 samples, the second token comes as often as the softmax of the logits after the first says."""
    opened = open_language_model(models[0])
    tokenizer = opened.tokenizer
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    with torch.no_grad():
        wanted = opened.model(input_ids=torch.tensor([[first]])).logits[0, -1].softmax(-1)
    torch.manual_seed(0)
    rows = sampled_tokens(opened, 512, 2)
    counts = torch.zeros_like(wanted)
    for row in rows:
        counts[row[0] if row else tokenizer.eos_token_id] += 1
    spread = (wanted * (1 - wanted) / 512).sqrt()
    assert bool(((counts / 512 - wanted).abs() <= 5 * spread + 1 / 512).all())


def test_more_examples_are_reported_than_learned_from_and_rivals_on_the_same(
    models: Models, text: str, tmp_path: Path
) -> None:
    settings = replace(WEIGHTS, max_examples=2, report_examples=4, rivals=RIVALS, steps=2)
    found = run(models, text, tmp_path / "healed", settings=settings)
    assert found.examples == {found.task: 4}
    assert_reported(found, models, tmp_path / "healed", text)
    for name in RIVALS:
        point = found.point(name)
        assert point.tasks[found.task].accuracy is not None
        assert set(point.corpora) == {text}
    assert found.point("weights").corpora == found.healed_point.corpora  # the same learning
    own = replace(settings, learn="doses", per="block", weight=None, rivals=())
    of_blocks = run(models, text, None, settings=own)
    for each, other in zip(found.rivals["blocks"][1:], of_blocks.learning, strict=True):
        assert each["task_loss"] == pytest.approx(other["task_loss"], rel=1e-6)
    assert Healing.load(tmp_path / "healed").rivals == found.rivals


def test_what_does_not_fit_is_refused(models: Models, text: str, healed: Healed, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="learned weights and no doses"):
        doses_for(healed[1], *models)
    with pytest.raises(SettingError, match="per is 'layer', and weights have no doses"):
        HealSettings(learn="weights", per="layer")
    with pytest.raises(SettingError, match="self"):
        intruders.evaluate(models[1], base=models[0], losses=LossSettings(loss_on=("self",)))


def test_memory_is_planned_before_the_models_are_opened(
    models: Models, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_dosed, "available_memory", lambda device: 1000)
    with pytest.raises(intruders.errors.NotEnoughMemoryError, match="--learn doses"):
        run(models, text, tmp_path / "healed")


def test_weights_are_learned_unless_matrices_share_a_dose(models: Models, text: str, tmp_path: Path) -> None:
    auto, full = replace(QUICK, learn="auto", steps=1), (models[0], tuned_in_full(models[0], tmp_path))
    asked = [(models, auto), (models, replace(auto, per="layer")), (full, auto)]
    found = [run(both, text, None, settings=own) for both, own in asked]
    assert [healing.learn for healing in found] == ["weights", "doses", "weights"]
    assert [healing.settings["weight"] for healing in found] == [12, 3, 4]
    assert all(healing.seconds > 0 for healing in found)  # though nothing was written
