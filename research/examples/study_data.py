"""Makes the files that usual-settings, equal-skill, same-text and what_heals read, from copies of the sets they name.

    python research/examples/study_data.py ~/sets data        # then run the studies in the folder that has data

``~/sets`` has, under the names of the public files: ``piqa/valid.jsonl`` and ``piqa/valid-labels.lst`` (Bisk et al.
2020, AFL 3.0), ``instructions/alpaca_en_demo.json`` and ``c4/c4_demo.jsonl`` (the ``data`` folder of LLaMA-Factory),
``sst2/train.tsv`` and ``sst2/test.tsv`` (GLUE; its 872 validation sentences as test), ``agnews/train.tsv`` and
``agnews/dev.tsv`` (AG News: a part of its training articles and the 7,600 test articles, each with its topic in words),
``wikitext2/test.txt``. Nothing is downloaded here, and none of it belongs to this project.

Where a task's loss is wanted, there are two files of the same rows: ``whole``, prompt and completion, and ``prompts``.
The loss of the completions is the difference of their sums. Where an answer is chosen, ``right`` and ``wrong`` have the
two texts of every item in the same order, and the more probable text is the model's answer.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from intruders.data.corpora import Corpus, halves_of_corpus
from intruders.data.generated_tasks import word_problems
from intruders.data.local_files import read_rows

HELD_OUT = 100  # instructions that are not trained on
REPORTED = 500  # examples of a task whose loss is measured
HEALED = 64  # documents of C4, half of which a healing learns from


def main(sets: Path, out: Path) -> None:
    """Write every file below ``out``."""
    instructions(json.loads((sets / "instructions/alpaca_en_demo.json").read_text("utf-8")), out)
    piqa(sets / "piqa", out)
    prompts(sentiment, sets / "sst2/train.tsv", sets / "sst2/test.tsv", out / "sst2-prompts")
    prompts(news, sets / "agnews/train.tsv", sets / "agnews/dev.tsv", out / "agnews-prompts", no_header=True)
    examples = word_problems(0).test[:REPORTED]
    pairs(out / "word-problems", [(example.text, example.target) for example in examples])
    for copied, name in (("c4/c4_demo.jsonl", "c4/test.jsonl"), ("wikitext2/test.txt", "wikitext2/test.txt")):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sets / copied, out / name)
    healing(out / "c4")


def healing(folder: Path) -> None:
    """Write the documents that healings learn from and report on, and the first half of them, to be replayed."""
    lines = (folder / "test.jsonl").read_text("utf-8").splitlines()
    corpus = Corpus("c4", [json.loads(line)["text"] for line in lines[:HEALED]])
    write(folder / "healing.jsonl", ({"text": text} for text in corpus.documents))
    learned, _ = halves_of_corpus(corpus, seed=0)  # as `intruders heal --seed 0` halves them
    write(folder / "learned.jsonl", ({"text": text} for text in learned.documents))


def instructions(rows: list[dict[str, str]], out: Path) -> None:
    answers = {}  # no instruction twice, so that none is in both files
    for row in rows:
        asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        answers[f"### Instruction:\n{asked}\n\n### Response:\n"] = row["output"]
    made = list(answers.items())
    random.Random("instructions").shuffle(made)
    pairs(out / "instructions", made[:HELD_OUT])
    write(out / "instructions/train.jsonl", rows_of(made[HELD_OUT:]))


def piqa(folder: Path, out: Path) -> None:
    items = [json.loads(line) for line in (folder / "valid.jsonl").read_text("utf-8").splitlines()]
    answers = [int(line) for line in (folder / "valid-labels.lst").read_text("utf-8").split()]
    for name, turned in (("right", 0), ("wrong", 1)):
        texts = [
            f"{item['goal']} {item[f'sol{1 + (answer ^ turned)}']}"
            for item, answer in zip(items, answers, strict=True)
        ]
        write(out / f"piqa/{name}.jsonl", ({"text": text} for text in texts))


def sentiment(sentence: str, label: str) -> tuple[str, str]:
    return f"Review: {sentence.strip()}\nSentiment:", (" negative", " positive")[int(label)]


def news(text: str, topic: str) -> tuple[str, str]:
    return f"Article: {text.strip()[:250]}\nTopic:", f" {topic}"


def prompts(
    example: Callable[..., tuple[str, str]],
    train: Path,
    reported: Path,
    out: Path,
    *,
    no_header: bool = False,
) -> None:
    """Write rows as examples to train on, to choose by and to report on, in an order drawn by the name of the file."""
    drawn = []
    for path in (train, reported):
        drawn.append([example(*row.values()) for row in read_rows(path, no_header=no_header).rows])
        random.Random(f"{path.parent.name} {path.stem}").shuffle(drawn[-1])
    write(out / "train.jsonl", rows_of(drawn[0][:4000]))
    write(out / "validation.jsonl", rows_of(drawn[0][4000:4500]))
    pairs(out, drawn[1][:REPORTED])


def pairs(folder: Path, examples: list[tuple[str, str]]) -> None:
    """Write the two files behind a loss of completions, and the rows as a task has them."""
    write(folder / "whole.jsonl", ({"text": prompt + completion} for prompt, completion in examples))
    write(folder / "prompts.jsonl", ({"text": prompt} for prompt, _ in examples))
    write(folder / "test.jsonl", rows_of(examples))


def rows_of(examples: Iterable[tuple[str, str]]) -> Iterable[dict[str, str]]:
    return ({"prompt": prompt, "completion": completion} for prompt, completion in examples)


def write(file: Path, rows: Iterable[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser(), Path(sys.argv[2]))
