"""The tokenizer of an adapter: its chat template and tokens, against what transformers makes of the same messages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

import intruders
from intruders.data.task import Conversation, Example, Task
from intruders.measures.measure_settings import ScoreSettings
from intruders.models.base_model import digest_of_model
from intruders.models.encoding import encode_parts
from intruders.models.loading import load_model
from intruders.models.tuned_model import open_for_task, open_language_model, put_on
from tests.experiments.healed_models import QUICK, adapter_of, llama_and_adapter
from tests.json_lines import write_rows
from tests.tiny import save_llama, short_texts

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
OTHER = TEMPLATE.replace(": ", "> ")
ASKED = Conversation((("user", "2 and 3"),), (("assistant", "5"),))
MESSAGES = [{"role": "user", "content": "2 and 3"}, {"role": "assistant", "content": "5"}]
CHAT = Example(text="2 and 3", target="5", conversation=ASKED)
TASK = Task(name="sums", kind="causal", score="exact", train=[], validation=[], test=[CHAT])


@pytest.fixture
def sides(tmp_path: Path) -> tuple[str, str]:
    return llama_and_adapter(tmp_path)


def give_tokenizer(folder: str, base: str, template: str | None, tokens: list[str] | None = None) -> Any:
    """Save the base's tokenizer beside an adapter as trainers do, with another template or further tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": tokens or []})
    tokenizer.save_pretrained(folder)
    return tokenizer


def ids_of(tokenizer: Any) -> list[int]:
    [(prompt, completion)] = encode_parts(tokenizer, [CHAT])
    return prompt + completion


def ids_as_trained(tokenizer: Any) -> list[int]:
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("of_base", [None, OTHER])
def test_messages_are_written_by_the_adapters_template(of_base: str | None, sides: tuple[str, str]) -> None:
    base, tuned = sides
    give_tokenizer(base, base, of_base)
    trained_with = give_tokenizer(tuned, base, TEMPLATE)
    opened = open_for_task(tuned, TASK, base)
    assert ids_of(opened.tokenizer) == ids_as_trained(trained_with)
    told = f"the chat template is that of adapter {tuned!r}, which differs from its base's"
    assert opened.notes[-1] == told
    before = open_language_model(base)
    for other in (open_language_model(tuned, base), put_on(before, tuned, base)):
        assert ids_of(other.tokenizer) == ids_as_trained(trained_with)
    assert before.tokenizer.chat_template == of_base


def test_the_bases_tokenizer_stays_where_the_adapters_adds_no_template(sides: tuple[str, str]) -> None:
    base, tuned = sides
    own = give_tokenizer(base, base, TEMPLATE)
    for template in (TEMPLATE, None):
        give_tokenizer(tuned, base, template)
        opened = open_for_task(tuned, TASK, base)
        assert ids_of(opened.tokenizer) == ids_as_trained(own)
        assert not any("tokenizer" in note or "template" in note for note in opened.notes)


def test_tokens_that_the_training_named_are_read_as_it_read_them(sides: tuple[str, str]) -> None:
    """The base has an embedding for one more token than its tokenizer names, as Llama's reserved ones."""
    base, tuned = sides
    rows = open_language_model(base).model.get_input_embeddings().num_embeddings
    assert len(shorter_by_one(base, AutoTokenizer.from_pretrained(base))) == rows - 1
    trained_with = give_tokenizer(tuned, base, TEMPLATE.replace("assistant: ", "<|im|>"), ["<|im|>"])
    assert len(trained_with) == rows
    opened = open_for_task(tuned, TASK, base)
    told = f"the tokenizer is that of adapter {tuned!r}, whose tokens differ from its base's"
    assert opened.notes[-1] == told
    assert opened.tokenizer.encode("<|im|>", add_special_tokens=False) == [rows - 1]


