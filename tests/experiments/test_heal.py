"""A healing from end to end on tiny models: what is written is what was measured, and a kill loses nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import intruders
from intruders.errors import NonFiniteError, SettingError
from intruders.experiments.heal import doses_for
from intruders.experiments.work_folder import WorkFolder
from intruders.models.loading import load_model
from tests.checkpoints.models import with_lora
from tests.commands import in_this_process
from tests.json_lines import write_rows
from tests.tiny import save_bert

from .healed_models import QUICK, TARGETS, Models, adapter_of, assert_reported, run, sums, tuned_in_full

Healed = tuple[intruders.Healing, Path]

# Where it does not matter what is learned.
TWO_STEPS = replace(QUICK, steps=2)


@pytest.fixture(scope="module")
def healed(models: Models, text: str, tmp_path_factory: pytest.TempPathFactory) -> Healed:
    out = tmp_path_factory.mktemp("out") / "healed"
    return run(models, text, out), out


def test_the_adapter_has_the_doses_in_b_and_measures_as_reported(
    models: Models, text: str, healed: Healed
) -> None:
    found, out = healed
    before = load_file(Path(models[1]) / "adapter_model.safetensors")
    after = load_file(out / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        module = name.removeprefix("base_model.model.").partition(".lora_")[0]
        dose = found.doses[f"{module}.weight"][0] if ".lora_B" in name else 1.0
        assert torch.allclose(after[name], dose * tensor, atol=1e-7)
    measured = assert_reported(found, models, out, text)
    assert [note for note in measured.notes if note.startswith("only the documents and examples that heal")]
    assert found.documents[text] == 3  # of six
    assert f"A dose per matrix was learned on {text}, from " in (out / "README.md").read_text()


def test_the_record_is_what_was_returned_and_a_second_call_answers_with_it(
    models: Models, text: str, healed: Healed
) -> None:
    found, out = healed
    said: list[str] = []
    kept = intruders.Healing.load(out)
    assert kept.to_document() == replace(found, seconds=kept.seconds).to_document()
    again = run(models, text, out, told=said.append)
    assert again.doses == found.doses
    assert said == [f"'{out}' is healed already, by the same settings; this is its record"]


def test_a_healing_that_another_process_has_just_finished_is_the_answer(
    models: Models, text: str, healed: Healed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had not finished when this one looked first: what this one would learn could not be written any more."""
    held, out = WorkFolder.held, tmp_path / "healed"

    def held_after(self: WorkFolder, key: Any, folder: Path) -> Any:
        shutil.copytree(healed[1], folder)
        return held(self, key, folder)

    monkeypatch.setattr(WorkFolder, "held", held_after)
    said: list[str] = []
    assert run(models, text, out, told=said.append).doses == healed[0].doses
    assert said == [f"'{out}' is healed already, by the same settings; this is its record"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["healed"]


def test_a_copied_record_does_not_answer_for_another_model(
    models: Models, text: str, healed: Healed, tmp_path: Path
) -> None:
    shutil.copytree(healed[1], tmp_path / "another")
    with pytest.raises(SettingError, match="has the record of a healing that was written to"):
        run(models, text, tmp_path / "another")


def test_other_settings_and_other_weights_are_refused_and_nothing_is_lost(
    models: Models, text: str, healed: Healed, tmp_path: Path
) -> None:
    """Weights by their content."""
    before = (healed[1] / "heal.json").read_bytes()
    with pytest.raises(SettingError, match=r"\(settings: steps was 6 and is 7\)"):
        run(models, text, healed[1], settings=replace(QUICK, steps=7))
    other = adapter_of(Path(models[0]), tmp_path / "tuned", TARGETS, seed=9)
    with pytest.raises(SettingError, match=r"\(tuned"):
        run((models[0], other), text, healed[1])
    assert (healed[1] / "heal.json").read_bytes() == before


@pytest.mark.parametrize("last", ["learn doses: divergence", "measure healed", "scale"])
def test_killed_it_goes_on_and_ends_as_if_it_had_not_been(
    models: Models, text: str, healed: Healed, tmp_path: Path, last: str
) -> None:
    def killed(stage: str, done: int, in_all: int) -> None:
        if stage.startswith(last) and (done == 5 or "divergence" not in last):
            raise KeyboardInterrupt

    out = tmp_path / "healed"
    with pytest.raises(KeyboardInterrupt):
        run(models, text, out, progress=killed)
    assert not out.exists()
    with pytest.raises(SettingError, match="another healing"):
        run(models, text, out, seed=3)
    steps: list[int] = []

    def counted(stage: str, done: int, in_all: int) -> None:
        if stage.startswith("learn doses: "):
            steps.append(done)

    said: list[str] = []
    found = run(models, text, out, progress=counted, told=said.append)
    assert steps == ([6] if "divergence" in last else [])  # a state is kept at every measure
    if "divergence" in last:
        assert "resumed after step 5 of 6" in said
    assert found.doses == healed[0].doses
    assert found.points == healed[0].points
    assert not (tmp_path / "healed.unfinished").exists()


def test_a_full_fine_tuning_is_written_as_a_checkpoint(models: Models, text: str, tmp_path: Path) -> None:
    tuned = tuned_in_full(models[0], tmp_path / "full")
    found = run((models[0], tuned), text, tmp_path / "healed", settings=TWO_STEPS)
    assert found.form == "checkpoint"
    assert found.elsewhere is not None  # norms
    assert_reported(found, (models[0], tuned), tmp_path / "healed", text)


def test_directions_of_a_matrix_that_is_not_audited_are_refused(
    models: Models, text: str, tmp_path: Path
) -> None:
    """They would be measured in their doses, and written in none."""
    per_direction = replace(QUICK, per="direction")
    audit = intruders.AuditSettings(k=3, exclude=("*down_proj*",))
    with pytest.raises(SettingError, match=r"down_proj.weight. is not audited.*pass --per matrix"):
        run(models, text, tmp_path / "healed", settings=per_direction, audit=audit)
    assert not (tmp_path / "healed").exists()
    in_full = models[0], tuned_in_full(models[0], tmp_path / "full")
    with pytest.raises(SettingError, match=r"per is 'direction', and the update of .* has no low rank"):
        run(in_full, text, tmp_path / "healed", settings=per_direction)


def test_order_and_type_are_part_of_what_makes_a_healing_the_same(
    models: Models, text: str, tmp_path: Path
) -> None:
    """Doses are learned on the first task; a base in single precision has no word for its type in the record."""
    file, _, columns = sums(models).partition("?")
    both = [sums(models), f"{shutil.copy(file, tmp_path / 'other.jsonl')}?{columns}"]
    half = intruders.Loading(dtype="bfloat16")
    run(models, text, tmp_path / "healed", task=both, loading=half, settings=TWO_STEPS)
    with pytest.raises(SettingError, match="order was"):
        run(models, text, tmp_path / "healed", task=both[::-1], loading=half, settings=TWO_STEPS)
    with pytest.raises(SettingError, match=r'dtype was "bfloat16" and is not given'):
        run(models, text, tmp_path / "healed", task=both, settings=TWO_STEPS)


def test_a_dose_for_every_direction_keeps_the_rank(models: Models, text: str, tmp_path: Path) -> None:
    found = run(models, text, tmp_path / "healed", settings=replace(TWO_STEPS, per="direction"))
    assert {len(own) for own in found.doses.values()} == {2}
    config = json.loads((tmp_path / "healed" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert not config["rank_pattern"]
    assert_reported(found, models, tmp_path / "healed", text)


def test_further_corpora_and_tasks_are_reported_and_choose_nothing(
    models: Models, text: str, healed: Healed, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    write_rows(other, [{"text": f"another text {number}"} for number in range(4)])
    found = run(models, [text, str(other)], None)
    assert found.doses == healed[0].doses
    assert list(found.healed_point.corpora) == [text, str(other)]
    assert found.out is None


def test_prompts_alone_are_answered_by_the_tuned_model(models: Models, text: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"Question {number}?" for number in range(12)))
    found = run(models, text, None, task=(), prompts=prompts, settings=TWO_STEPS)
    assert found.task == "prompts"
    base, tuned = (point.tasks["prompts"] for point in (found.base_point, found.tuned_point))
    assert tuned.loss.estimate < base.loss.estimate  # greedy answers are the tuned model's own
    assert tuned.accuracy is None


def classifier_and_rows(folder: Path) -> tuple[tuple[str, str], str]:
    """A masked base, an adapter of a classifier on it with the record of its labels, and rows of two labels."""
    base = save_bert(folder / "base")
    rows = folder / "rows.csv"
    rows.write_text("text,label\n" + "\n".join(f"word {number},{'ab'[number % 2]}" for number in range(40)))
    settings = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "pooler"]}
    model = load_model(str(base), "classification", ["a", "b"])
    with_lora(model, r=1, target_modules=["query", "value"], **settings).save_pretrained(folder / "tuned")
    record = {"schema": 1, "status": "finished", "config": {}, "task": {"labels": ["a", "b"]}}
    (folder / "tuned" / "run.json").write_text(json.dumps(record))  # its labels, as finetune keeps them
    return (str(base), str(folder / "tuned")), f"{rows}?text=text&label=label"


def test_a_masked_model_is_healed_on_a_task_of_classes(text: str, tmp_path: Path) -> None:
    models, rows = classifier_and_rows(tmp_path)
    with pytest.raises(SettingError, match="writes no text; pass --loss-on"):
        run(models, [], None, task=rows)
    with pytest.raises(SettingError, match="is a masked language model, and"):
        run(models, text, None)
    found = run(models, text, tmp_path / "healed", task=rows, settings=replace(QUICK, estimate=True, steps=2))
    assert found.healed_point.corpora[text].loss.estimate > 0
    assert (tmp_path / "healed" / "adapter_config.json").is_file()


def test_doses_are_of_the_model_that_they_were_learned_for(
    models: Models, healed: Healed, tmp_path: Path
) -> None:
    """In Python as by the command; a copy of the adapter is the same model."""
    other = adapter_of(Path(models[0]), tmp_path / "other", TARGETS, seed=9)
    said = f"learned for '{models[1]}' and not for '{other}'"
    with pytest.raises(SettingError, match=said):
        doses_for(healed[1], models[0], other)
    options = ["--remedy", "doses", "--doses", str(healed[1]), "--out", str(tmp_path / "out"), "--no-check"]
    refused = in_this_process("mitigate", models[0], other, *options)
    assert (refused.returncode, said in refused.stderr, (tmp_path / "out").exists()) == (2, True, False)
    assert in_this_process("mitigate", *models, *options).returncode == 0
    written, again = (load_file(path / "adapter_model.safetensors") for path in (healed[1], tmp_path / "out"))
    torch.testing.assert_close(again, written, rtol=0, atol=0)
    copy = shutil.copytree(models[1], tmp_path / "copy")
    half = doses_for(healed[1], models[0], copy, share=0.5)
    assert (half.share, half.doses) == (0.5, healed[0].doses)


def test_an_adapter_of_no_finite_loss_is_refused(models: Models, text: str, tmp_path: Path) -> None:
    tuned = adapter_of(Path(models[0]), tmp_path / "tuned", TARGETS, size=1e30)
    with pytest.raises(NonFiniteError, match=r"not a number|NaN|infinit"):
        run((models[0], tuned), text, tmp_path / "healed")
    assert not (tmp_path / "healed").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": ()}, "no task to keep"),
        ({"prompts": "p.txt"}, "expected one of the two"),
        ({"form": "paper"}, "expected one of auto, adapter, checkpoint"),
        ({"task": "few.jsonl", "loss_on": "self"}, "has too few examples to score, 1; expected 2 or more"),
        ({"loss_on": ("self", "few.txt")}, "has 1 document; expected 2 or more"),
    ],
)
def test_what_is_missing_is_said_before_a_model_is_opened(
    models: Models, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.jsonl").write_text('{"prompt": "1 + 1 =", "completion": " 2"}\n' * 3, encoding="utf-8")
    Path("few.txt").write_text("One document.", encoding="utf-8")
    given: dict[str, Any] = {"task": "word-problems", "loss_on": text, **options}
    with pytest.raises(SettingError, match=said):
        intruders.heal(*models, out=tmp_path / "healed", **given)
    assert not (tmp_path / "healed.unfinished").exists()


def test_dora_is_refused_as_an_adapter_and_healed_as_a_checkpoint(
    models: Models, text: str, tmp_path: Path
) -> None:
    dora = adapter_of(Path(models[0]), tmp_path / "dora", TARGETS, use_dora=True)
    with pytest.raises(SettingError, match="--as checkpoint"):
        run((models[0], dora), text, tmp_path / "healed")
    found = run((models[0], dora), text, tmp_path / "healed", form="checkpoint", settings=TWO_STEPS)
    assert found.form == "checkpoint"


def test_a_sum_of_adapters_is_healed(models: Models, text: str, tmp_path: Path) -> None:
    other = adapter_of(Path(models[0]), tmp_path / "other", ("v_proj", "q_proj"), seed=4)
    found = run((models[0], f"{models[1]}@0.7+{other}@0.3"), text, tmp_path / "healed", settings=TWO_STEPS)
    assert (len(found.doses), found.form) == (6, "checkpoint")  # as by mitigate
    assert (tmp_path / "healed" / "model.safetensors").is_file()
