"""A comparison on a tiny model in which one remedy truly wins, stopped and gone on with."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from intruders.audits.audit_settings import Compute
from intruders.data.corpora import load_corpora
from intruders.data.load_task import load_task
from intruders.errors import SettingError
from intruders.experiments.compare_remedies import compare_remedies
from intruders.experiments.data_shares import split_data
from intruders.experiments.experiment_settings import ComparisonSettings
from intruders.experiments.remedy_comparison import RemedyComparison
from intruders.measures.corpus_loss import CorpusLoss
from intruders.measures.evaluate import evaluate
from intruders.measures.intervals import Interval
from intruders.measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.remedy import Remedy
from intruders.mitigation.remedies.shares import Layers
from tests.checkpoints.models import saved
from tests.commands import in_this_process
from tests.json_lines import write_rows
from tests.measures.harness_task import write_harness_task
from tests.mitigation.hot import hot_llama
from tests.tiny import character_tokenizer, save_llama

from .conftest import counted_measurements

Found = tuple[RemedyComparison, Path]

NO_CACHE = Compute(cache=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that knows a text. Layer 1 learned the task. Layer 0 was spoiled for letters alone, which the task does
    not use: taking it back gives the text its loss again and costs nothing."""
    path = tmp_path_factory.mktemp("models")
    save_llama(path / "base", positions=64)
    model = AutoModelForCausalLM.from_pretrained(path / "base")
    rows = [{"q": f"{number} + 1 =", "a": "57"} for number in range(100, 220)]
    write_rows(path / "task.jsonl", rows)
    line = "the cat sat on a mat and then it saw one more dog come by"
    words = line.split()
    texts = [" ".join(words[start:] + words[:start])[:35] for start in range(len(words))] * 2
    write_rows(path / "text.jsonl", [{"text": text} for text in texts])
    sums = [(f"{number} + 1 ={number + 1} " * 3)[:35] for number in range(100, 400, 20)]
    _learn(model, [*texts[::2], *sums], list(model.parameters()))
    model.save_pretrained(path / "base")
    matrices = [one for one in model.get_submodule("model.layers.1").parameters() if one.dim() == 2]
    _learn(model, [f"{row['q']}{row['a']}" for row in rows[:60]], matrices)
    _spoil_letters(model)
    model.save_pretrained(path / "tuned")
    character_tokenizer().save_pretrained(path / "tuned")
    return path


def _learn(model: torch.nn.Module, texts: list[str], weights: list[torch.nn.Parameter]) -> None:
    end = character_tokenizer().eos_token_id
    ids = torch.tensor([[*character_tokenizer()(text)["input_ids"], end] for text in texts])
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(40):
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def _spoil_letters(model: torch.nn.Module) -> None:
    """Noise in what layer 0 makes of tokens, but for those of the task: its input is their embedding, rescaled."""
    used = character_tokenizer()("0123456789 +=")["input_ids"]
    embeddings = model.get_parameter("model.embed_tokens.weight").data[used]
    inside = torch.linalg.svd(embeddings, full_matrices=False)[2]
    weight = model.get_parameter("model.layers.0.self_attn.v_proj.weight")
    noise = 3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    weight.data += noise - noise @ inside.mT @ inside


def compared(
    folder: Path,
    out: Path | None = None,
    tuned: Path | None = None,
    text: dict[str, int] | None = None,
    scored: dict[str, str] | None = None,
    only: tuple[str, ...] = ("layers", "drop", "flatten"),
    strengths: int = 2,
    allow: float = 0.02,
    **settings: Any,
) -> RemedyComparison:
    columns = "" if scored and "prompt" in scored else "?prompt=q&completion=a"
    return compare_remedies(
        str(folder / "base"),
        str(tuned or folder / "tuned"),
        comparison=ComparisonSettings(only=only, strengths=strengths, allow=allow),
        losses=LossSettings((str(folder / "text.jsonl"),), **text or {}),
        scores=ScoreSettings(tasks=(f"{folder / 'task.jsonl'}{columns}",), max_new_tokens=4, **scored or {}),
        out=out,
        compute=NO_CACHE,
        **settings,
    )


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    out = tmp_path_factory.mktemp("out")
    return compared(folder, out), out


def write(folder: Path, out: Path, remedy: Remedy) -> None:
    mitigate(folder / "base", folder / "tuned", remedy=remedy, out=out, check=False, compute=NO_CACHE)


def row(comparison: RemedyComparison, name: str):  # type: ignore[no-untyped-def]
    return next(one for one in comparison.remedies if one.name == name)


