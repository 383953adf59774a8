"""Models and tokenizers through transformers' auto classes, the tokenizer of an adapter among them."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

from torch import Tensor, nn

from ..data.task import Kind
from ..errors import CheckpointError, MissingDependencyError, SettingError, first_line, some_of
from ..system.files import as_given
from .encoding import pad_token_id
from .half_products import speed_up_half
from .loading_settings import AS_STORED, Loading
from .memory_plan import require_memory
from .stored_dtype import dtype_to_load
from .task_fit import model_config


def load_model(
    location: str,
    kind: Kind | Literal["masked"],
    labels: Sequence[str] | None = None,
    loading: Loading = AS_STORED,
) -> nn.Module:
    """Load a language model, or a sequence classifier with one output per label (a new head starts at random).

    Raises CheckpointError when transformers cannot load ``location`` as that, when it lacks weights of a language
    model, or when it is a classifier with another number of classes.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    if model_config(location).model_type == "xlnet":
        raise CheckpointError(
            f"{as_given(location)!r} is an XLNet, which sees the tokens that it would predict and reads a class from "
            "the padding behind a text; expected another kind of model; pass one such as a Llama or a RoBERTa"
        )
    what = f"a {kind} model by transformers"
    if kind == "causal":
        model, missing = _loaded(AutoModelForCausalLM, location, what, loading)
        # A tied weight has its value from another one.
        if lost := sorted(missing & {name for name, _ in model.named_parameters(remove_duplicate=False)}):
            raise CheckpointError(
                f"{as_given(location)!r} lacks weights of a causal language model: {some_of(lost)}; they would start "
                "at random, so pass a checkpoint that has them"
            )
    elif kind == "masked":
        model, missing = _loaded(AutoModelForMaskedLM, location, "a masked language model", loading)
        if missing:
            raise CheckpointError(
                f"{as_given(location)!r} has no masked-language-model head ({min(missing)} is missing), "
                "so its loss on text is not defined; pass as base a masked language model with its head"
            )
    else:
        names = list(labels or [])
        config = model_config(location)
        is_classifier = any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ())
        if is_classifier and config.num_labels != len(names):  # whose head would not be loaded
            raise CheckpointError(
                f"{as_given(location)!r} is a classifier whose number of classes is {config.num_labels}, and the task "
                f"has {len(names)}; pass the base that it was trained from"
            )
        numbers = {name: index for index, name in enumerate(names)}
        of_head = {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": numbers}
        model, missing = _loaded(AutoModelForSequenceClassification, location, what, loading, **of_head)
        model.untrained = tuple(sorted(missing))
        fresh = sorted({name.rpartition(".")[0] for name in missing})
        model.newly_initialized = tuple(name for name in fresh if name.partition(".")[0] not in _HEADS)
        # A decoder's classifier reads the last token that is not this one, and looks at no mask.
        model.config.get_text_config().pad_token_id = pad_token_id(load_tokenizer(location))
    return _placed(model, loading)


def _loaded(kind: Any, location: str, what: str, loading: Loading, **of_head: Any) -> tuple[Any, set[str]]:
    # A model of an auto class, and the names of what it has drawn at random.
    require_memory(location, loading)
    arguments: dict[str, Any] = {"dtype": dtype_to_load(location, loading)} | of_head
    if loading.load_in is not None:
        if find_spec("bitsandbytes") is None:
            raise MissingDependencyError(
                f"--load-in {loading.load_in} needs the package 'bitsandbytes', which is not installed; run pip "
                "install bitsandbytes, or leave --load-in out"
            )
        from transformers import BitsAndBytesConfig

        in_4_bits = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": arguments["dtype"]}
        way = {"load_in_8bit": True} if loading.load_in == "8bit" else {"load_in_4bit": True, **in_4_bits}
        arguments["quantization_config"] = BitsAndBytesConfig(**way)
        arguments["device_map"] = {"": str(loading.torch_device())}
    if loading.device_map is not None:
        arguments["device_map"] = loading.device_map
    try:
        model, info = kind.from_pretrained(location, **arguments, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{as_given(location)!r} cannot be loaded as {what}: {first_line(error)}"
        ) from error
    return model, set(info["missing_keys"])


def _placed(model: Any, loading: Loading) -> nn.Module:
    # bitsandbytes repacks 4-bit layers for inference on some processors at the first use. With 0.50 and PEFT 0.21, an
    # adapter put on a repacked model computes other numbers (the loss of one was 19.6 nats and not 2.6), and products
    # with a repacked layer have no gradients.
    for module in model.modules() if loading.load_in is not None else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if loading.load_in is None and loading.device_map is None:
        model = model.to(loading.torch_device())
    loaded: nn.Module = model
    speed_up_half(loaded)
    return loaded


# Tokens of a row, up to which attention by products is quicker (``python -m benchmarks.attention_of_short_rows``).
_SHORT = 128


def attend_by_products_if_short(model: Any, longest: int, *, in_bf16: bool) -> None:
    """Let a model compute attention by products and a softmax (transformers' ``eager``) where that is quicker.

    The fused kernel keeps no scores, and its gradient computes them again in small tiles. In bf16 on a processor that
    takes longer than the products where rows are short. ``longest`` is the number of tokens of the longest row.
    """
    is_fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
    if is_fused and in_bf16 and longest <= _SHORT and model.device.type == "cpu":
        with warnings.catch_warnings():
            # transformers 5.24 reads a property that it deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            model.set_attn_implementation("eager")


_HEADS = ("classifier", "score")


def heads(model: nn.Module) -> dict[str, nn.Module]:
    """Return modules that a base lacks, such as a head or a pooler, by name: every method trains and saves them."""
    names = (*_HEADS, *getattr(model, "newly_initialized", ()))
    modules = dict(model.named_modules())
    return {name: modules[name] for name in names if name in modules}


def load_tokenizer(location: str) -> Any:
    """Load the tokenizer of ``location``. CheckpointError if it has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except Exception as error:  # without a file to read, each class of transformers raises something else
        # What it says there is a list of guesses over several lines.
        guesses = str(error).startswith("Couldn't instantiate the backend tokenizer")
        raise _no_tokenizer(location, "" if guesses else f" ({first_line(error)})") from error
    # Some classes make one of nothing, beside the special tokens and the mark of a space: it reads every text as empty.
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if len(set(tokenizer.get_vocab()) - special - set(tokenizer.all_special_tokens)) < 2:
        raise _no_tokenizer(location, "")
    return tokenizer


def _no_tokenizer(location: str, said: str) -> CheckpointError:
    return CheckpointError(
        f"{as_given(location)!r} has no tokenizer that transformers can load{said}; expected tokenizer.json or such "
        "beside its weights; copy the tokenizer that it was trained with into that folder (its save_pretrained)"
    )


def refuse_unknown_tokens(model: Any, tokenizer: Any, location: str) -> None:
    """Have a model refuse a token that its embedding has no row for, where its tokenizer can make such."""
    embedding = model.get_input_embeddings()
    if max(tokenizer.get_vocab().values(), default=0) >= len(embedding.weight):
        embedding.register_forward_pre_hook(lambda module, given: require_known(given[0], module, location))


def require_known(ids: Tensor, embedding: Any, location: str) -> None:
    """Raise SettingError for a token that the embedding of the model at ``location`` has no row for."""
    highest, known = int(ids.max()), len(embedding.weight)
    if highest >= known:
        raise SettingError(
            f"the tokenizer of {as_given(location)!r} makes token {highest}, and the model has {known} tokens; "
            "expected the tokenizer that it was trained with; copy that into its folder"
        )
