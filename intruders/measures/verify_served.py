"""Whether a server applies an adapter: its log-probabilities beside those of the base and the adapter here."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checkpoints.merges.verdict import ANOTHER_SCALE, APPLIED, NOT_APPLIED, scale_in_words
from ..checkpoints.pairing.open_sides import on_disk
from ..data.corpora import load_all
from ..errors import CheckpointError, EndpointError, SettingError
from ..models.encoding import ids_at_start
from ..models.endpoint import Endpoint
from ..models.given_model import GivenModel
from ..models.loading import load_tokenizer
from ..models.put_on_base import without_adapters
from ..models.tuned_model import open_language_model
from ..system.callers_process import apart_from_caller
from ..system.progress import Progress, silent
from ..system.result_protocol import JsonResult
from ..system.this_process import ExitStatus

ANOTHER_MODEL, NOT_TOLD = "another model", "cannot be told"
_DOCUMENTS, _TOKENS = 10, 48  # short prompts: the first tokens of some of Python's documentation
_NEAR = 0.05  # a scale this close to 1 or 0 is that
_REST = 0.2  # of the adapter's effect, that no scale of it explains
_STEPS = 5  # of the search for a scale
_APART = 0.25  # between two scales of a slope, which rounding does not hide

Numbers = npt.NDArray[np.float64]  # (tokens,), in nats
Key = tuple[int, int, int]  # a prompt, the position in it that predicts, and the token that is predicted
AtScale = Callable[[float], Numbers]  # log p under the base plus a multiple of the update


@dataclass(frozen=True)
class ServedVerification(JsonResult):
    """What a server's log-probabilities say of an adapter, which :func:`verify_served` returns.

    Distances are root mean squares over tokens, in nats.

    Attributes:
      base: the base, as it was given.
      adapter: the adapter.
      endpoint: the address of the server.
      model: the name on the server that was asked for.
      base_model: the name of its base there; None if the server names none.
      verdict: "applied", "not applied", "applied at another scale", "another model" or "cannot be told".
      words: what it means, or why.
      scale: the scale of the update that explains the server best; NaN if the adapter changes nothing.
      error: its standard error.
      effect: the distance between the base with and without the adapter, here.
      to_base: the distance between the server and the base here.
      to_tuned: the distance between the server and the base with the adapter here.
      rest: the distance that is left at the best scale.
      noise: the distance between two equal calls of the server.
      tokens: how many tokens were compared.
      seconds: the time it took.
    """

    what = "the verification of a served adapter"
    written_by = "intruders verify --endpoint --json"

    base: str
    adapter: str
    endpoint: str
    model: str
    base_model: str | None
    verdict: str
    words: str
    scale: float
    error: float
    effect: float
    to_base: float
    to_tuned: float
    rest: float
    noise: float
    tokens: int
    seconds: float

    def exit_status(self) -> int:
        """0 where the adapter is applied, 1 where it is not, 3 where that could not be told."""
        known = {APPLIED: ExitStatus.DONE, NOT_TOLD: ExitStatus.NOT_TOLD}
        return known.get(self.verdict, ExitStatus.FAILED).value

    def to_document(self) -> dict[str, Any]:
        return {**super().to_document(), "exit_status": self.exit_status()}


@apart_from_caller()
def verify_served(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    *,
    endpoint: str,
    model: str,
    progress: Progress = silent,
) -> ServedVerification:
    """Check that an OpenAI-compatible server applies an adapter when it is asked for it by name.

    A few short prompts are read by the server, as ``model`` and as its base, and by base and adapter here.

    Args:
      base: the model that the adapter was trained on, a folder, a Hub id or a demo model.
      adapter: a PEFT adapter.
      endpoint: the address of the server; a key is taken from the environment, ``OPENAI_API_KEY``.
      model: the name of the adapter on the server.
      progress: called with (what is being done, prompts done, in all).

    Returns:
      The verdict, and the distances that it follows from.

    Raises:
      EndpointError: the server cannot be reached, refuses, or gives no log-probabilities.
      SettingError: the address cannot be used, or the base is a masked model.
      CheckpointError: base or adapter cannot be used.

    Examples:
      ``intruders.verify_served("base", "tuned", endpoint="http://localhost:8000", model="tuned").verdict``
    """
    started = time.perf_counter()
    base, adapter = on_disk(base, "base"), on_disk(adapter, "adapter")
    given = GivenModel(adapter, base)
    if given.adapter is None:
        raise CheckpointError(
            f"'{adapter}' is a full checkpoint; expected the adapter that is served; pass BASE ADAPTER in this order"
        )
    server = Endpoint.at(endpoint)
    # The server's name of the model's base: the one that it tells, or the only other one.
    bases = [name for name, parent in server.parents.items() if parent is None and name != model]
    of_sglang = model.rpartition(":")[0]  # its name of an adapter is BASE:ADAPTER
    only = bases[0] if len(bases) == 1 else None
    base_model = server.parents.get(model) or (of_sglang if of_sglang in bases else only)
    tokenizer = load_tokenizer(given.location)
    texts = load_all(("pydoc",), max_documents=_DOCUMENTS, seed=0)["pydoc"][0].documents
    prompts = [ids_at_start(tokenizer, text, _TOKENS) for text in texts]
    # A server without a name for the base may be llama.cpp's, which leaves its adapters out for a list of none.
    calls = [(model, dict[str, Any]())] * 2 + [(base_model or model, {} if base_model else {"lora": []})] * 2
    answers: list[dict[Key, float]] = []
    for done, (name, more) in enumerate(calls):
        progress("ask the server", done, len(calls))
        told = [server.log_probabilities(name, ids, more) for ids in prompts]
        answers.append({(n, *key): value for n, row in enumerate(told) for key, value in row.items()})
    keys = sorted(set(answers[0]).intersection(*answers))
    served, again, of_base, base_again = (np.array([answer[key] for key in keys]) for answer in answers)
    if not keys:
        raise EndpointError(
            f"'{server.url}' gave no token's log-probability in every answer; expected those of the prompt, or of the "
            "same likely tokens; use a server that gives them, such as vLLM's"
        )
    progress("open the base with the adapter", 0, 1)
    here, scaling = _here(adapter, base, prompts, keys)
    noise = max(_distance(served, again), _distance(of_base, base_again))
    is_apart = base_model is not None or _distance(served, of_base) > 2 * noise
    judged = _judge(here, served, of_base if is_apart else None, noise, scaling)
    counted: dict[str, Any] = {"noise": noise, "tokens": len(keys), "seconds": time.perf_counter() - started}
    return ServedVerification(base, adapter, server.url, model, base_model, **judged, **counted)


def _here(
    adapter: str, base: str, prompts: Sequence[Sequence[int]], keys: Sequence[Key]
) -> tuple[AtScale, float | None]:
    """Return log p by scale, on the straight line where PEFT cannot scale, and the adapter's own scale if any."""
    import torch
    from peft.helpers import rescale_adapter_scale
    from peft.tuners.lora import LoraLayer

    opened = open_language_model(adapter, base)
    if opened.is_masked:
        raise SettingError(
            f"'{base}' is a masked language model; expected a causal one; pass what the server serves"
        )
    model: Any = opened.model.eval()

    @torch.inference_mode()
    def read() -> Numbers:
        values: list[float] = []
        for number, ids in enumerate(prompts):
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
            rows = logits.float().log_softmax(-1)
            values += [rows[position, token].item() for prompt, position, token in keys if prompt == number]
        return np.array(values)

    after = read()
    with without_adapters(model):
        before = read()
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]

    def at(scale: float) -> Numbers:
        if scale in (0, 1) or not layers:
            return before + scale * (after - before)
        with rescale_adapter_scale(model, scale):
            return read()

    scalings = {scaling for layer in layers for scaling in layer.scaling.values()}
    return at, float(scalings.pop()) if len(scalings) == 1 else None


