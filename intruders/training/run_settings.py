"""The methods of fine-tuning, each with what sets it apart; and what can be set of a training and meanwhile."""

from dataclasses import dataclass
from functools import partial

from ..models.loading_settings import DTYPES
from ..settings import Settings, setting
from ..settings.numbers import A_SEED, SEEDS


@dataclass(frozen=True)
class Method:
    """What a method of fine-tuning is, and what the settings of a run need to know of it."""

    meaning: str
    # The update is alpha/r B A itself: it can be measured and scaled by its factors.
    is_plain_lora: bool = False
    freezes_a: bool = False
    # Its start takes something out of the base's weights, to be restored on saving.
    starts_from_changed_base: bool = False
    # It reads the base's own weights while it trains, which quantized ones are not.
    reads_base_weights: bool = False
    # A plugin of that name does what PEFT does not.
    is_plugin: bool = False


METHODS = {
    "full": Method("all linear weights; embeddings, norms and biases frozen unless train_all"),
    "lora": Method("W0 + alpha/r B A, A random, B zero (Hu et al. 2021)", is_plain_lora=True),
    "rslora": Method("LoRA scaled by alpha/sqrt(r) (Kalajdzievski 2023)", is_plain_lora=True),
    "dora": Method("LoRA on the direction, a trained magnitude per column (Liu et al. 2024)"),
    "pissa": Method(
        "LoRA that starts from the leading singular triplets of W0 (Meng et al. 2024)",
        starts_from_changed_base=True,
    ),
    "olora": Method(
        "LoRA that starts from a QR decomposition of W0 (Buyukakyuz 2024)", starts_from_changed_base=True
    ),
    "lora-fa": Method(
        "A frozen, gradient of B corrected for it (Zhang et al. 2023)", is_plain_lora=True, freezes_a=True
    ),
    "b-only": Method("A frozen, B trained as in LoRA", is_plain_lora=True, freezes_a=True),
    "lora+": Method("LoRA with a higher rate for B (Hayou et al. 2024)", is_plain_lora=True),
    "oplora": Method(
        "LoRA whose update leaves the leading singular triplets of W0 where they are (arXiv 2510.13003)",
        is_plain_lora=True,
        reads_base_weights=True,
        is_plugin=True,
    ),
    "milora": Method(
        "LoRA that starts from the smallest singular triplets of W0 (Wang et al. 2024)",
        starts_from_changed_base=True,
        is_plugin=True,
    ),
}

PLAIN_LORA = tuple(name for name, method in METHODS.items() if method.is_plain_lora)
FROZEN_A = tuple(name for name, method in METHODS.items() if method.freezes_a)

# Settings by the heading of the help, whether ``--help-all`` alone shows them, and whether adapters alone use them.
_of_run = partial(setting, panel="Run")
_of_method = partial(setting, panel="Method")
_of_method_in_detail = partial(setting, panel="Method", advanced=True)
_of_adapter = partial(_of_method, adapter_only=True)
_of_adapter_in_detail = partial(_of_method_in_detail, adapter_only=True)
_against_forgetting = partial(setting, panel="Less forgetting", new_in="0.2")
_of_budget = partial(_against_forgetting, adapter_only=True)
_of_training = partial(setting, panel="Training")
_of_training_in_detail = partial(setting, panel="Training", advanced=True)
_of_stopping = partial(setting, panel="Accuracy and stopping")
_of_stopping_in_detail = partial(setting, panel="Accuracy and stopping", advanced=True, changes_weights=False)
_of_output = partial(setting, panel="Output", advanced=True, changes_weights=False)


