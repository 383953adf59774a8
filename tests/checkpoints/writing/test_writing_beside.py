"""What is written beside weights: card, tokenizer, recipe, and the record of the training."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from intruders.audits.audit_settings import AuditSettings
from intruders.checkpoints.opening.many_sources import digest_of
from intruders.checkpoints.writing.companions import copy_own_tokenizer, own_tokenizer_files
from intruders.checkpoints.writing.training_record import FinetunedFolder
from intruders.errors import ResultFileError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.doses import Doses
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.write_at_scale import write_at_scale
from intruders.version import __version__
from tests.checkpoints.models import moved, refused, saved, tiny_llama
from tests.checkpoints.other_programs import peft_lora, save_as_mlx
from tests.mitigation.hot import hot_llama

OWN = """---
base_model: org/base
license: mit
library_name: peft
---

# An adapter

<!-- intruders: begin -->
## Intruder dimensions
of another model
<!-- intruders: end -->

Trained on words.
"""


def test_a_card_is_kept_and_says_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    base, adapter = tmp_path / "base", tmp_path / "peft"
    (adapter / "README.md").write_text(f"{OWN}<!-- intruders, written: end -->\n")  # what an edit left
    typed = ["/usr/bin/intruders", "scale", str(base), str(adapter), "--at", "0.5"]
    monkeypatch.setattr(sys, "argv", typed)
    for scale in (0.5, 0.25):  # the second is written from the first, whose section it replaces
        write_at_scale(base, adapter, scale, tmp_path / f"at {scale}")
        adapter = tmp_path / f"at {scale}"
    text = (adapter / "README.md").read_text()
    kept, _, section = text.partition("<!-- intruders, written: begin -->\n")
    assert kept == OWN[: OWN.index("<!-- intruders")] + "Trained on words.\n\n"
    assert section.count("every update times 0.25: W0 + 0.25 (W - W0), of 2 matrices") == 1
    assert "```bash\nintruders scale base peft --at 0.5\n```\n<!-- intruders, written: end -->\n" in section
    assert str(tmp_path) not in text


def test_without_a_card_it_has_front_matter_of_its_own(tmp_path: Path) -> None:
    """Of an adapter the fields of PEFT's own card; of a merge and of an adapter of MLX not those of its source."""
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    base, mlx = tmp_path / "base", save_as_mlx(tmp_path)
    (mlx / "README.md").write_text("---\nlibrary_name: mlx\n---\n")
    write_at_scale(base, mlx, 0.5, tmp_path / "half")
    write_at_scale(base, mlx, 0.5, tmp_path / "merged", form="checkpoint")
    fronts = [
        yaml.safe_load((tmp_path / name / "README.md").read_text().split("---")[1])
        for name in ("half", "merged")
    ]
    tags = ["base_model:adapter:base", "lora", "intruders"]
    assert fronts == [
        {"base_model": "base", "library_name": "peft", "tags": tags},
        {"base_model": "base", "library_name": "transformers", "tags": ["intruders"]},
    ]
    assert "\n# half\n" in (tmp_path / "half" / "README.md").read_text()


