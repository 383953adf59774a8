"""What an audit says at its end, and a report at its beginning: the words of every case, with commands that exist."""

import dataclasses
import math
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from intruders.audits.audit import audit as run_audit
from intruders.audits.result.audit_result import Audit
from intruders.audits.result.records import AuditedMatrix, UpdateSize, Vector
from intruders.audits.scales.critical_scales_result import CriticalScales, MatrixScale
from intruders.checkpoints.pairing.pairing import Skipped
from intruders.cli.main import app
from intruders.reports.audit import print_audit, render_audit
from intruders.reports.next_steps import SHARE, NextSteps, next_steps
from tests.checkpoints.models import change_config
from tests.made_up import left_out
from tests.reports.on_console import on_console
from tests.tiny import save_lora, save_weights

COMMANDS: Any = typer.main.get_command(app)


def matrix(name: str, intruders: int, rank: int | None = 2, vectors: int = 10) -> AuditedMatrix:
    """A matrix whose first vectors are intruders."""
    cosines = [(0.1, 0.2) if index < intruders else (0.9, 1.0) for index in range(vectors)]
    found = [Vector(at, 20.0 - at, both, both[1] < 0.5, "exact", False) for at, both in enumerate(cosines)]
    size, values = UpdateSize(1.0, 1.0, 1.0, 0.0, 1.0), [19.0 - index for index in range(vectors)]
    similarity = np.zeros((vectors, vectors), dtype=np.float32)
    return AuditedMatrix(name, (16, 16), rank, found, size, values, similarity)


def made(*intruders: int, rank: int | None = 2, **changes: Any) -> Audit:
    """An audit of a matrix for each number of intruders."""
    matrices = [matrix(f"layers.{i}.q.weight", count, rank) for i, count in enumerate(intruders)]
    kind, skipped = "checkpoint" if rank is None else "adapter", [Skipped("norm.weight", "one-dimensional")]
    settings: dict[str, Any] = {"include": [], "exclude": []}
    found = Audit("base", "runs/r2", kind, 10, 0.5, False, 1.0, matrices, skipped, settings=settings)
    return dataclasses.replace(found, **changes)


def lines(words: NextSteps) -> list[str]:
    """Every step as `sentence` or `sentence command`."""
    return [" ".join(filter(None, (step.sentence, step.line))) for step in words.steps]


def shown(audit: Audit, width: int = 80, verbose: bool = False) -> str:
    return on_console(lambda page: print_audit(audit, page, verbose), width)


def test_no_intruders_are_not_no_forgetting() -> None:
    words = next_steps(made(0, 0))
    assert words.finding == "None of the 20 examined vectors of 2 changed matrices is an intruder."
    assert words.meaning == (
        "This does not mean that the model forgot nothing: vectors below the top 10 were not examined. In our "
        "studies, models without intruders forgot too."
    )
    names = [step.command and step.command[1] for step in words.steps]
    assert names == ["evaluate", "heal", "scale", "scale", None, "scale"]
    assert "before the first intruder appears" in words.steps[-1].sentence


def test_one_of_each_is_singular() -> None:
    assert next_steps(made(1)).finding == "Fine-tuning left 1 intruder in 1 of 1 changed matrix."


def test_an_adapter_without_factors_is_merged() -> None:
    """A new LoRA adapter would need a rank that nobody chose."""
    merged, checkpoint = made(1, rank=None, tuned_kind="adapter"), made(1, rank=None)
    for audit, is_merged in ((merged, True), (checkpoint, False), (made(1), False)):
        (written,) = (line for line in lines(next_steps(audit)) if "--at" in line)
        assert ("--as checkpoint" in written) is is_merged


EQUAL = "base and tuned are equal in every selected matrix."
NOT_COMPARED = "no selected matrix differs and can be compared."


@pytest.mark.parametrize(
    ("reasons", "finding"),
    [
        (["unchanged"], EQUAL),
        (["unchanged", "not included"], EQUAL),
        (["other shape: (4, 4) and (5, 4)"], NOT_COMPARED),
        (["unchanged", "NaN or infinity in the tuned model"], NOT_COMPARED),
    ],
)
def test_nothing_audited(reasons: list[str], finding: str) -> None:
    audit = made(skipped=[left_out(f"t{i}", reason) for i, reason in enumerate(reasons)])
    words = next_steps(audit)
    assert words.finding == f"Nothing to audit: {finding}"
    assert words.meaning.startswith("This says nothing about the")
    check = "Check that the paths are the intended ones, and what they contain:"
    assert lines(words) == [f"{check} intruders inspect runs/r2 --base base"]