@dataclass(frozen=True)
class Training(Settings):
    """What is trained, and how. Names follow TrainingArguments and LoraConfig, or shorten them."""

    base: str = _of_run(
        help="Model to fine-tune: a folder, a Hub id, smollm2-135m or minilm-l6.",
        long_names=["model_name_or_path"],
        metavar="MODEL",
    )
    task: str = _of_run(
        help="Task to train on: word-problems, pydoc-topics, a Hub task such as sst2, or a data file.",
        metavar="TASK",
    )
    out: str = _of_run(
        help="Folder of the run; run the same command again to resume.",
        long_names=["output_dir"],
        is_path=True,
        changes_weights=False,
        metavar="FOLDER",
    )
    method: str = _of_method(
        "lora",
        f"Method: {', '.join([*METHODS][:-1])} or {[*METHODS][-1]}.",
        choices=tuple(METHODS),
        metavar="METHOD",
    )

    rank: int = _of_adapter(8, "Rank of the adapter.", least=1, long_names=["r"])
    alpha: float | str = _of_adapter(
        "2r",
        "LoRA alpha: a number, or a multiple of the rank such as 2r.",
        expected="a positive number, or a multiple of the rank such as '2r'",
        long_names=["lora_alpha"],
        metavar="ALPHA",
    )
    dropout: float = _of_adapter_in_detail(
        0.0,
        "Dropout probability of the adapter, 0 or more and below 1.",
        least=0,
        below=1,
        long_names=["lora_dropout"],
        in_id="dropout{:g}",
        metavar="P",
    )
    target_modules: str | tuple[str, ...] = _of_adapter_in_detail(
        "all-linear",
        "Modules with an adapter: all-linear, or comma-separated names.",
        item="module",
        by_commas=True,
        metavar="MODULES",
    )
    init_a: str = _of_adapter_in_detail(
        "random",
        f"Frozen A of {' and '.join(FROZEN_A)}: random or orthonormal.",
        choices=("random", "orthonormal"),
        in_id="{}",
        metavar="START",
    )
    loraplus_lr_ratio: float = _of_adapter_in_detail(
        16.0, "lora+: learning rate of B divided by that of A, 1 or more.", least=1, metavar="RATIO"
    )
    oplora_k: int = _of_adapter_in_detail(
        16,
        "oplora: number of leading singular triplets of each base matrix that stay where they are.",
        least=1,
        new_in="0.2",
    )
    train_all: bool = _of_method_in_detail(
        False, "full: train embeddings, norms and biases too.", in_id="all-weights"
    )

    kl_to_base: float = _against_forgetting(
        0.0,
        "Weight of KL(base || tuned) in the loss, on the tokens of prompts and answers. Runs the base on every batch; "
        "full, pissa, olora and milora also keep a frozen copy of it in memory. Not for classification.",
        least=0,
        in_id="kl{:g}",
        metavar="BETA",
    )
    budget: float | None = _of_budget(
        None,
        "Keep the largest singular value of each update below KAPPA times its matrix's spiked threshold, by scaling "
        "B back. full ignores it; dora, pissa, olora and milora refuse it.",
        above=0,
        in_id="budget{:g}",
        metavar="KAPPA",
        unless_given="default: no limit",
    )
    budget_steps: int = _of_budget(1, "Number of steps after which --budget scales B back.", least=1)
    budget_pilot: str | None = _of_budget(
        None,
        "Adapter of a pilot run: lower the alpha of each matrix in which it exceeds the budget, instead of scaling B "
        "back. KAPPA is that of --budget, or 1.",
        in_id="pilot",
        metavar="ADAPTER",
    )
    replay: str | None = _against_forgetting(
        None,
        "Make a share of every batch text of a corpus, such as pydoc@0.25 (a quarter of its rows), or of what the base "
        "itself writes: self@0.25. Not for classification.",
        expected="CORPUS@SHARE with a share above 0 and below 1, such as 'pydoc@0.25'",
        in_id="replay",
        metavar="CORPUS@SHARE",
    )

    start_from: str | None = setting(
        None, "An adapter of this base and rank from which training continues.", adapter_only=True
    )

    lr: float = _of_training(
        1e-4, "Learning rate at its peak.", above=0, long_names=["learning_rate"], metavar="LR"
    )
    steps: int | None = _of_training(
        None,
        "Number of optimizer steps.",
        least=1,
        long_names=["max_steps"],
        unless_given="required unless --epochs is given",
    )
    epochs: float | None = _of_training(
        None,
        "Number of passes over the training rows.",
        above=0,
        long_names=["num_train_epochs"],
        unless_given="required unless --steps is given",
    )
    batch_size: int = _of_training(
        8, "Number of rows per batch and device.", least=1, long_names=["per_device_train_batch_size"]
    )
    gradient_accumulation_steps: int = _of_training_in_detail(
        1, "Number of batches per optimizer step.", least=1
    )
    weight_decay: float = _of_training_in_detail(
        0.0, "Weight decay of AdamW, 0 or more.", least=0, in_id="decay{:g}", metavar="W"
    )
    lr_scheduler_type: str = _of_training_in_detail(
        "linear",
        "Schedule of the learning rate, by the Trainer's name: linear, cosine, constant and others.",
        metavar="NAME",
    )
    warmup_steps: float = _of_training_in_detail(
        0.0, "Warm-up in steps; below 1, a fraction of all steps.", least=0
    )
    max_grad_norm: float = _of_training_in_detail(
        1.0, "Norm at which the gradient is clipped; 0 turns clipping off.", least=0, metavar="NORM"
    )
    precision: str = _of_training_in_detail(
        "auto",
        "Precision of autocast: auto, fp32, bf16 or fp16.",
        choices=("auto", "fp32", "bf16", "fp16"),
        metavar="PRECISION",
    )
    dtype: str = _of_training_in_detail(
        "auto",
        "Type of the frozen weights in memory: auto (the base's own), bfloat16, float16 or float32. full, pissa, "
        "olora and milora change them, and a new classification head is trained with them: these have float32.",
        choices=DTYPES,
        in_id="{}",
        new_in="0.2",
        metavar="TYPE",
    )
    load_in: str | None = _of_training_in_detail(
        None,
        "Quantize the frozen linear layers by bitsandbytes, as QLoRA does: 4bit (nf4) or 8bit. For adapters on tasks "
        "that a model writes.",
        choices=("4bit", "8bit"),
        adapter_only=True,
        in_id="{}",
        new_in="0.2",
        metavar="BITS",
        unless_given="default: not quantized",
    )
    gradient_checkpointing: bool = _of_training_in_detail(
        False, "Recompute activations in the backward pass: slower, less memory.", changes_weights=False
    )
    seed: int = _of_training(
        0, "Seed of the initial weights and of the row order.", least=0, below=SEEDS, expected=A_SEED
    )

    max_length: int | None = _of_training_in_detail(
        None,
        "Longest row in tokens, 2 or more.",
        least=2,
        metavar="TOKENS",
        unless_given="default: the model's context",
    )
    drop_too_long: bool = _of_training_in_detail(
        False, "Skip completions that are longer than --max-length, instead of stopping."
    )
    max_train_samples: int | None = _of_training_in_detail(
        None, "Number of training rows to use.", least=1, in_id="samples{}", unless_given="default: all"
    )
    max_eval_samples: int | None = _of_stopping_in_detail(
        200, "Number of rows of the validation split to score.", least=1
    )


