"""Adapters behind a small server over real tiny models, whose own merges are PEFT's."""

from pathlib import Path
from typing import Any

import pytest

import intruders
from intruders.models import endpoint
from tests.experiments.healed_models import TARGETS, adapter_of
from tests.measures.small_server import Server, running, served
from tests.tiny import save_gpt2, save_llama, with_rounded

PARENTS: dict[str, str | None] = {"tuned": "base"}


@pytest.fixture(scope="module")
def adapter(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return adapter_of(llama, tmp_path_factory.mktemp("models") / "tuned", TARGETS)


def told(base: Path, adapter: str, server: Server, model: str = "tuned") -> Any:
    with running(server) as url:
        return intruders.verify_served(base, adapter, endpoint=url, model=model)


@pytest.mark.slow
def test_ten_tries_of_each(llama: Path, tmp_path: Path) -> None:
    """Applied, not applied and scaled by a factor of its own, by a server whose equal calls differ."""
    without = served(llama)
    for seed in range(10):
        tuned = adapter_of(llama, tmp_path / f"{seed}", TARGETS, seed=seed, size=0.3 + 0.1 * seed)
        factor = (-1.0, 0.25, 0.4, 0.5, 0.7, 1.3, 1.6, 2.0, 2.5, 3.0)[seed]
        for scale, verdict in ((1.0, "applied"), (0.0, "not applied"), (factor, "applied at another scale")):
            models = {"base": without, "tuned": served(llama, tuned, scale)}
            result = told(llama, tuned, Server(models, PARENTS, noise=0.002))
            assert (result.verdict, result.exit_status()) == (verdict, int(scale != 1))
            assert result.scale == pytest.approx(scale, abs=5 * result.error + 0.002)
            assert 0 < result.noise < 0.004


def test_what_the_servers_names_mean(llama: Path, adapter: str, tmp_path: Path) -> None:
    """It names the base, serves it under both names, the adapter under both, has no name for it, or SGLang's names."""
    without, tuned = served(llama), served(llama, adapter)
    honest = told(llama, adapter, Server({"base": without, "tuned": tuned}, PARENTS))
    assert (honest.verdict, honest.base_model, honest.tokens) == ("applied", "base", 470)
    assert honest.to_base == pytest.approx(honest.effect, rel=1e-4)
    lying = told(llama, adapter, Server({"base": without, "tuned": without}, PARENTS))
    assert (lying.verdict, lying.noise) == ("not applied", 0)
    both = told(llama, adapter, Server({"base": tuned, "tuned": tuned}, PARENTS))
    assert both.verdict == "applied"
    assert both.words.endswith("what the server calls its base has the adapter too")
    alone = told(llama, adapter, Server({"tuned": tuned}, lists=False))
    assert (alone.verdict, alone.base_model) == ("applied", None)
    of_sglang = Server({"a/b": without, "c": without, "a/b:tuned": tuned})
    assert told(llama, adapter, of_sglang, "a/b:tuned").base_model == "a/b"


def test_another_adapter_another_model_and_one_in_bfloat16(llama: Path, adapter: str, tmp_path: Path) -> None:
    other = served(llama, adapter_of(llama, tmp_path / "other", TARGETS, seed=7))
    server = Server({"base": served(llama), "tuned": other}, PARENTS)
    assert told(llama, adapter, server).verdict == "another model"
    unlike = served(save_llama(tmp_path / "unlike", width=64))
    away = told(llama, adapter, Server({"base": unlike, "tuned": unlike}, PARENTS))
    assert away.verdict == "another model"
    assert "nats from the base here" in away.words
    half = Server({"base": served(llama).bfloat16(), "tuned": served(llama, adapter).bfloat16()}, PARENTS)
    assert told(llama, adapter, half).verdict == "applied"


def test_a_server_that_gives_candidates_after_the_prompt_alone(llama: Path, adapter: str) -> None:
    """As llama.cpp's, which has one name and leaves the adapters out for an empty list of them."""
    without, tuned = served(llama), served(llama, adapter)
    models = {"tuned": tuned, "without lora": without}
    server = Server(models, lists=False, echoes=False)
    result = told(llama, adapter, server)
    assert result.verdict == "applied"
    assert 20 <= result.tokens <= 200
    assert [body.get("lora") for body in server.asked if not body.get("echo")] == [None] * 20 + [[]] * 20
    models["tuned"] = served(llama, adapter, 2.0)
    assert told(llama, adapter, Server(models, lists=False, echoes=False)).scale == pytest.approx(2, abs=1e-3)


def test_an_adapter_that_changes_too_little_for_the_servers_noise(llama: Path, tmp_path: Path) -> None:
    faint = adapter_of(llama, tmp_path / "faint", TARGETS, size=1e-4)
    models = {"base": served(llama), "tuned": served(llama, faint)}
    result = told(llama, faint, Server(models, PARENTS, noise=0.01))
    assert (result.verdict, result.exit_status()) == ("cannot be told", 3)


def test_a_base_that_is_served_quantized(llama: Path, adapter: str, tmp_path: Path) -> None:
    rounded = with_rounded(llama, tmp_path / "rounded")
    models = {"base": served(rounded), "tuned": served(rounded, adapter)}
    assert told(llama, adapter, Server(models, PARENTS)).verdict == "applied"
    assert told(llama, adapter, Server(models | {"tuned": models["base"]}, PARENTS)).verdict == "not applied"


def test_other_methods_than_lora_and_other_architectures(tmp_path: Path) -> None:
    gpt2 = save_gpt2(tmp_path / "gpt2")
    tuned = adapter_of(gpt2, tmp_path / "tuned", ("c_attn", "c_fc"), fan_in_fan_out=True)
    models = {"base": served(gpt2), "tuned": served(gpt2, tuned)}
    assert told(gpt2, tuned, Server(models, PARENTS)).verdict == "applied"


def test_a_key_is_sent_and_nowhere_else(
    llama: Path, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(endpoint.KEY, " sk-secret-of-mine\n")
    models = {"base": served(llama), "tuned": served(llama, adapter)}
    result = told(llama, adapter, Server(models, PARENTS, key="sk-secret-of-mine"))
    assert result.verdict == "applied"
    result.save(tmp_path / "served.json")
    assert "secret" not in (tmp_path / "served.json").read_text() + repr(result)
    assert intruders.ServedVerification.load(tmp_path / "served.json") == result
