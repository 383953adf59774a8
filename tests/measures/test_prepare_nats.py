"""A base prepared on a text: what audits then predict, against the KL that running both models measures.

And the rows of its layers: against finite differences, and the KL that a small update really makes.
"""

import copy
import errno
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import intruders
from intruders.audits.audit_settings import Compute
from intruders.audits.base_cache import NATS, DiskCache
from intruders.audits.kept_nats import DOCUMENT, KeptNats, Writer
from intruders.audits.result.audit_result import Audit
from intruders.audits.result.forgetting import Between, Forgetting
from intruders.checkpoints.stored.selection import Selection
from intruders.errors import DiskFullError, SettingError
from intruders.measures.prepare_nats import FIRST, TOKENS, NatsPlan, layer_rows
from intruders.mitigation.mitigate import mitigate
from intruders.models.loading import load_model
from tests.checkpoints.models import moved, tiny_mixtral
from tests.json_lines import write_rows
from tests.tiny import character_tokenizer, save_bert, save_gpt2, save_llama


def kept(base: str, text: str, cache: Path, **how: Any) -> NatsPlan:
    plan = NatsPlan.of(base, text, **how)
    assert plan.keep(cache) > 0
    return plan


def text_of(folder: Path, documents: int, words: int = 40) -> str:
    texts = [" ".join(f"{at * number % 97} and" for at in range(words)) for number in range(1, documents + 1)]
    return str(write_rows(folder / f"{documents}-{words}.jsonl", [{"text": text} for text in texts]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("nats") / "base")


@pytest.fixture(scope="module")
def text(base: Path) -> str:
    return text_of(base.parent, 60)


@pytest.fixture(scope="module")
def cache(base: Path, text: str) -> Path:
    """Where the base is prepared on the text."""
    found = kept(str(base), text, base.parent / "cache", sequences=240)
    assert (len(found.documents), len(found.owner), found.left_out) == (240, 14, [])
    return base.parent / "cache"


def tuned_of(base: Path, folder: Path, size: float, *, norm: bool = False) -> Path:
    model: Any = moved(load_model(str(base), "causal"), size, 3, only=lambda name, parameter: "_proj" in name)
    if norm:
        model.model.norm.weight.data += 0.1
    model.save_pretrained(folder)
    return folder


def predicted(base: Path, tuned: Path, cache: Path) -> Forgetting:
    return intruders.audit(str(base), str(tuned), cache=cache).forgetting


@pytest.mark.parametrize("size", [0.003, 0.01])
def test_it_predicts_the_measured_kl(base: Path, cache: Path, text: str, tmp_path: Path, size: float) -> None:
    tuned = tuned_of(base, tmp_path / "tuned", size)
    found = predicted(base, tuned, cache)
    assert found.left_out == []
    assert found.text == text
    plan = NatsPlan.of(str(base), text, sequences=200, seed=7)
    models = [load_model(str(source), "causal").eval() for source in (base, tuned)]
    with torch.no_grad():
        before, after = (model(input_ids=plan.ids[:, :-1]).logits.log_softmax(-1) for model in models)
    measured = float((before.exp() * (before - after)).sum(-1)[:, FIRST:].mean())
    assert found.kl.estimate == pytest.approx(measured, rel=0.2)
    assert sum(found.by_matrix.values()) == pytest.approx(1.0)
    assert found.tokens == 240 * (TOKENS - FIRST)


def test_of_full_fine_tuning_no_row_is_read(
    base: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The criterion was missed for it. The largest rank is lowered here, since the models are tiny."""
    monkeypatch.setattr("intruders.audits.result.forgetting._LARGEST_RANK", 8)
    monkeypatch.setattr(KeptNats, "rows", lambda *given: pytest.fail("rows are read"))
    tuned = tuned_of(base, tmp_path / "tuned", 0.003)
    said = "no nats are predicted of an update of rank 1 or of full fine-tuning"
    with pytest.warns(UserWarning, match=said):
        audit = intruders.audit(str(base), str(tuned), cache=cache)
    assert audit.forgetting is None
    assert min(matrix.update.effective_rank for matrix in audit.matrices) > 8


def test_matrices_beyond_the_ranks_count_where_their_median_is_within(
    base: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an audit and in a fleet, as they do where no rank is too large."""
    tuned = tuned_of(base, tmp_path / "tuned", 0.003)
    wanted = intruders.audit(str(base), str(tuned), cache=cache)
    ranks = [matrix.update.effective_rank for matrix in wanted.matrices]
    monkeypatch.setattr("intruders.audits.result.forgetting._LARGEST_RANK", sorted(ranks)[len(ranks) // 2])
    assert intruders.audit(str(base), str(tuned), cache=cache).forgetting == wanted.forgetting
    in_fleet = intruders.audit_fleet(str(base), [str(tuned)], cache=cache).audit(0).forgetting
    assert in_fleet.kl.estimate == pytest.approx(wanted.forgetting.kl.estimate, rel=1e-5)
    assert in_fleet.by_matrix == pytest.approx(wanted.forgetting.by_matrix, rel=1e-4)


def test_experts_have_no_rows_and_are_named(tmp_path: Path) -> None:
    base, text = tmp_path / "base", text_of(tmp_path, 20)
    tokenizer = character_tokenizer()
    small: Any = tiny_mixtral()
    small.config.vocab_size = len(tokenizer)
    model: Any = type(small)(small.config)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    found = kept(str(base), text, tmp_path / "cache", sequences=10)
    assert all("experts" in name or "gate" in name for name in found.left_out)
    assert any("experts" in name for name in found.left_out)
    assert "which no linear layer reads alone" in found.in_words()
    moved(model, 0.01, 1).save_pretrained(tmp_path / "tuned")
    left_out = predicted(base, tmp_path / "tuned", tmp_path / "cache").left_out
    assert any("experts" in name for name in left_out)
    assert any("embed_tokens" in name for name in left_out)


def test_a_matrix_that_was_not_prepared_is_left_out(base: Path, text: str, tmp_path: Path) -> None:
    kept(str(base), text, tmp_path / "cache", sequences=20, selection=Selection(exclude=("*k_proj*",)))
    found = predicted(base, tuned_of(base, tmp_path / "tuned", 0.01), tmp_path / "cache")
    assert found.left_out == [f"model.layers.{layer}.self_attn.k_proj.weight" for layer in (0, 1)]


@pytest.mark.parametrize("where", ["model.norm", "layers.1.mlp.down_proj"])
def test_a_base_that_differs_anywhere_is_another_one(base: Path, cache: Path, where: str) -> None:
    """The gradients of a matrix depend on all others, also on those that an update leaves as they are."""
    before = load_model(str(base), "causal").state_dict()
    after = {
        name: weight + 0.01 * torch.randn_like(weight) if "q_proj" in name else weight
        for name, weight in before.items()
    }
    assert intruders.audit(dict(before), after, cache=cache).forgetting is not None
    sides = [
        {name: weight * 1.01 if where in name else weight for name, weight in side.items()}
        for side in (before, after)
    ]
    assert intruders.audit(*sides, cache=cache).forgetting is None
    further = [{**side, "score.weight": torch.ones(2, 32)} for side in (before, after)]
    assert intruders.audit(*further, cache=cache).forgetting is not None


def test_a_change_of_some_matrices_does_not_tell_nats_of_all(base: Path, cache: Path, tmp_path: Path) -> None:
    model: Any = load_model(str(base), "causal")
    for name, parameter in model.named_parameters():
        if "q_proj" in name:
            parameter.data += 0.001 * torch.randn(parameter.shape)
        elif "up_proj" in name:
            parameter.data += 2 * torch.randn(len(parameter), 1) @ torch.randn(1, parameter.shape[1]) / 32
    model.save_pretrained(tmp_path / "tuned")
    done = mitigate(base, tmp_path / "tuned", scale=0.5, out=tmp_path / "out", compute=Compute(cache=cache))
    assert 0 < len(done.matrices) < len(done.before.matrices)
    assert done.before.forgetting is not None
    assert done.after.forgetting is None


def test_the_share_of_matrices_is_what_leaves_with_updates(base: Path, cache: Path, tmp_path: Path) -> None:
    """Taking updates z_i out takes 2 share - E[z_i^2] / E[z^2] of the KL with them."""
    tuned = tuned_of(base, tmp_path / "tuned", 0.01)
    audit = intruders.audit(str(base), str(tuned), cache=cache)
    assert audit.intruders > 0
    assert audit.forgetting.affected == [matrix.name for matrix in audit.matrices if matrix.intruders]
    before, after = (load_model(str(source), "causal").state_dict() for source in (base, tuned))
    some = [matrix.name for matrix in audit.matrices if ".mlp." in matrix.name]
    only, rest = before | {name: after[name] for name in some}, after | {name: before[name] for name in some}
    kl, of_only, of_rest = (
        found.kl.estimate
        for state in (after, only, rest)
        if (found := intruders.audit(dict(before), dict(state), cache=cache).forgetting) is not None
    )
    share = sum(audit.forgetting.by_matrix[name] for name in some)
    assert share == pytest.approx((kl + of_only - of_rest) / (2 * kl), abs=1e-4)
    for name in ("a.json", "a.parquet"):
        audit.save(tmp_path / name)
        assert Audit.load(tmp_path / name) == audit
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table.groupby("name")["nats"].first().sum() == pytest.approx(kl)


@pytest.mark.parametrize("what", ["rows", "document", "gone"])
def test_damage_gives_one_line_and_no_number(base: Path, cache: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    tuned = tuned_of(base, tmp_path / "tuned", 0.01)
    (document,) = (tmp_path / "cache").glob(f"{NATS}/*/{DOCUMENT}")
    rows = sorted(document.parent.glob("*-gradients.bin"))[3]
    if what == "rows":
        content = bytearray(rows.read_bytes())
        content[5] ^= 1
        rows.write_bytes(content)
    elif what == "gone":
        rows.unlink()
    else:
        document.write_text(document.read_text()[:-9])
    with pytest.warns(UserWarning, match="is damaged .* run intruders prepare BASE --loss-on TEXT again"):
        audit = intruders.audit(str(base), str(tuned), cache=tmp_path / "cache")
    assert audit.forgetting is None


def test_preparing_again_replaces_what_was_kept(base: Path, text: str, tmp_path: Path) -> None:
    for sequences in (20, 10):
        found = kept(str(base), text, tmp_path / "cache", sequences=sequences)
        (document,) = (tmp_path / "cache").glob(f"{NATS}/*/{DOCUMENT}")
        files = [file for file in document.parent.iterdir() if file != document]
        assert sum(file.stat().st_size for file in files) == found.bytes
    store = DiskCache(tmp_path / "cache")
    assert store.size() == (0, found.bytes + document.stat().st_size)
    store.clear()
    assert store.size() == (0, 0)


def test_the_rows_take_at_most_twice_the_base_in_16_bits(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", width=768)
    found = kept(str(base), text_of(tmp_path, 60), tmp_path / "cache")
    files = [file.stat().st_size for file in (tmp_path / "cache").glob(f"{NATS}/*/*.bin")]
    limit = 4 * sum(parameter.numel() for parameter in load_model(str(base), "causal").parameters())
    assert 32 < len(found.documents) < 60
    assert sum(files) == found.bytes <= limit < found.bytes * (1 + 1 / len(found.documents))


def test_a_full_disk_leaves_what_was_kept(
    base: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(str(base), text, tmp_path / "cache", sequences=10)
    (document,) = (tmp_path / "cache").glob(f"{NATS}/*/{DOCUMENT}")
    before, wrote = document.read_text(), []

    def add(self: Writer, file: str, rows: torch.Tensor, bits: int) -> None:
        wrote.append(file)
        if len(wrote) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "add", add)
    with pytest.raises(DiskFullError, match="is full"):
        kept(str(base), text, tmp_path / "cache", sequences=10)
    assert document.read_text() == before
    assert len(list(document.parent.parent.iterdir())) == 1


def test_what_cannot_be_prepared_is_refused(base: Path, text: str, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    tokenizer = character_tokenizer()
    known = len(tokenizer)
    tokenizer.add_tokens(["and"])
    tokenizer.save_pretrained(tmp_path / "base")
    masked = save_bert(tmp_path / "masked")
    longer = "expected 8 or more.*pass a longer text"
    for source, given, said in (
        (base, text_of(tmp_path, 7), f"has 7 documents of 33 tokens.*{longer}"),
        (base, text_of(tmp_path, 30, 3), f"has 0 documents of 33.*{longer}"),
        (masked, text, "is a masked language model; expected a causal one"),
        (tmp_path / "base", text, f"makes token {known}, and the model has {known} tokens"),
    ):
        with pytest.raises(SettingError, match=said):
            NatsPlan.of(str(source), given)


def test_a_large_update_has_no_number() -> None:
    for kl in (Between(0.9, 0.7, 1.2), Between(2.0, 1.5, 2.7), Between(1e40, 9e39, 2e40)):
        forgetting = Forgetting("pydoc", 64, kl, {}, {}, [])
        said = "about a nat or more per token"
        assert forgetting.in_words() == f"predicted: {said} forgotten on pydoc (KL); large: measure it"
        assert forgetting.above_in_words(0.1).startswith(f"{said} are predicted to be forgotten on pydoc, ")


@pytest.fixture(scope="module", params=[save_llama, save_gpt2])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gradients")
    loaded: Any = load_model(str(request.param(folder)), "causal")
    for name, module in loaded.named_modules():
        if type(module).__name__ == "LlamaRMSNorm":  # in single precision, whatever its weights are
            loaded.set_submodule(name, torch.nn.RMSNorm(32, module.variance_epsilon))
    return loaded.double().eval()


def layers_of(model: Any) -> dict[str, Any]:
    return {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head"
    }


def ids_of(model: Any, sequences: int, tokens: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(5, model.config.vocab_size, (sequences, tokens + 1), generator=draw)


def test_the_response_is_a_central_difference(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the text's own labels in the place of drawn ones."""
    layers, ids = layers_of(model), ids_of(model, 3, 7)
    monkeypatch.setattr("intruders.measures.prepare_nats.drawn_labels", lambda *given: [ids[:, 1:]])
    assert len(layers) >= 8
    draw = torch.Generator().manual_seed(1)
    updates = {
        name: 1e-2 * torch.randn(*layer.weight.shape, generator=draw, dtype=torch.float64)
        for name, layer in layers.items()
    }
    rows = list(layer_rows(model, layers, ids, 1, torch.Generator()))
    assert [name for name, *_ in rows] == list(layers)
    for names in ([next(iter(layers))], list(layers)):
        ends = []
        for step in (1e-4, -1e-4):
            moved = copy.deepcopy(model)
            for name in names:
                moved.get_submodule(name.removesuffix(".weight")).weight.data += step * updates[name]
            with torch.no_grad():
                scores = moved(input_ids=ids[:, :-1]).logits.log_softmax(-1)
            ends.append(scores.gather(-1, ids[:, 1:, None]).sum((1, 2)))
        total = torch.zeros(3, dtype=torch.float64)
        for name, inputs, gradients in rows[: len(names)]:
            turned = updates[name].mT if type(layers[name]).__name__ == "Conv1D" else updates[name]
            total += torch.einsum("sltm,mn,stn->s", gradients, turned, inputs)
        assert torch.allclose(total, (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-9)


def test_a_layer_that_is_not_reached_or_reached_twice_is_left_out(model: Any) -> None:
    (name, layer), *_ = layers_of(model).items()
    again: Any = layer.register_forward_hook(lambda module, given, output: again.remove() or module(*given))
    given = {name: layer, "absent": torch.nn.Linear(4, 4), **dict([list(layers_of(model).items())[1]])}
    rows = list(layer_rows(model, given, ids_of(model, 1, 5), 1, torch.Generator()))
    assert [row[0] for row in rows] == list(given)[2:]