@dataclass(frozen=True)
class Meanwhile(Settings):
    """The seed of the data, and what is measured, logged and saved while a run goes on."""

    data_seed: int = setting(0, "Seed of generated tasks and of held-out rows.", panel="Data files", least=0)

    match: str | None = _of_stopping(
        None,
        "Stop when the validation accuracy reaches this value: accuracy=0.90.",
        metavar="accuracy=A",
        unless_given="default: not stopped",
    )
    eval_steps: int = _of_stopping_in_detail(
        50, "Number of steps between two measurements for --match.", least=1
    )
    save_steps: int = _of_output(50, "Number of steps between two checkpoints.", least=1)
    logging_steps: int = _of_output(10, "Number of steps between two lines of the log.", least=1)
    report_to: tuple[str, ...] = _of_output(
        (),
        "Comma-separated trackers, by the Trainer's names: tensorboard, wandb and others.",
        item="tracker",
        by_commas=True,
        metavar="NAMES",
    )
    audit_steps: int | None = _of_stopping(
        None,
        "Number of steps between two audits during training.",
        least=1,
        changes_weights=False,
        unless_given="default: no audits",
    )
    stop_above: int | None = _of_stopping_in_detail(
        None,
        "Stop when an audit counts more intruders than this number.",
        least=0,
        unless_given="default: no limit",
    )
