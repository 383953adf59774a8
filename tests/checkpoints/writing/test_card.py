"""The model card that goes with what is written, and what the header of its weights says."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from intruders.checkpoints.opening.many_sources import digest_of
from intruders.mitigation.write_at_scale import write_at_scale
from intruders.version import __version__
from tests.checkpoints.models import moved, saved, tiny_llama
from tests.checkpoints.other_programs import peft_lora, save_as_mlx

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
    peft = {
        "base_model": "base",
        "library_name": "peft",
        "tags": ["base_model:adapter:base", "lora", "intruders"],
    }
    assert fronts == [peft, {"base_model": "base", "library_name": "transformers", "tags": ["intruders"]}]
    assert "\n# half\n" in (tmp_path / "half" / "README.md").read_text()


def test_of_a_card_that_peft_made_the_front_matter_is_kept(tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    made = (tmp_path / "peft" / "README.md").read_text()
    assert "[More Information Needed]" in made
    write_at_scale(tmp_path / "base", tmp_path / "peft", 0.5, tmp_path / "half")
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
