"""Shows what measuring forgetting costs: ``python -m benchmarks.evaluate [documents]``.

A base and an adapter on it are measured on documents of pydoc: as before version 0.2 (two models loaded, logits of all
places from the first that is scored, in one piece) and as now. Both must give the same losses to 1e-5.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from intruders.data.corpora import load_corpora
from intruders.measures.corpus_loss import losses_by_corpus
from intruders.measures.measure_settings import LossSettings
from intruders.measures.text_loss import sliding_windows
from intruders.models.base_model import base_model_location
from intruders.models.encoding import IGNORED, PadRight, pad_token_id
from intruders.models.loading import load_model
from intruders.models.tuned_model import OpenedModel, open_language_model, put_on

BASE, WINDOW, BATCH_TOKENS = "smollm2-135m", 1024, 2048


@torch.no_grad()
def before(opened: OpenedModel, documents: list[str]) -> Any:
    """The sum of losses of every document, by batches of windows and logits in one piece."""
    windows = [
        piece
        for number, text in enumerate(documents)
        for piece in sliding_windows(
            number, opened.tokenizer(text, verbose=False)["input_ids"], WINDOW, WINDOW // 2
        )
    ]
    windows.sort(key=lambda piece: len(piece.ids))
    sums, model = np.zeros(len(documents)), opened.model.eval()
    while windows:
        count = 1
        while count < len(windows) and len(windows[count].ids) * (count + 1) <= BATCH_TOKENS:
            count += 1
        batch, windows = windows[:count], windows[count:]
        rows = [
            {"input_ids": p.ids, "labels": [IGNORED] * p.scored_from + p.ids[p.scored_from :]} for p in batch
        ]
        tensors = PadRight(pad_token_id(opened.tokenizer))(rows)
        labels = tensors.pop("labels")
        kept = labels.shape[1] - max(1, min(piece.scored_from for piece in batch))
        logits = model(**tensors, use_cache=False, logits_to_keep=kept + 1).logits[:, :-1]
        labels = labels[:, -kept:]
        scored = labels != IGNORED
        losses = torch.zeros(labels.shape)
        losses[scored] = cross_entropy(logits[scored].float(), labels[scored], reduction="none")
        for piece, row in zip(batch, losses.double().sum(-1).tolist(), strict=True):
            sums[piece.document] += row
    return sums


def main(most: int = 8) -> None:
    """Print the seconds of both ways, of the processor and by the clock, and their ratio."""
    from peft import LoraConfig, get_peft_model

    corpora = {"pydoc": load_corpora("pydoc", max_documents=most)}
    documents = list(corpora["pydoc"][0].documents)
    with tempfile.TemporaryDirectory() as folder:
        adapter = str(Path(folder) / "adapter")
        torch.manual_seed(0)
        model: Any = load_model(base_model_location(BASE), "causal")
        get_peft_model(
            model, LoraConfig(r=8, init_lora_weights=False, target_modules="all-linear")
        ).save_pretrained(adapter)
        del model
        clock, cpu = time.perf_counter(), time.process_time()
        old = [before(open_language_model(BASE), documents)]
        old.append(before(open_language_model(adapter, BASE), documents))
        old_clock, old_cpu = time.perf_counter() - clock, time.process_time() - cpu
        clock, cpu = time.perf_counter(), time.process_time()
        opened = open_language_model(BASE)
        new = [losses_by_corpus(opened, corpora, LossSettings())["pydoc"][0]]
        opened = put_on(opened, adapter, BASE)
        new.append(losses_by_corpus(opened, corpora, LossSettings())["pydoc"][0])
        new_clock, new_cpu = time.perf_counter() - clock, time.process_time() - cpu
    for sums, losses in zip(old, new, strict=True):
        assert np.allclose(sums / losses.tokens, losses.sums / losses.tokens, rtol=1e-5, atol=0)
    tokens = int(new[0].tokens.sum())
    print(
        f"{len(documents)} documents, {tokens:,} tokens, {torch.get_num_threads()} threads, equal losses to 1e-5"
    )
    print(f"before: {old_cpu:.1f} s of the processor, {old_clock:.1f} s by the clock")
    print(f"now:    {new_cpu:.1f} s of the processor, {new_clock:.1f} s by the clock")
    print(f"ratio:  {old_cpu / new_cpu:.2f} of the processor, {old_clock / new_clock:.2f} by the clock")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