@pytest.mark.parametrize("given", ["peft", "peft/adapter_model.safetensors"])
def test_of_a_card_that_peft_made_the_front_matter_is_kept(given: str, tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    made = (tmp_path / "peft" / "README.md").read_text()
    assert "[More Information Needed]" in made
    write_at_scale(tmp_path / "base", tmp_path / given, 0.5, tmp_path / "half")
    front, _, rest = (tmp_path / "half" / "README.md").read_text().partition("\n---\n")
    assert made.startswith(f"{front}\n---\n")
    assert rest.startswith("\n# half\n\n<!-- intruders, written: begin -->\n")


def test_the_header_of_the_weights_names_what_they_are_of(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path / "base")
    saved(moved(copy.deepcopy(tiny_llama()), 0.1, 0), tmp_path / "tuned")
    write_at_scale(tmp_path / "base", tmp_path / "tuned", 0.5, tmp_path / "half")
    with safe_open(tmp_path / "half" / "model.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "base": "base",
            "tuned": "tuned",
            "tuned_digest": digest_of(str(tmp_path / "tuned")),
            "intruders": __version__,
        }


TOKENS = '{"model": {"vocab": {"a": 0, "b": 6}}, "added_tokens": [{"id": 7, "content": "<|im|>"}]}'
FILES = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize(
    ("content", "rows", "taken"),
    [
        (TOKENS, 8, list(FILES)),
        (TOKENS, 7, ["chat_template.jinja"]),
        ("{", 100, ["chat_template.jinja"]),
        ('{"model": {}}', 100, ["chat_template.jinja"]),
    ],
    ids=["every token has a row", "one has none", "a broken file", "without a vocabulary"],
)
def test_all_of_it_is_taken_or_the_template_alone(
    tmp_path: Path, content: str, rows: int, taken: list[str]
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", *FILES):
        (adapter / name).write_text("{}")
    (adapter / "tokenizer.json").write_text(content)
    (tmp_path / "out").mkdir()
    copy_own_tokenizer(adapter, tmp_path / "out", rows)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == taken
    assert [file.name for file in own_tokenizer_files(adapter)] == list(FILES)


def by_recipe(file: Path, tuned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As MergeKit 0.1.5 does it: evaluate_setting of config.py, GeneralizedTaskArithmeticMerge.merge_group."""
    recipe: dict[str, Any] = yaml.safe_load(file.read_text())
    assert (recipe["merge_method"], recipe["dtype"]) == ("task_arithmetic", "float32")
    [model] = recipe["models"]
    merged = {}
    for name, before in load_file(Path(recipe["base_model"]) / "model.safetensors").items():
        weights = model["parameters"]["weight"]
        weight = next(entry["value"] for entry in weights if entry.get("filter", "") in name)
        sum_of_both = before.float() + weight * (tuned[name].float() - before.float())
        merged[name] = sum_of_both.to(getattr(torch, recipe["out_dtype"]))
    return merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dose_for_every_matrix_is_a_weight_for_it(dtype: torch.dtype, tmp_path: Path) -> None:
    base = tiny_llama(num_hidden_layers=11).to(dtype)  # layers 1 and 10
    base_folder, tuned_folder = saved(base, tmp_path / "base"), tmp_path / "tuned"
    saved(moved(copy.deepcopy(base), 0.1, 0), tuned_folder)
    matrices = [name for name, tensor in base.state_dict().items() if tensor.dim() == 2]
    doses = {name: [1.3 - number / 50] for number, name in enumerate(matrices)}
    remedy = Doses(doses=doses, elsewhere=0.4)
    mitigate(
        base_folder, tuned_folder, remedy=remedy, out=tmp_path / "out", audit=AuditSettings(k=2), check=False
    )
    wanted = by_recipe(tmp_path / "out" / "mergekit.yml", load_file(tuned_folder / "model.safetensors"))
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        step = torch.finfo(dtype).eps
        assert tensor.dtype == wanted[name].dtype == dtype
        torch.testing.assert_close(tensor.double(), wanted[name].double(), rtol=step, atol=1e-7, msg=name)


def test_an_adapter_is_one_that_mergekit_merges_before(tmp_path: Path) -> None:
    merged = peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    write_at_scale(tmp_path / "base", tmp_path / "peft", 0.3, tmp_path / "out", form="checkpoint")
    file = tmp_path / "out" / "mergekit.yml"
    text = file.read_text()
    assert text.startswith("# mergekit-yaml mergekit.yml OUT --lora-merge-cache CACHE\n")
    assert f"model: {tmp_path / 'base'}+{tmp_path / 'peft'}\n" in text
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(tensor, by_recipe(file, merged)[name], rtol=1e-6, atol=1e-7)


def test_what_is_more_than_a_share_of_the_update_has_no_recipe(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path / "base")
    saved(moved(tiny_llama(), 0.5, 0), tmp_path / "tuned")
    result = mitigate(
        tmp_path / "base", tmp_path / "tuned", scale=0.0, out=tmp_path / "out", audit=AuditSettings(k=2)
    )
    assert result.before.intruders > 0
    assert not (tmp_path / "out" / "mergekit.yml").exists()


RUN: dict[str, Any] = {
    "schema": 1,
    "status": "finished",
    "seconds": 9.0,
    "config": {"base": "base", "data_seed": 5, "rank": 2},
    "task": {"labels": ["bad", "good"], "digest": "1"},
}


def trained(folder: Path, form: str) -> Path:
    saved(tiny_llama(), folder / "base")
    model = hot_llama() if form == "adapter" else hot_llama().merge_and_unload()
    saved(model, folder / "tuned")
    (folder / "tuned" / "run.json").write_text(json.dumps(RUN))
    return folder / "tuned"


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
@pytest.mark.parametrize("written_as", ["auto", "checkpoint"])
def test_a_scaled_model_keeps_labels_and_data_seed_and_is_no_run(
    form: str, written_as: str, tmp_path: Path
) -> None:
    """Twice in a row: the second model is made from one that has a copy."""
    tuned, base = trained(tmp_path, form), tmp_path / "base"
    write_at_scale(base, tuned, 0.5, tmp_path / "half", form=written_as)
    mitigate(base, tmp_path / "half", remedy=Interpolate(alpha=0.5), out=tmp_path / "quarter", check=False)
    for name in ("half", "quarter"):
        assert FinetunedFolder.of(tmp_path / name) == FinetunedFolder("base", ["bad", "good"], 5)
        assert FinetunedFolder.of(str(tmp_path / name)).data_seed == 5
        assert not (tmp_path / name / "run.json").exists()
    assert not (tmp_path / "quarter" / "written.json").exists()


def test_a_record_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tuned = trained(tmp_path, "adapter")
    (tuned / "run.json").write_text("nonsense")
    with refused("restore it, or remove it", ResultFileError):
        write_at_scale(tmp_path / "base", tuned, 0.5, tmp_path / "half")
    assert not (tmp_path / "half").exists()