def test_a_base_left_out_is_the_one_that_the_adapter_names(tmp_path: Path) -> None:
    """The audit holds the base that it found, which every command takes in its place."""
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    base = save_weights(tmp_path / "base", {"layers.0.q.weight": weight})
    factors = {"layers.0.q": (torch.ones(12, 1), 9 * torch.ones(1, 8))}
    adapter = change_config(save_lora(tmp_path / "adapter", factors), base_model_name_or_path=str(base))
    words = next_steps(run_audit(None, str(adapter), cache=False))
    commands = [step.command for step in words.steps]
    assert commands[0] is not None
    assert commands[0][2:5] == (str(adapter), "--base", f"{tmp_path}/base")
    for command in filter(None, commands[1:]):
        assert command[2:4] == (f"{tmp_path}/base", str(adapter))
    assert words == next_steps(run_audit(f"{tmp_path}/base", str(adapter), cache=False))


def test_known_critical_scales_are_told_without_advice() -> None:
    one = MatrixScale("m", (4, 4), 0.4, 0.4, 64.0)
    scales = CriticalScales("base", "runs/r2", 10, 0.5, 0, 0.38412, 0, [one], 1.0)
    assert lines(next_steps(made(1), scales))[-1] == (
        "The largest update scale with no intruders is 0.384 (1 = as trained). This counts intruders and does not "
        "measure forgetting."
    )
    allowed = dataclasses.replace(scales, target=5)
    assert "with at most 5 intruders is 0.384" in lines(next_steps(made(1), allowed))[-1]
    none = dataclasses.replace(scales, largest=64.0, matrices=[dataclasses.replace(one, measured=math.inf)])
    assert lines(next_steps(made(0), none))[-1] == (
        "There is no intruder up to 64 times this update, where the search ended. This counts intruders and does not "
        "measure forgetting."
    )


def test_settings_that_are_not_the_defaults_are_passed_on() -> None:
    settings = {"include": ["*.q.*"], "exclude": ["a b*"], "include_embeddings": True}
    audit = made(1, k=4, epsilon=0.25, settings=settings)
    commands = [step for step in next_steps(audit).steps if step.command]
    by_name = {step.command[1]: str(step.line) for step in commands if "--at" not in step.command}
    # It measures shares of the complete update, too.
    assert not any(option in by_name["scale"] for option in ("--k", "--include", "--exclude"))
    for name in ("heal", "remedies"):
        assert by_name[name].endswith("--k 4 --epsilon 0.25 --include '*.q.*' --exclude 'a b*'")
    # A share of the complete update is not one of the part that was audited.
    (share,) = (str(step.line) for step in commands if "--at" in step.command)
    assert share.endswith("--at S --out interpolated")
    assert not any(option in by_name["evaluate"] for option in ("--k", "--include"))


@pytest.mark.parametrize("tuned", ["a@0.7+b@0.3", "adapter.safetensors", "model-q4.gguf"])
def test_no_loss_is_offered_of_what_transformers_cannot_load(tuned: str) -> None:
    words = next_steps(made(1, tuned_source=tuned))
    assert lines(words)[0] == (
        "An audit does not measure forgetting. `intruders evaluate` measures it for a model that transformers "
        "can load."
    )
    assert [step.command[1] for step in words.steps if step.command] == ["scale"]
    assert words.steps[1].sentence.startswith("If it forgot, turn the complete update down.")


def test_a_revision_of_a_hub_id_is_no_weight() -> None:
    words = next_steps(made(1, base_source="org/base@v1", tuned_source="org/tuned@v1"))
    step = words.steps[0]
    assert step.command is not None
    assert step.command[:5] == ("intruders", "evaluate", "org/tuned@v1", "--base", "org/base@v1")


