"""Heals models that were trained for other studies: are weights, and the base's own text, the defaults of heal?

INTRUDERS_DATA=data python -m benchmarks.what_heals healed rank1=smollm2-135m-lora@word-problems ...

Every model is healed by its weights on the base's own text, and by doses: 30 steps in bfloat16, 32 documents, 64
examples that choose; 200 test examples, 32 documents of C4 and 32 of WikiText-2 are reported.

The criterion, written before any of these healings. Weights are the default of heal for adapters if their mean loss on
WikiText-2 is at most 0.02 nats above the doses', and their mean accuracy at most one point below. The rate of 0.06, of
each update, the weight of 12 and the step of 4 documents and 16 examples were chosen on three models that do not count.

By the same criterion doses stayed the default twice, at commits 45ec914a (learned on C4, at other rates and weights)
and 4dc8d4db (every entry of a factor at the rate 0.001). The base's own text became the default text: on every model it
healed 85 % on WikiText-2 at an accuracy at most one point below that of C4. In the third round, at commit b8161c4d,
weights met the criterion on the model of SST-2 of the first two, and on four that were trained by intruders finetune
--base smollm2-135m --precision bf16 --batch-size 8 --warmup-steps 5 --seed 12 and, each, --task word-problems --rank 64
--alpha 64 --lr 5e-4 --steps 100; --rank 8 --alpha 16 --lr 1e-3 --steps 100; --rank 1 --alpha 8 --lr 5e-3 --steps 100;
and AG News --rank 16 --alpha 32 --lr 1e-3 --steps 80 ("Article: ", 250 characters, "Topic:").

The fourth to fifteenth rounds, with their criteria: git show 243edadd:benchmarks/what_heals.py for the first seven of
them, git show 54ae4e66:benchmarks/what_heals.py for the others. Twenty steps were not enough. Weights became the
default of full fine-tunings, too, by little: -0.007 nats [-0.041, +0.027], +1.2 points [-2.1, +4.6]. They start at
the tuned model, against a criterion that was missed (+0.056 nats at +0.7 points): a start at half the update cost the
packaged adapter 4.4 points. Own text stayed the default text: 0.007 nats below C4 and 0.012 below pydoc on WikiText-2,
at -0.1 and -0.6 points; random tokens were 0.101 above it. A state is refused if it costs more than is allowed by over
a standard error, as 64 examples refused states that by 500 cost nothing.

The eleventh and twelfth ask of three tasks at ranks 1 and 8 (seeds 30 to 35) and in full (from seed 21, by a weight of
4): are 95 % healed on own text and 85 % on WikiText-2 in the mean, at an accuracy at most one point below?
benchmarks/healed_table.py prints the answer over all rounds: WikiText-2 and accuracy in all nine settings, own text in
four of them, with 92.5 to 94.5 % in the others.

The sixteenth is of chance. On an Intel Xeon with AMX the packaged adapter healed 56 % by seed 0 on two threads and 94 %
by seed 1: the first steps, at the full rate and on the gradient of the text alone (that of the task is zero at the
tuned model), cost the task what later steps must give back. A rate that rises over five steps was asked about first,
and ended after two of nine healings, 93 for 94 and 87 for 93 %. Together with a task's weight that grows by e and not
its root at a look that is refused, and a last line from a refused state to the best allowed one in the place of the
tuned model, five of seeds 0 to 5 on one thread, which do not count, ended allowed, and the line helped the sixth.
Written before others were healed: that stays if over the four of the fifteenth and AG News at rank 8 with seed 32 the
mean healed on own text is at most a point below the former, at an accuracy on 500 test examples at most half a point
below, and seed 0 of the packaged adapter on two threads heals more than its interpolation. It does: 92.0 for 90.4 %, at
+0.4 points, 1.2 below to 1.4 above, and 91 % for 81 % of the interpolation, on one processor.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import intruders
from benchmarks.same_text import CHOSEN, REPORTED, SETTINGS, difference, report, splits_of
from benchmarks.usual_settings import said
from intruders.experiments.experiment_settings import HealSettings
from intruders.experiments.healing import Healing
from intruders.measures.intervals import mean_interval


def main(
    folder: Path, models: dict[str, str], loss_on: list[str], settings: HealSettings, beside: Path | None
) -> None:
    healings = {}
    for name, given in models.items():
        model, _, task = given.partition("@")
        out, splits = folder / name, splits_of(Path(task))
        task = f"{task}/train.jsonl" if splits else task
        if not (out / "heal.json").is_file():
            out.parent.mkdir(exist_ok=True)
            intruders.heal(
                "smollm2-135m",
                model,
                task=task,
                columns=intruders.Columns(**splits),
                loss_on=loss_on,
                settings=settings,
                loading=intruders.Loading(dtype="bfloat16"),
                out=out,
                progress=lambda what, done, n: print(what, done, n, flush=True) if done % 5 == 0 else None,
            )
        healings[name] = Healing.load(out)
    report(healings, settings.rivals)
    for corpus in loss_on:
        shares = [healing.healed_point.corpora[corpus].healed for healing in healings.values()]
        print(f"  healed on {corpus}: {said(mean_interval([share.estimate for share in shares if share]))}")
    if beside is not None:
        others = {name: Healing.load(beside / name).healed_point for name in healings}
        print(f"  minus those of {beside}: {difference(healings, others)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=MODEL@TASK")
    parser.add_argument(
        "--loss-on", nargs="+", default=["self", CHOSEN, REPORTED], help="the first is learned on"
    )
    parser.add_argument("--rivals", nargs="*", default=["doses"], help="none: the weights alone")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--examples", type=int, default=200, help="test examples")
    parser.add_argument("--beside", type=Path, help="healings to compare with")
    given = parser.parse_args()
    models = dict(model.split("=", 1) for model in given.models)
    settings = replace(
        SETTINGS, rivals=tuple(given.rivals), steps=given.steps, report_examples=given.examples
    )
    main(given.folder, models, given.loss_on, settings, given.beside)