def measured(folder: Path, model: Path) -> CorpusLoss:
    """The reported half, scored on a model on disk by the ordinary evaluation."""
    losses = LossSettings((str(folder / "text.jsonl"),))
    return evaluate(str(model), base=str(folder / "base"), losses=losses, reported_half=True).losses[0]


def test_no_document_and_no_example_is_in_two_shares(folder: Path) -> None:
    task = load_task(f"{folder / 'task.jsonl'}?prompt=q&completion=a", ScoreSettings(), 0)
    corpora = load_corpora(str(folder / "text.jsonl"))
    shares = split_data({"c": corpora}, {"t": task}, None, 0)
    every = [*shares.choice, shares.report]
    documents = [text for share in every for text in share.corpora["c"][0].documents]
    assert sorted(documents) == sorted(corpora[0].documents)
    examples = [one.text for share in every for one in share.examples["t"]]
    assert len(set(examples)) == len(examples)


def test_the_remedy_that_truly_wins_is_named_with_the_command_for_it(folder: Path, found: Found) -> None:
    comparison, _ = found
    assert comparison.forgotten.low > 0
    layers = row(comparison, "layers")
    assert layers.chosen.strength == 0.5 or layers.chosen.strength == 0.75
    assert layers.chosen.gain.low > 0
    assert comparison.better[0].name == "layers"
    assert comparison.sentence().startswith("Use layers at quota ")
    command = f"intruders mitigate {folder / 'base'} {folder / 'tuned'} --remedy layers --strength "
    assert comparison.command().startswith(command)
    assert layers.chosen.healed.estimate > 0.3


def test_every_remedy_is_a_row_and_every_point_one_of_the_table(found: Found, tmp_path: Path) -> None:
    comparison, _ = found
    flatten = row(comparison, "flatten")
    assert flatten.chosen is None
    assert "has no low rank to spread over" in flatten.reason
    assert [one.name for one in comparison.remedies] == ["interpolate", "flatten", "layers", "drop"]
    comparison.save(tmp_path)
    table = pd.read_parquet(tmp_path / "remedies.parquet")
    assert len(table[table["remedy"] == "interpolate"]) == 11 + 9 + 1
    chosen = table[table["chosen"]].set_index("remedy")
    assert chosen.loc["layers", "gain"] == row(comparison, "layers").chosen.gain.estimate
    of_layers = table[table["control"].notna() & (table["remedy"] == "layers")]
    assert set(of_layers["control"]) == {"random 1", "random 2", "random 3"}


