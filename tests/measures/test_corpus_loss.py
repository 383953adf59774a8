"""Losses of an adapter whose tokenizer has tokens of its own, beside those of its base."""

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from intruders.errors import SettingError
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import LossSettings
from tests.experiments.healed_models import adapter_of
from tests.json_lines import write_rows
from tests.tiny import character_tokenizer, mean_loss_by_hand, save_llama


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The base's embeddings have rows that no token of its tokenizer has."""
    folder = tmp_path_factory.mktemp("read-alike")
    base = save_llama(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(character_tokenizer()) + 4)
    model.save_pretrained(base)
    tuned = adapter_of(base, folder / "tuned", ("q_proj",))
    own = character_tokenizer()
    own.add_tokens(["<tool>", "\u2603"], special_tokens=True)
    own.save_pretrained(tuned)
    return str(base), tuned


def losses_on(folder: Path, *texts: str) -> LossSettings:
    return LossSettings(loss_on=(str(write_rows(folder / "text.jsonl", [{"text": text} for text in texts])),))


def test_text_that_both_read_alike_is_measured_and_a_token_of_its_own_refused(
    sides: tuple[str, str], tmp_path: Path
) -> None:
    """By PEFT's own model; the tokens are six of the base, and one that it does not know."""
    text = "A plain text."
    told = evaluate(sides[1], base=sides[0], losses=losses_on(tmp_path, text)).losses[0]
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sides[0]), sides[1]).eval()
    wanted = mean_loss_by_hand(tuned, [character_tokenizer()(text)["input_ids"]])
    assert told.loss.estimate == pytest.approx(wanted, abs=1e-5)
    for token in ("<tool>", "\u2603"):
        said = f"^document 2 of .* has the token '{token}', .*; pass text without such"
        with pytest.raises(SettingError, match=said):
            evaluate(sides[1], base=sides[0], losses=losses_on(tmp_path, text, f"One with {token} in it."))
