"""What is recorded: chains of commands as a person types them, each in a folder of its own with the tiny models.

A command may read what an earlier one of its chain wrote. The tests run chain by chain, in several processes.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of angles in degrees, which come from cosines near 1.
ANGLES = 1e-3
# Of losses and of what was trained, the last digits are the processor's.
MEASURED = 1e-4
_FEW = "--max-documents 4 --max-tokens 24 --max-examples 2"
_SUMS = "'sums.jsonl?prompt=sum&completion=is'"
_RUN = "--batch-size 4 --max-train-samples 8 --max-eval-samples 2 --precision fp32 --max-length 64 --max-new-tokens 4"
_SEQUENCE = (
    "sequence --base bert --tasks 'az.tsv?text=text&label=label,mq.tsv?text=text&label=label' --rank 2 --lr 1e-2 "
    "--steps 2 --max-eval-samples 4 --precision fp32 --out sequence"
)


@dataclass(frozen=True)
class Case:
    """One command, and what of it may differ between two processors.

    Attributes:
      name: that of its recorded file.
      line: the command without ``intruders``.
      noise: numbers closer than this are equal; all are where they differ by less than a millionth of themselves.
      contents: record what is in the files that it writes, and not only their names.
    """

    name: str
    line: str
    noise: float = 5e-6
    contents: bool = True

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)


CHAINS: dict[str, Sequence[Case]] = {
    "weights": [
        Case("help", "--help"),
        Case("refused", "audit base nowhere --json audit.json"),
        Case("unknown-option", "audit base hot --kk 3"),
        Case("prepare", "prepare base --out cache"),
        Case("cache", "cache --cache cache"),
        Case("plugins", "plugins"),
        Case("inspect", "inspect hot --json"),
        Case("audit", "audit base hot --k 3 --no-cache --json audit.json --parquet audit.parquet --html audit.html"),
        Case("audit-two-files", "audit base merged --k 3 --no-cache --json merged/audit.json"),
        Case("audit-gate", "audit base hot --k 3 --no-cache --fail-above 0 --sarif audit.sarif", contents=False),
        Case("report", "report audit.json --out report.html"),
        Case("report-compared", "report audit.json merged/audit.json --out compared.html"),
        Case("card", "card audit.json README.md"),
        Case("verify", "verify base hot merged --json verification.json"),
        Case("verify-refused", "verify base hot base --json wrong.json"),
        Case("mitigate", "mitigate base hot --audit audit.json --scale 0.5 --out mitigated", noise=ANGLES),
        Case("mitigate-remedy", "mitigate base hot --remedy trim --as checkpoint --out trim --no-cache", noise=ANGLES),
        Case("scale", "scale base hot --k 3 --no-cache --json scale.json"),
        Case("scale-at", "scale base hot --no-cache --at 0.5 --out half"),
        Case("fleet", "fleet base tuned other --k 2 --no-cache --out fleet --json fleet.json"),
    ],
    "measures": [
        Case("evaluate", f"evaluate tuned --base base --task {_SUMS} --loss-on texts.jsonl --max-documents 4 "
             "--max-examples 2 --max-new-tokens 4 --out measured", noise=MEASURED),
        Case("attribute", f"attribute base tuned --loss-on texts.jsonl --nodes 3 {_FEW} --json attribution.json "
             "--html attribution.html", noise=MEASURED),
        Case("intervene", "intervene base hot --scales 0,1 --controls shrink --loss-on texts.jsonl "
             "--max-documents 4 --json sweep.json", noise=MEASURED),
        Case("remedies", f"remedies base tuned --only interpolate,trim --strengths 2 --task {_SUMS} --loss-on "
             f"texts.jsonl {_FEW} --max-new-tokens 4 --out remedies", noise=MEASURED),
        Case("heal", f"heal base tuned --task {_SUMS} --loss-on texts.jsonl --steps 3 --allow 0.05 {_FEW} --out healed "
             "--html healed.html", noise=MEASURED),
        Case("scale-chosen", f"scale base tuned --task {_SUMS} --loss-on texts.jsonl {_FEW} --out scaled "
             "--json chosen.json", noise=MEASURED),
    ],
    "training": [
        Case("finetune", f"finetune --base base --task {_SUMS} --rank 2 --alpha 16 --lr 1e-2 --steps 2 "
             f"--audit-steps 1 {_RUN} --out run", noise=MEASURED),
        Case("finetune-dry", f"finetune --base base --task {_SUMS} --lr 1e-2 --steps 2 --dry-run --out dry"),
        Case("finetune-again", f"finetune --base base --task {_SUMS} --rank 2 --alpha 16 --lr 1e-2 --steps 2 "
             f"--audit-steps 1 {_RUN} --out run", noise=MEASURED),
        Case("sequence", _SEQUENCE, noise=MEASURED),
        Case("sequence-again", _SEQUENCE, noise=MEASURED),
    ],
    "studies": [
        Case("study-plan", "study study.yaml --dry-run --out study"),
        Case("study", "study study.yaml --out study", noise=MEASURED, contents=False),
        Case("study-again", "study study.yaml --out study --resume", noise=MEASURED, contents=False),
        Case("report-study", "report study --out study.html", noise=MEASURED),
    ],
}  # fmt: skip


def make_models(folder: Path, chain: str) -> None:
    """Write the models and data that the commands of a chain name, and no more: making them takes seconds."""
    from intruders.models.loading import load_model
    from tests.checkpoints.models import saved
    from tests.experiments.healed_models import TARGETS, adapter_of
    from tests.mitigation.hot import hot_llama
    from tests.studies.tiny_study import BRIEF
    from tests.tiny import save_bert, save_llama, short_task, short_texts

    base = save_llama(folder / "base")
    short_task(folder)
    short_texts(folder / "texts.jsonl", 12)
    if chain == "training":
        save_bert(folder / "bert", with_head=False)
        for letters in ("az", "mq"):
            rows = [f"{letters[number % 2] * 4}\t{number % 2}" for number in range(40)]
            (folder / f"{letters}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    if chain in ("weights", "measures"):
        adapter_of(base, folder / "tuned", TARGETS, size=1.0)
        hot = hot_llama(model=load_model(str(base), "causal"))
        saved(hot, folder / "hot")
    if chain == "weights":
        # Of the hot one every update is as large as the others: what is largest would be the processor's choice.
        adapter_of(base, folder / "other", TARGETS, seed=2, size=0.8)
        saved(hot.merge_and_unload(), folder / "merged")  # type: ignore[operator]
    if chain == "studies":
        write_study(folder, BRIEF)


def write_study(folder: Path, measure: dict[str, Any] | None = None) -> None:
    """Write a study of two methods on the base in ``folder``, by default with every measure."""
    import yaml

    from tests.studies.tiny_study import tiny_study

    described = tiny_study(Path("base"), task="sums.jsonl?prompt=sum&completion=is")
    experiment = described["experiments"]["matched"]
    experiment["measure"] |= {"loss_on": ["texts.jsonl"], "max_documents": 4}
    experiment["measure"] = experiment["measure"] if measure is None else measure
    described |= {"support": {"structure": "LoRA has more intruders than full fine-tuning."}}
    (folder / "study.yaml").write_text(yaml.safe_dump(described | {"seeds": [0, 1]}, sort_keys=False))
