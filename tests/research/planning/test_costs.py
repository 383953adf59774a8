"""Costs of a study against torch's own count of operations and PEFT's count of weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from intruders.studies.runs import Run, expand
from intruders_research.planning import costs
from intruders_research.planning.costs import cost_lines, run_cost
from intruders_research.planning.known_sizes import TRAIN_ROWS, model_size
from intruders_research.read_study import read_study
from tests.research.parsed import parsed
from tests.tiny import save_llama, save_roberta

EXAMPLES = Path(__file__).parents[3] / "research" / "examples"
TOKENS = (2, 16)  # rows, and tokens of each


def encoder(folder: Path) -> Any:
    from transformers import RobertaModel

    return RobertaModel.from_pretrained(folder, add_pooling_layer=False)


def operations(model: Any, backward: bool) -> float:
    """Of matrix products alone, as torch counts them; attention's own are another operation."""
    ids = torch.randint(5, 40, TOKENS)
    with FlopCounterMode(display=False) as counter:
        out = model(ids).last_hidden_state.sum()
        if backward:
            out.backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for op, count in counts.items() if str(op) in ("aten.mm", "aten.addmm"))


def run_of(base: Path | str, **method: Any) -> Run:
    experiment = {
        "base": str(base), "task": "sst2", "steps": 3, "batch_size": 4, "precision": "fp32", "max_length": 16,
        "methods": [method], "measure": {"max_examples": 1},
    }  # fmt: skip
    return expand(parsed({"name": "n", "experiments": {"e": experiment}}))[0]


def test_weights_are_those_of_the_models(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_roberta(tmp_path / "roberta")
    size = model_size(str(folder))
    assert size is not None
    layers = [module for module in encoder(folder).encoder.modules() if isinstance(module, torch.nn.Linear)]
    assert size.linear == sum(layer.weight.numel() for layer in layers)
    llama = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "llama"))
    size = model_size(str(tmp_path / "llama"))
    assert size is not None
    linear = [
        m.weight.numel()
        for n, m in llama.named_modules()
        if isinstance(m, torch.nn.Linear) and n != "lm_head"
    ]
    assert size.linear == sum(linear)
    # Known from the cards: 6.74 billion, and 125 million with the positions and the head.
    assert model_size("meta-llama/Llama-2-7b-hf").weights == pytest.approx(6.74e9, rel=0.01)  # type: ignore[union-attr]
    assert model_size("FacebookAI/roberta-base").weights == pytest.approx(124e6, rel=0.02)  # type: ignore[union-attr]
    assert model_size(str(tmp_path)) is None


@pytest.mark.parametrize("text", ['{"hidden_size": 8', "[]", "[" * 100_000, "{}"])
def test_a_config_that_cannot_be_read_has_no_shape(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert model_size(str(tmp_path)) is None


@pytest.mark.parametrize("method", ["full", "lora"])
def test_operations_of_a_step_are_those_that_torch_counts(tmp_path: Path, method: str) -> None:
    from peft import LoraConfig, get_peft_model

    folder = save_roberta(tmp_path / "roberta")
    model = encoder(folder)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
        model.enable_input_require_grads()  # as in every layer but the first, whose inputs are the embeddings
    counted = operations(model.train(), backward=True) / (TOKENS[0] * TOKENS[1])
    run = run_of(folder, method=method, rank=4) if method == "lora" else run_of(folder, method=method)
    size = model_size(str(folder))
    cost = run_cost(run, size)
    assert size is not None
    assert cost is not None
    measured = 13.5 * 2 * size.linear
    a_token = (cost.operations - measured) / (3 * 4 * 13.5)  # steps, rows and SST-2's tokens
    assert a_token == pytest.approx(counted, rel=1e-9)


def test_memory_counts_weights_gradients_and_moments() -> None:
    size = model_size("FacebookAI/roberta-base")
    assert size is not None
    small, large = (
        run_cost(run_of("FacebookAI/roberta-base", method="lora", rank=rank), size) for rank in (1, 9)
    )
    full = run_cost(run_of("FacebookAI/roberta-base", method="full"), size)
    assert small is not None
    assert large is not None
    assert full is not None
    # Eight more ranks on four 768 x 768 and two 768 x 3072 matrices of 12 layers, 16 bytes each.
    assert large.memory - small.memory == 16 * 8 * 12 * (4 * 1536 + 2 * 3840)
    activations = 12 * 34 * 2 * 4 * 16 * 768  # layers, bytes, fp32, rows, tokens, width
    assert full.memory == 4 * size.weights + 12 * size.linear + activations


def test_steps_of_epochs_come_from_the_rows_of_the_data() -> None:
    runs = expand(read_study(EXAMPLES / "paper-roberta.yaml"))
    run = next(run for run in runs if run.id.startswith("scaled-mnli-lora-rank1"))
    cost = run_cost(run, model_size(run.base))
    assert cost is not None
    assert cost.steps == -(-TRAIN_ROWS["mnli"] * 5 // 16)
    assert cost.is_tokens_assumed


def test_a_base_is_looked_at_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(costs, "model_size", lambda base: looked.append(base) or model_size(base))
    folder = save_llama(tmp_path / "llama")
    runs = [run_of(folder, method="lora", rank=rank) for rank in range(1, 9)]
    assert "for 8 runs" in list(cost_lines(runs, 1e9))[1]
    assert looked == [str(folder)]


def test_lines_name_what_is_assumed_and_what_is_not_counted() -> None:
    """Memory and time are in the recorded plan."""
    runs = expand(read_study(EXAMPLES / "paper-roberta.yaml"))
    lines = list(cost_lines(runs, 1e11))
    assert "mnli" in lines[3]
    assert lines[4] == "not in this time: retrain_heads"
    unknown = [run_of("OWNER/unknown", method="full"), *runs[:1]]
    assert list(cost_lines(unknown, 1e11))[-1].startswith("no cost is told of 1 run: the size of the base")
    assert list(cost_lines(unknown[:1], 1e11)) == []


def test_the_time_of_trainings_that_stop_at_a_score_is_an_upper_bound() -> None:
    stopping = run_of("minilm-l6", method="full", match="accuracy=0.9", eval_steps=1)
    others = [run_of("minilm-l6", method="full"), run_of("minilm-l6", method="lora")]
    said = "1 run with match may stop before these steps, so that their time is an upper bound"
    assert any(line.startswith(said) for line in cost_lines([stopping, *others], 1e11))
    assert not any("upper bound" in line for line in cost_lines(others, 1e11))