def _judge(
    here: AtScale, served: Numbers, of_base: Numbers | None, noise: float, scaling: float | None
) -> dict[str, Any]:
    """Return the verdict and its numbers, as :class:`ServedVerification` has them.

    Where the server's base is the one here, what they differ by, as by another type or quantized weights, is taken off.
    """
    before, after = here(0), here(1)
    effect, spread = _distance(before, after), float(np.std(before))
    gap, said = None, ""
    if of_base is not None:
        gap, to_tuned = _distance(of_base, before), _distance(of_base, after)
        if min(gap, to_tuned) > spread / 2:
            gap, said = None, f"; what the server calls its base is {gap:.2g} nats from the base here"
        elif gap > to_tuned:
            gap, said = None, "; what the server calls its base has the adapter too"
    target = served if of_base is None or gap is None else served - of_base + before
    scale, error, rest = _fit(here, target, scaling)

    def is_near(known: float) -> bool:
        return abs(scale - known) <= max(_NEAR * max(1, abs(known)), 5 * error)

    if rest > max(2 * noise, 2 * (gap or 0), _REST * effect * max(1, abs(scale))):
        words = "no scale of the adapter explains the server: another model or adapter, or a part of this one"
        verdict = ANOTHER_MODEL
        if gap is None and rest < spread / 2:
            verdict, words = NOT_TOLD, f"{words}, or quantized weights; serve the base under a name too"
    elif effect <= 2 * noise or (is_near(0) and is_near(1)):
        verdict, words = NOT_TOLD, "the adapter changes these prompts too little"
    elif is_near(1):
        verdict, words = APPLIED, "the server answers as the base with the adapter"
    elif is_near(0):
        verdict, words = NOT_APPLIED, "the server answers as the base without the adapter"
    else:
        verdict, words = ANOTHER_SCALE, scale_in_words(is_near, scaling) or "the server multiplies the update"
    return {
        "verdict": verdict, "words": words + said, "scale": scale, "error": error, "effect": effect,
        "to_base": _distance(served, before), "to_tuned": _distance(served, after), "rest": rest,
    }  # fmt: skip


def _fit(here: AtScale, target: Numbers, scaling: float | None) -> tuple[float, float, float]:
    """Return the scale whose values are nearest to the target, its error, and the distance that is left.

    From the best of the usual mistakes it takes Gauss-Newton's steps.
    """
    tried: dict[float, float] = {}

    def at(scale: float) -> Numbers:
        tried[scale] = _distance(target, values := here(scale))
        return values

    effect = _distance(at(1.0), at(0.0))
    if min(tried.values()) > _REST * effect / 2:
        for mistake in {-1.0, 0.5, 2.0, 4.0, *({scaling, 1 / scaling} if scaling else ())}:
            at(mistake)
    scale, width = min(tried, key=tried.__getitem__), 0.0
    for _ in range(_STEPS):
        values = at(scale)
        slope = (at(scale + _APART) - values) / _APART
        width = float(np.sqrt(np.mean(slope**2)))
        if width == 0:
            break
        step = float(slope @ (target - values)) / (width**2 * len(target))
        if abs(step) < 1e-3:
            break
        scale += float(np.clip(step, -0.5, 0.5))
    best = min(tried, key=tried.__getitem__)
    error = tried[best] / (width * math.sqrt(len(target))) if width else math.inf
    return best, error, tried[best]


def _distance(values: Numbers, others: Numbers) -> float:
    return float(np.sqrt(np.mean((values - others) ** 2)))
