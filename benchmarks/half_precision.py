"""Shows what half precision does to the losses of the language model and its adapter, beside their intervals.

    python -m benchmarks.half_precision [--quick]

The documents are 24 of `pydoc`, the first 192 tokens of each. Differences are paired by document. MiniLM is not among
the models: the package that it installs from has no language-model head, so its loss on text is not defined.
"""

import sys
import time

from intruders.data.corpora import load_corpora
from intruders.measures.corpus_loss import losses_by_corpus
from intruders.measures.intervals import loss_interval, paired_difference
from intruders.measures.measure_settings import LossSettings
from intruders.models.loading_settings import Loading
from intruders.models.tuned_model import open_language_model

# With the number of tokens of each document.
_MODELS = (("smollm2-135m", None, 192), ("smollm2-135m-lora", "smollm2-135m", 192))
_QUICK_TOKENS = 24


def main() -> None:
    is_quick = "--quick" in sys.argv
    corpora = load_corpora("pydoc", max_documents=4 if is_quick else 24)
    for source, base, tokens in _MODELS:
        settings = LossSettings(max_tokens=_QUICK_TOKENS if is_quick else tokens)
        single, seconds = None, 0.0
        for dtype in ("float32", "bfloat16"):
            opened = open_language_model(source, base, Loading(dtype=dtype))
            started = time.perf_counter()
            (losses,) = losses_by_corpus(opened, {"": corpora}, settings)[""]
            seconds = time.perf_counter() - started
            del opened
            loss = loss_interval(losses)
            line = f"{source} {losses.measure} in {dtype}: {loss.estimate:.4f}{loss.ends('.4f')}"
            if single is not None:
                rise = paired_difference(losses, single)
                line += f", minus that in float32 {rise.estimate:+.5f}{rise.ends('+.5f')}"
            print(f"{line} nats per token ({seconds:.1f} s)", flush=True)
            single = losses if single is None else single


if __name__ == "__main__":
    main()
