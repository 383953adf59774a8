"""Heals with examples that the tuned model writes itself: does that keep a task of which nothing is given?

INTRUDERS_DATA=data python -m benchmarks.own_examples FOLDER [TUNED TASK]

The weights are learned on the base's own text, and on 96 prompts of three kinds: training examples of the task; user
turns that the tuned model writes after the start of its chat template (Magpie, arXiv 2406.08464); and the first 24
tokens of its samples from the first token. To the last two it gives its own greedy answers. 200 test examples of the
task and 32 documents of WikiText-2 are reported, which chose nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

import intruders
from intruders.data.corpora import SELF
from intruders.models.answers import own_text
from intruders.models.encoding import pad_token_id
from intruders.models.tuned_model import OpenedModel, open_language_model
from intruders.system.store import Kept

BASE, PROMPTS, STEPS, SHORT = "smollm2-135m", 96, 20, 24
MEASURES: dict[str, Any] = {
    "base": BASE,
    "losses": intruders.LossSettings(loss_on=("wikitext-2",), max_documents=32, max_tokens=96),
    "loading": intruders.Loading(dtype="bfloat16"),
}


def main(folder: Path, tuned: str, task: str) -> None:
    folder.mkdir(exist_ok=True)
    scores = intruders.ScoreSettings(tasks=(task,), max_examples=200)
    models = {"tuned": tuned}
    for kind in ("task", "turns", "samples"):
        out, file = folder / kind, folder / f"{kind}.jsonl"
        if kind != "task" and not file.exists():
            opened = open_language_model(tuned, BASE, MEASURES["loading"])
            asked = (opened, SELF, PROMPTS, SHORT, 0, Kept(None), print)
            prompts = own_turns(opened) if kind == "turns" else own_text(*asked).documents
            file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        settings = intruders.HealSettings(
            learn="weights", steps=STEPS, max_documents=32, max_examples=PROMPTS // 3
        )
        given: dict[str, Any] = {"task": task} if kind == "task" else {"prompts": file}
        intruders.heal(BASE, tuned, **given, settings=settings, loading=MEASURES["loading"], out=out)
        models[kind] = str(out)
    for name, model in models.items():
        found = intruders.evaluate(model, scores=scores, **MEASURES)
        loss, score = found.losses[0], found.scores[0]
        change = "" if loss.difference is None else loss.difference.text("+.3f")
        print(f"{name:8} forgotten {change}, accuracy {score.accuracy.text('.3f')}", flush=True)


@torch.no_grad()
def own_turns(opened: OpenedModel) -> list[str]:
    """Return a user's turns that a model samples at temperature 1, each in the chat template again."""
    tokenizer, model = opened.tokenizer, opened.model
    before, _, after = tokenizer.apply_chat_template(
        [{"role": "user", "content": "<TURN>"}], tokenize=False, add_generation_prompt=True
    ).partition("<TURN>")
    ids = tokenizer(before, return_tensors="pt", add_special_tokens=False).input_ids
    torch.manual_seed(0)
    rows = model.generate(
        ids.repeat(PROMPTS, 1),
        attention_mask=torch.ones(PROMPTS, ids.shape[1], dtype=torch.long),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=64,
        pad_token_id=pad_token_id(tokenizer),
    )[:, ids.shape[1] :]
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    return [before + text + after for text in texts if text]


if __name__ == "__main__":
    given = sys.argv[2:] or ["smollm2-135m-lora", "word-problems"]
    main(Path(sys.argv[1]), *given)
