"""Log-probabilities from an OpenAI-compatible server, such as vLLM's, SGLang's and llama.cpp's."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..errors import EndpointError, SettingError, first_line, some_of

KEY = "OPENAI_API_KEY"
TIMEOUT = 120.0  # seconds without an answer
_LARGEST = 1 << 26  # bytes of an answer
_CANDIDATES = 20

# log p in nats, by the position that predicts and the predicted token.
Probabilities = dict[tuple[int, int], float]


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *asked: Any, **named: Any) -> None:
        return None  # it would carry the key to another place


@dataclass
class Endpoint:
    """A server. Its key is sent in a header, and appears in no text."""

    url: str
    key: str = field(repr=False)
    # Its models, with the base that it tells of each.
    parents: dict[str, str | None] = field(default_factory=dict)
    _echoes: bool = True

    @classmethod
    def at(cls, url: str) -> "Endpoint":
        """Reach the server at an address, with or without /v1, by the key in the environment.

        SettingError for what cannot be an address, has a key in it, or a key that cannot be sent.
        """
        key = os.environ.get(KEY, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise SettingError(f"{KEY} has characters that no key has; expected plain ASCII; set it again")
        shown = "with a user or a query" if any(mark in url for mark in "@?#") else f"'{url}'"
        with suppress(ValueError):
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "'" in shown:
                server = cls(url.rstrip("/").removesuffix("/v1") + "/v1", key)
                try:
                    listed: Any = server._asked("/models").get("data")
                except EndpointError as error:
                    if error.status not in (404, 405, 501):  # of a server without a list
                        raise
                    listed = None
                for entry in listed if isinstance(listed, list) else []:
                    if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                        server.parents[entry["id"]] = entry.get("parent")
                return server
        raise SettingError(
            f"endpoint is an address {shown}; expected one such as http://localhost:8000; pass it alone, and set "
            f"{KEY} if it needs a key"
        )

    def log_probabilities(self, model: str, ids: Sequence[int], more: Mapping[str, Any]) -> Probabilities:
        """Return log p of a prompt's tokens; where the server does not give it, of likely tokens after the prompt."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, **more}
        if self._echoes:
            try:
                values = _of_prompt(self._asked("/completions", {**body, "echo": True, "logprobs": 1}), ids)
            except EndpointError as error:
                if error.status not in (400, 422, 500, 501):  # llama.cpp refuses to echo with 400 or 500
                    raise
                values = {}
            if values:
                return values
        # llama.cpp has a name of its own for the number of candidates.
        body |= {"logprobs": _CANDIDATES, "n_probs": _CANDIDATES}
        values = _of_next(self._asked("/completions", body), len(ids) - 1)
        self._echoes = False
        if not values:
            raise EndpointError(
                f"'{self.url}' gives no log-probabilities of model '{model}'; expected them in the answer to "
                "/completions with echo and logprobs; use a server that gives them, such as vLLM's"
            )
        return values

    def _asked(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data, status = None if body is None else json.dumps(body).encode(), None
        do = "start it, or pass its address with --endpoint"
        try:
            request = Request(self.url + path, data, headers)
            with build_opener(_NoRedirects).open(request, timeout=TIMEOUT) as response:
                answer = json.loads(response.read(_LARGEST))
            if isinstance(answer, dict):
                return answer
            said = "answered with JSON of another form"
        except HTTPError as error:
            status, said = error.code, f"answered with status {error.code}"
            if status in (401, 403):  # whose text may repeat a part of the key
                do = f"set {KEY} to a key that it accepts"
            else:
                with suppress(OSError, HTTPException):
                    text = error.read(_LARGEST).decode(errors="replace")
                    text = text.replace(self.key, "...") if self.key else text
                    said += f" ({first_line(Exception(text))})" if text.strip() else ""
            if status == 404 and self.parents:
                do = f"pass one of its models with --model: {some_of([*self.parents])}"
        except (OSError, HTTPException) as error:
            said = f"gave no answer ({first_line(getattr(error, 'reason', error))})"
        except ValueError:
            said = "answered with something that is not JSON"
        where = f"'{self.url}{path}'"
        raise EndpointError(
            f"{where} {said}; expected an OpenAI-compatible server that answers; {do}", status
        )


def _of_prompt(answer: Mapping[str, Any], ids: Sequence[int]) -> Probabilities:
    # Its first token has none; nothing where the prompt is not echoed.
    with suppress(LookupError, TypeError):
        values = answer["choices"][0]["logprobs"]["token_logprobs"]
        return _numbers(((position, token), values[position + 1]) for position, token in enumerate(ids[1:]))
    return {}


def _of_next(answer: Mapping[str, Any], last: int) -> Probabilities:
    # The candidates for the token after the prompt, as llama.cpp writes them.
    with suppress(LookupError, TypeError):
        entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return _numbers(((last, entry["id"]), entry["logprob"]) for entry in entries)
    return {}


def _numbers(pairs: Iterable[tuple[tuple[int, int], Any]]) -> Probabilities:
    # vLLM writes -9999 for minus infinity.
    return {key: float(value) for key, value in pairs if isinstance(value, int | float) and -1000 < value < 1}