def test_tasks_of_the_harness_are_scored_as_on_written_models(
    folder: Path, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning spoiled letters, so a task about them is damaged, and the remedy that takes it back heals it."""
    pytest.importorskip("lm_eval")
    words, letters = "the cat sat on a mat and then it saw one", "acdehimnost"
    targets = {words[:end]: letters.index(words[end]) for end in range(3, 39) if words[end] in letters}
    (tmp_path / "own").mkdir()
    write_harness_task(tmp_path / "own", "next_letter", letters, targets, between="")
    harness = HarnessSettings(("next_letter",), str(tmp_path / "own"))
    shutil.copytree(found[1] / "evaluations", tmp_path / "out" / "evaluations")
    units = [json.loads(file.read_text())["unit"] for file in (tmp_path / "out").rglob("evaluations/*.json")]
    without = sum(unit["remedy"] != "drop" for unit in units)
    calls = counted_measurements(monkeypatch)
    comparison = compared(folder, tmp_path / "out", only=("layers",), harness=harness)
    assert 0 < calls.made < without / 4  # only what is scored by them is measured again
    layers = row(comparison, "layers")
    written = tmp_path / "written"
    write(folder, written, Layers(layers.chosen.strength))
    scores = {}
    for model, point in (
        (folder / "base", comparison.base_point),
        (folder / "tuned", comparison.tuned_point),
        (written, layers.chosen),
    ):
        (score,) = evaluate(str(model), harness=harness).harness
        assert point.harness == {"next_letter": pytest.approx(score.value)}
        scores[Path(model).name] = score.value
    assert scores["tuned"] < scores["base"] - 0.3, "the case shows something"
    healed = (scores["written"] - scores["tuned"]) / (scores["base"] - scores["tuned"])
    of_text = layers.chosen.healed.estimate
    assert layers.parts.healing == pytest.approx((min(1, healed) + min(1, of_text)) / 2)
    assert comparison.to_document()["tuned"]["harness"] == {"next_letter": pytest.approx(scores["tuned"])}
    # Another example of one's own task is another task.
    calls.made = 0
    write_harness_task(tmp_path / "own", "next_letter", letters, {**targets, "the ca": 0}, between="")
    compared(folder, tmp_path / "out", only=("layers",), harness=harness)
    assert calls.made > 0


def test_it_is_stopped_and_goes_on_and_other_settings_do_not_reuse_it(
    folder: Path, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, out = found
    whole = len(list((out / "evaluations").iterdir()))
    calls = counted_measurements(monkeypatch)
    calls.left = 20
    with pytest.raises(KeyboardInterrupt):
        compared(folder, tmp_path / "again")
    kept = list((tmp_path / "again" / "evaluations").iterdir())
    kept[0].write_text(kept[0].read_text()[:50])  # as a fault of the disk leaves it
    calls.left = -1
    told: list[tuple[str, int, int]] = []
    again = compared(folder, tmp_path / "again", progress=lambda *step: told.append(step))
    assert again.to_document() == comparison.to_document()
    assert calls.made <= whole + 1
    counted = [done for what, done, _ in told if not what.startswith(("audit", "read", "open"))]
    assert counted == list(range(whole)), "each evaluation is counted once"
    calls.made = 0
    compared(folder, tmp_path / "again", only=("layers",), scored={"score": "final-number"})
    assert calls.made > 20


def test_an_adapter_its_controls_and_a_remedy_that_no_adapter_holds(folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    saved(hot_llama(model=base, gain=0.6), tmp_path / "adapter")
    only, text = ("intruders", "dg-hard", "trim"), {"max_documents": 8}
    comparison = compared(folder, tuned=tmp_path / "adapter", text=text, only=only, strengths=1)
    assert "their median and the threshold are 0" in row(comparison, "dg-hard").reason
    intruders, trim = row(comparison, "intruders"), row(comparison, "trim")
    for one in (intruders, trim):
        sizes = {point.control: (point.norm, point.output) for point in one.controls}
        assert {"shrink", "shrink-output", "resized", "random 1", "random 2", "random 3"} <= set(sizes)
        assert sizes["shrink"][0] == pytest.approx(one.chosen.norm, rel=1e-6)
        assert sizes["shrink-output"][1] == pytest.approx(one.chosen.output, rel=1e-6)
        assert sizes["resized"][0] == pytest.approx(1)
    complements = [point for point in intruders.controls if point.control == "complement"]
    assert complements or intruders.no_control["complement"]


def test_what_cannot_be_compared_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    """Also the folder of a study, whose report would be replaced by that of the comparison."""
    files = {name: name for name in ("report.html", "study.json")}
    for name in files:
        (tmp_path / name).write_text(name)
    text, task = LossSettings(("pydoc",)), ScoreSettings(tasks=("word-problems",))
    other = "is not empty and not a comparison of remedies: it contains 'report.html', 'study.json'; choose another"
    for losses, scores, out, said in (
        (LossSettings(), task, None, "pass --loss-on CORPUS"),
        (text, ScoreSettings(), None, "pass --task TASK"),
        (text, task, tmp_path, other),
    ):
        with pytest.raises(SettingError, match=said):
            compare_remedies("a", "b", losses=losses, scores=scores, out=out)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == files


def test_the_command_learns_the_doses_that_were_measured(folder: Path, tmp_path: Path) -> None:
    """With seeds and numbers of data that are not the defaults."""
    chosen: Any = {"only": ("interpolate", "doses"), "strengths": 1, "allow": 0.5, "data_seed": 2, "seed": 3}
    text = {"max_documents": 12, "max_tokens": 32}
    comparison = compared(folder, tmp_path / "compared", text=text, **chosen)
    units = [json.loads(file.read_text()) for file in (tmp_path / "compared").rglob("evaluations/*.json")]
    [measured] = [unit["value"]["doses"] for unit in units if "learned on" in unit["unit"]]
    chosen = row(comparison, "doses").chosen
    clear = replace(chosen, strength=1.0, gain=Interval(1.0, 0.9, 1.1))
    rows = [replace(row(comparison, "doses"), chosen=clear)]
    always = replace(comparison, remedies=rows, forgotten=Interval(1.0, 0.9, 1.1))
    shell = always.command(str(tmp_path / "healed"))
    done = in_this_process(*shlex.split(shell)[1:])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "healed" / "heal.json").read_text())["healing"]["doses"] == measured
