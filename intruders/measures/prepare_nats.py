"""A base prepared for predictions of nats: inputs and gradients of its layers on a text, kept in the base cache."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ..audits.base_cache import DiskCache
from ..audits.kept_nats import KeptLayer, KeptText, content_of, samples_of, written
from ..audits.prepare_base import Preparation
from ..checkpoints.stored.selection import AS_AUDITED, Selection
from ..data.corpora import load_corpora
from ..engine.nats import packed_width
from ..errors import SettingError, some_of
from ..models.answers import evaluating
from ..models.loading import require_known
from ..models.loading_settings import AS_STORED, Loading
from ..models.token_losses import in_single
from ..models.tuned_model import OpenedModel, open_language_model
from ..system.progress import Progress, silent
from ..system.words import plural
from .output_energy import linear_layers

# Tokens of a sequence. A response is one number a sequence and draw, however long it is, and its rows grow with it.
TOKENS = 32
# Positions whose labels do not count: an update changes what is said after so few words several times as much.
FIRST = 8
# Labels drawn per position. Of one budget of bytes, two give the narrowest interval, as three and four nearly do.
DRAWS = 2
# Four bits of a gradient change a prediction by up to 2 %. Inputs have outliers that need eight.
INPUT_BITS, GRADIENT_BITS = 8, 4
# Sequences: as many as fit in twice the base in 16 bits, and no fewer of a toy. 46 give an interval of about 40 %.
FEWEST, MOST = 32, 256
# An interval counts documents, and of fewer it says nothing.
FEWEST_DOCUMENTS = 8
_CHARACTERS = 8000  # read of each document, from its start
_AT_ONCE = 4  # sequences in one pass


@dataclass(frozen=True)
class NatsPlan:
    """What is going to be kept, before anything is computed."""

    opened: OpenedModel
    preparation: Preparation
    text: str
    layers: dict[str, nn.Module]  # by the name of the matrix
    owner: dict[str, str]  # matrix -> the one whose file has its inputs
    ids: Tensor  # (sequences, tokens + 1)
    documents: list[int]

    @classmethod
    def of(
        cls,
        base: str,
        text: str,
        *,
        selection: Selection = AS_AUDITED,
        sequences: int | None = None,
        seed: int = 0,
        loading: Loading = AS_STORED,
    ) -> "NatsPlan":
        """Open the base, find its layers, and choose the sequences; SettingError where there can be no prediction."""
        corpora = load_corpora(text, max_documents=4 * (sequences or MOST), seed=seed)
        preparation = Preparation.of(base, selection)
        opened = open_language_model(base, loading=loading)
        if opened.is_masked:
            raise SettingError(
                f"'{base}' is a masked language model; expected a causal one, of whose next tokens nats are predicted; "
                "leave out --loss-on"
            )
        whole = [name for name, view in preparation.matrices.items() if name == view.tensor]
        layers = linear_layers(preparation.base, opened.model, whole)
        documents = [document for part in corpora for document in part.documents]
        windows = _windows(opened, documents, seed)
        enough = len({document for document, _ in windows})
        if enough < FEWEST_DOCUMENTS:
            raise SettingError(
                f"'{text}' has {plural(enough, 'document')} of {TOKENS + 1} tokens or more; expected "
                f"{FEWEST_DOCUMENTS} or more, of which an interval can be told; pass a longer text"
            )
        model: Any = opened.model
        require_known(_ids(windows), model.get_input_embeddings(), base)
        first = _ids(windows[:1])
        draft = cls(opened, preparation, text, layers, _owners(opened.model, layers, first), first, [0])
        if not draft.owner:
            raise SettingError(
                f"'{base}' has no linear layer among the selected matrices; nothing can be kept"
            )
        weights = sum(parameter.numel() for parameter in opened.model.parameters())
        fitting = 4 * weights // draft.bytes
        chosen = windows[: sequences or max(FEWEST, min(MOST, fitting))]
        return replace(draft, ids=_ids(chosen), documents=[document for document, _ in chosen])

    @property
    def bytes(self) -> int:
        shapes = {name: self.preparation.matrices[name].shape for name in self.owner}
        of_inputs = sum(packed_width(shapes[name][1], INPUT_BITS) for name in set(self.owner.values()))
        of_gradients = sum(packed_width(shape[0], GRADIENT_BITS) for shape in shapes.values())
        return len(self.documents) * TOKENS * (of_inputs + DRAWS * of_gradients)

    @property
    def left_out(self) -> list[str]:
        """Selected matrices without rows: no linear layer reads them alone, as stacked experts."""
        return [name for name in self.preparation.matrices if name not in self.owner]

    def in_words(self) -> str:
        documents, left = plural(len(set(self.documents)), "document"), ""
        if self.left_out:
            left = f"; not of {some_of(self.left_out)}, which no linear layer reads alone"
        return (
            f"gradients on {self.text}: {plural(len(self.documents), 'sequence')} of {TOKENS} tokens from {documents}, "
            f"{self.bytes / 2**30:,.2f} GiB{left}"
        )

    def keep(self, out: str | os.PathLike[str] | None, *, progress: Progress = silent) -> float:
        """Compute the rows into the files of their layers in a base cache, all or none; return the seconds it took."""
        started, store = time.perf_counter(), DiskCache(out)
        contents = {name: content_of(self.preparation.read(name, torch.device("cpu"))) for name in self.owner}
        number = {name: f"{at:04d}" for at, name in enumerate(self.owner)}
        files = {
            name: KeptLayer(
                name, contents[name], f"{number[owner]}-inputs.bin", f"{number[name]}-gradients.bin"
            )
            for name, owner in self.owner.items()
        }
        draw, read = torch.Generator().manual_seed(0), Counter[str]()
        with written(store, contents) as writer:
            for start in range(0, len(self.ids), _AT_ONCE):
                progress("gradients", start, len(self.ids))
                some = self.ids[start : start + _AT_ONCE]
                rows = layer_rows(self.opened.model, self.layers, some, DRAWS, draw, FIRST)
                for name, inputs, gradients in rows:
                    if name not in files:
                        continue
                    read[name] += len(some)
                    if name == self.owner[name]:
                        writer.add(files[name].inputs, inputs, INPUT_BITS)
                    writer.add(files[name].gradients, gradients, GRADIENT_BITS)
            progress("gradients", len(self.ids), len(self.ids))
            # An expert that was given every token of one sequence is not given those of all.
            whole = [layer for layer in files.values() if read[layer.name] == len(self.ids)]
            samples = dict(samples_of(self.preparation.base, self.preparation.base.names()))
            writer.finish(KeptText(self.text, self.documents, TOKENS, TOKENS - FIRST, DRAWS, whole, samples))
        return time.perf_counter() - started


def _owners(model: nn.Module, layers: dict[str, nn.Module], ids: Tensor) -> dict[str, str]:
    """Return, of every layer that a pass reaches once, the first layer that reads the same inputs."""
    first: dict[tuple[int, torch.Size], str] = {}
    rows = list(layer_rows(model, layers, ids, 1, torch.Generator().manual_seed(0)))
    return {name: first.setdefault((inputs.data_ptr(), inputs.shape), name) for name, inputs, _ in rows}


def _windows(opened: OpenedModel, documents: Sequence[str], seed: int) -> list[tuple[int, list[int]]]:
    """Return windows of tokens with their documents, in an order by seed: one of every document, then a second one."""
    draw = random.Random(f"nats {seed}")
    turns: list[tuple[int, float, int, list[int]]] = []
    width = TOKENS + 1
    for number, text in enumerate(documents):
        ids: list[int] = opened.tokenizer(text[:_CHARACTERS], verbose=False)["input_ids"]
        begin = draw.randrange(max(1, min(width, len(ids) - width + 1)))
        starts = list(range(begin, len(ids) - width + 1, width))
        draw.shuffle(starts)
        turns += [
            (turn, draw.random(), number, ids[start : start + width]) for turn, start in enumerate(starts)
        ]
    return [(number, ids) for _, _, number, ids in sorted(turns)]


def _ids(windows: Sequence[tuple[int, list[int]]]) -> Tensor:
    return torch.tensor([ids for _, ids in windows])


def layer_rows(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    ids: Tensor,
    draws: int,
    random: torch.Generator,
    first: int = 0,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield every layer's inputs x and gradients g of ``log p(labels)`` at its outputs, for a batch of sequences.

    They are (batch, tokens, n) and (batch, labels, tokens, m), beside the name of the layer.
    The labels of a sequence are tokens drawn from the model at every position, ``draws`` times. They count from the
    position ``first`` on. A layer that does not read every token of ``ids`` (batch, tokens + 1) once, as an expert, is
    left out.
    """
    ids = ids.to(next(model.parameters()).device)
    reached: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def kept(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        reached[name].append((inputs[0].detach(), output))

    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    with ExitStack() as handles:
        handles.enter_context(evaluating(model))
        for name, layer in layers.items():
            handles.callback(layer.register_forward_hook(partial(kept, name)).remove)
        handles.callback(embedding.register_forward_hook(lambda *given: given[2].requires_grad_()).remove)
        handles.enter_context(torch.enable_grad())
        scores = log_softmax(in_single(model(input_ids=ids[:, :-1]).logits), -1)
        labels = drawn_labels(scores.detach(), draws, random)
        chosen = [scores.gather(-1, wanted.unsqueeze(-1))[:, first:].sum() for wanted in labels]
    (batch, tokens), gradients = labels[0].shape, []
    used = {
        name: passes[0]
        for name, passes in reached.items()
        if len(passes) == 1 and passes[0][0].numel() == batch * tokens * passes[0][0].shape[-1]
    }
    for number, of_labels in enumerate(chosen, 1):
        of_layers = torch.autograd.grad(
            of_labels,
            [output for _, output in used.values()],
            retain_graph=number < len(chosen),
            materialize_grads=True,
        )
        gradients.append([in_single(of_layer).reshape(batch, tokens, -1) for of_layer in of_layers])
    for at, (name, (inputs, _)) in enumerate(used.items()):
        of_layer = torch.stack([of_label[at] for of_label in gradients], 1)
        yield name, inputs.reshape(batch, tokens, -1), of_layer


def drawn_labels(scores: Tensor, draws: int, random: torch.Generator) -> list[Tensor]:
    """Return labels (batch, tokens), each drawn from the log-probabilities (batch, tokens, vocabulary)."""
    chances = scores.exp().flatten(0, 1).cpu()
    return [
        torch.multinomial(chances, 1, generator=random).reshape(scores.shape[:2]).to(scores.device)
        for _ in range(draws)
    ]