def test_tokens_that_were_retrained_are_read_as_the_training_named_them(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    whole = AutoTokenizer.from_pretrained(base)
    rows = len(whole)
    shorter_by_one(str(base), whole)
    tuned = adapter_of(base, tmp_path / "tuned", ("q_proj",), trainable_token_indices=[rows - 1])
    give_tokenizer(tuned, str(base), None, ["<|im|>"])
    opened = open_language_model(tuned, str(base))
    assert opened.tokenizer.encode("<|im|>", add_special_tokens=False) == [rows - 1]


def shorter_by_one(folder: str, tokenizer: Any) -> Any:
    """Save a tokenizer without its last character."""
    tokenizer.save_pretrained(folder)
    file = Path(folder) / "tokenizer.json"
    document = json.loads(file.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary.pop(max(vocabulary, key=vocabulary.get))
    file.write_text(json.dumps(document))
    return AutoTokenizer.from_pretrained(folder)


def test_a_token_beyond_the_embeddings_is_not_taken(sides: tuple[str, str]) -> None:
    """The model has no place for it, so that no row of the training can have had it."""
    base, tuned = sides
    give_tokenizer(tuned, base, TEMPLATE, ["<|im|>"])
    opened = open_for_task(tuned, TASK, base)
    assert opened.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    assert opened.tokenizer.chat_template == TEMPLATE


def test_a_tokenizer_that_cannot_be_loaded_is_told_of(sides: tuple[str, str]) -> None:
    base, tuned = sides
    (Path(tuned) / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}')
    opened = open_for_task(tuned, TASK, base)
    assert "transformers cannot load the tokenizer beside adapter" in opened.notes[-1]


def test_kept_results_know_the_tokenizer_beside_an_adapter(sides: tuple[str, str]) -> None:
    """But not that of a run of ours, which is its base's."""
    base, tuned = sides
    alone = digest_of_model(tuned)
    give_tokenizer(tuned, base, TEMPLATE)
    with_template = digest_of_model(tuned)
    give_tokenizer(tuned, base, OTHER)
    assert len({alone, with_template, digest_of_model(tuned)}) == 3
    (Path(tuned) / "optimizer.json").write_text("{}")
    give_tokenizer(tuned, base, TEMPLATE)
    assert digest_of_model(tuned) == with_template
    (Path(tuned) / "run.json").write_text('{"schema": 1}')
    assert digest_of_model(tuned) == alone


@pytest.mark.parametrize("of_base", [None, OTHER])
def test_an_adapter_is_healed_as_it_reads(
    of_base: str | None, sides: tuple[str, str], tmp_path: Path
) -> None:
    """The truth is a loop over the messages as the adapter's own template writes them, in base and tuned model."""
    base, tuned = sides
    give_tokenizer(base, base, of_base)
    trained_with = give_tokenizer(tuned, base, TEMPLATE)
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": MESSAGES}] * 8)
    task, text = f"{rows}?validation={rows}&test={rows}", str(short_texts(tmp_path / "text.jsonl", 6))
    whole = PeftModel.from_pretrained(load_model(base, "causal"), tuned).eval()
    expected = [loss_of_answer(model, trained_with) for model in (load_model(base, "causal").eval(), whole)]
    few = intruders.AttributionSettings(check=0, max_documents=2, max_tokens=16, max_examples=2)
    rise = intruders.attribute(base, tuned, loss_on=text, task=task, settings=few).rises[1]
    choice = intruders.choose_scale(base, tuned, loss_on=text, task=task, settings=QUICK)
    only = intruders.ComparisonSettings(only=("interpolate",), strengths=1)
    losses = intruders.LossSettings(loss_on=(text,), max_tokens=16)
    scores = ScoreSettings(tasks=(task,), max_examples=2)
    compared = intruders.compare_remedies(base, tuned, comparison=only, losses=losses, scores=scores)
    assert [rise.base_loss, rise.tuned_loss] == pytest.approx(expected, abs=1e-5)
    assert [choice.curve[at].task_loss for at in (0, -1)] == pytest.approx(expected, abs=1e-5)
    points = (compared.base_point, compared.tuned_point)
    assert [point.task_losses[task] for point in points] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def loss_of_answer(model: Any, tokenizer: Any) -> float:
    """Nats per token of the answer and its end."""
    ids = ids_as_trained(tokenizer)
    asked = tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True)
    begin = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
    logits = model(input_ids=torch.tensor([ids])).logits[0, begin - 1 : -1]
    return float(cross_entropy(logits, torch.tensor(ids[begin:])))