def test_a_base_without_a_head_has_no_loss() -> None:
    first = next_steps(made(1, base_source="minilm-l6")).steps[0]
    assert (first.command, "comes first" in first.sentence) == (None, True)
    assert "'minilm-l6' has no language-model head" in first.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"tuned_kind": "module"},
        {"tuned_kind": "state dict"},
        {"tuned_source": "LlamaForCausalLM (HuggingFaceTB/SmolLM2-135M), adapter 'default'"},
        {"base_source": "LlamaForCausalLM (HuggingFaceTB/SmolLM2-135M)"},
        {"base_source": "state dict of 3 tensors"},
    ],
    ids=str,
)
def test_models_in_memory_have_no_commands(changes: dict[str, str]) -> None:
    for audit in (made(1, **changes), made(0, **changes), made(**changes)):
        assert [step.command for step in next_steps(audit).steps if step.command] == []


@pytest.mark.parametrize(
    "audit",
    [
        made(3, 0, 1),
        made(0),
        made(),
        made(1, rank=None),
        made(1, rank=None, tuned_kind="adapter"),
        made(1, k=4, epsilon=0.25, settings={"include": ["*.q.*"], "include_embeddings": True}),
        made(1, base_source="my base", tuned_source="it's here"),
    ],
)
def test_every_command_is_one_that_is_understood(audit: Audit) -> None:
    """And none scales intruders, which our own study rejected, for somebody who has not compared."""
    for step in next_steps(audit).steps:
        assert step.sentence.endswith("." if step.command is None else ":")
        if step.command is not None:
            assert "--scale" not in step.command
            assert shlex.split(str(step.line)) == list(step.command)
            _, name, *arguments = ("0.5" if word == SHARE else word for word in step.command)
            with COMMANDS.commands[name].make_context(name, arguments) as context:
                assert context.params


@pytest.mark.parametrize("audit", [made(3, 0, 1), made(0), made(), made(1, tuned_source="it's here")])
@pytest.mark.parametrize("width", [60, 80])
def test_terminal_and_page_say_the_same(audit: Audit, width: int) -> None:
    words, printed = next_steps(audit), shown(audit, width, verbose=True)
    assert max(map(len, printed.splitlines())) <= 80
    text = " ".join(printed.replace(" \\\n", " ").split())
    top = render_audit(audit).partition('id="matrix"')[0]
    page = " ".join(unescape(re.sub(r"<[^>]+>", "", top)).split())
    for said in (words.finding, words.meaning, *(step.sentence for step in words.steps)):
        assert " ".join(said.split()) in text
        assert said in page.replace("\N{NO-BREAK SPACE}", " ")
    for step in words.steps:
        assert shlex.join(step.command or ()) in text
        assert shlex.join(step.command or ()) in page
    assert text.endswith("--html FILE writes a report.")
    assert "docs/" not in page


@pytest.mark.parametrize("intruders", [0, 1])
def test_the_terminal_has_one_screen_and_the_first_three_steps(intruders: int) -> None:
    """Of a model with layers and seven kinds of modules, as most have; docs/ is a folder that a wheel lacks."""
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    matrices = [matrix(f"model.layers.{i}.{kind}.weight", intruders, 2) for i in range(30) for kind in kinds]
    audit = made(matrices=matrices, tuned_source="runs/a-name-of-usual-length")
    printed = shown(audit)
    assert len(printed.splitlines()) <= 40
    text = " ".join(printed.replace(" \\\n", " ").split())
    for number, step in enumerate(next_steps(audit).steps):
        assert (step.sentence in text) == (number < 3)
        assert number >= 3 or str(step.line) in text
    assert "docs/" not in text
    assert "prepare --loss-on adds nats" not in text, "of rank 1 it would add none"
    size = dataclasses.replace(matrices[0].update, effective_rank=8.0)
    wide = [dataclasses.replace(own, update=size) for own in matrices]
    printed = shown(dataclasses.replace(audit, matrices=wide))
    assert len(printed.splitlines()) <= 40
    assert "prepare --loss-on adds nats, --verbose all advice" in " ".join(printed.split())


@pytest.mark.parametrize("size", [1e20, 1e3])
def test_of_an_update_far_larger_than_its_base_no_nats_are_proposed(size: float) -> None:
    """Of a prepared base, the audit would say that they are many, and no number."""
    generator = torch.Generator().manual_seed(2)
    name = "model.layers.0.self_attn.q_proj.weight"
    base, update = torch.randn(2, 40, 40, generator=generator).unbind()
    update[:, 8:] = 0  # of rank 8
    printed = shown(run_audit({name: base}, {name: base + size * update}, cache=False))
    assert "prepare" not in printed
    assert "--html FILE writes a report." in printed
