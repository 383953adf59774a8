"""A small OpenAI-compatible server over a real tiny model, by transformers and PEFT alone."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM


def served(base: Path, adapter: Path | str | None = None, scale: float = 1.0) -> Any:
    """A model as a server computes with it: PEFT's own merge, of which ``scale`` multiplies lora_alpha."""
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        config: Any = LoraConfig.from_pretrained(str(adapter))
        config.lora_alpha *= scale
        model = PeftModel.from_pretrained(model, adapter, config=config).merge_and_unload()
    return model.eval()


@dataclass
class Server:
    """What it serves, by name, and how it behaves."""

    models: dict[str, Any]
    parents: dict[str, str | None] = field(default_factory=dict)
    lists: bool = True
    echoes: bool = True  # as vLLM and SGLang; else candidates after the prompt, as llama.cpp
    by_text: bool = False  # such candidates without ids
    tokenizer: Any = None
    key: str | None = None
    noise: float = 0.0  # nats, another at every call
    wait: float = 0.0  # seconds
    elsewhere: str | None = None  # the address that it redirects to
    body: bytes | None = None  # answered in the place of what was asked
    asked: list[dict[str, Any]] = field(default_factory=list)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        if body["model"] not in self.models:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if body.get("echo") and not self.echoes:
            return 400, {"error": {"code": 400, "message": "Only no echo is supported"}}
        without = body.get("lora") == [] and "without lora" in self.models  # as llama.cpp
        model, ids = self.models["without lora" if without else body["model"]], body["prompt"]
        with torch.inference_mode():
            rows = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        rows = rows + self.noise * torch.randn(rows.shape, generator=self.generator)
        if body.get("echo"):
            of_prompt = [rows[i, t].item() for i, t in enumerate(ids[1:])]
            values: Sequence[Any] = [None, *of_prompt, rows[-1].max().item()]
            told = {"token_logprobs": values, "tokens": [""] * len(values)}
            return 200, {"choices": [{"text": "", "logprobs": told}]}
        best = rows[-1].topk(body["logprobs"])
        pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        if self.by_text:
            top = {self.tokenizer.decode([token]): value for token, value in pairs}
            return 200, {"choices": [{"logprobs": {"token_logprobs": [pairs[0][1]], "top_logprobs": [top]}}]}
        content = [{"top_logprobs": [{"id": token, "logprob": value} for token, value in pairs]}]
        return 200, {"choices": [{"logprobs": {"content": content}}]}


@contextmanager
def running(server: Server) -> Iterator[str]:
    """Start it on this machine, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = [{"id": name, "parent": server.parents.get(name)} for name in server.models]
            missing = 404, {"error": {"message": "no such path"}}
            self.send(*((200, {"data": listed}) if server.lists else missing))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(server.wait)
            self.send(*server.answer(body))

        def send(self, status: int, document: Any) -> None:
            sent = self.headers.get("Authorization", "")
            if server.key is not None and sent != f"Bearer {server.key}":
                status, document = 401, {"error": {"message": f"Incorrect API key provided: {sent}"}}
            content = server.body or json.dumps(document).encode()
            if server.elsewhere is not None:
                status, content = 302, b""
            self.send_response(200 if server.body else status)
            self.send_header("Location", f"{server.elsewhere}{self.path}")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *said: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    listening.handle_error = lambda *said: None  # type: ignore[method-assign]  # of a client that did not wait
    Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()
