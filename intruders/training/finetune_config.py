"""The settings of one fine-tuning run, checked before any work starts."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..checkpoints.adapters.starts import changes_the_base
from ..data.columns import Columns
from ..errors import SettingError

Precision = Literal["auto", "fp32", "bf16", "fp16"]

# Trainer's and PEFT's own names for what has a short name here; both are understood.
LONG_NAMES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "output_dir": "out",
    "model_name_or_path": "base",
}


@dataclass(frozen=True)
class FinetuneConfig:
    """One run. Names are those of TrainingArguments and LoraConfig, or short for them."""

    base: str
    task: str
    out: str
    method: str = "lora"

    rank: int = 8
    alpha: float | str = "2r"  # a number, or a multiple of the rank such as "2r"
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    init_a: str = "random"  # of the frozen A of lora-fa and b-only: random or orthonormal
    loraplus_lr_ratio: float = 16.0  # learning rate of B over that of A (lora+)
    train_all: bool = False  # method full: embeddings, norms and biases too

    start_from: str | None = None  # an adapter of this base and rank that training goes on from

    lr: float = 1e-4
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    weight_decay: float = 0.0
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.0  # below 1: a share of all steps
    max_grad_norm: float = 1.0
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    seed: int = 0

    max_length: int | None = None
    drop_too_long: bool = False
    max_train_samples: int | None = None
    max_eval_samples: int | None = 200
    text: tuple[str, ...] = ()
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    score: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    no_header: bool = False
    data_seed: int = 0  # of generated tasks and of rows held out

    match: str | None = None  # "accuracy=0.90": stop when the validation split reaches it
    eval_steps: int = 50
    save_steps: int = 50
    logging_steps: int = 10
    report_to: tuple[str, ...] = ()
    audit_steps: int | None = None  # audit in memory every so many steps; the trace is intruders.parquet
    stop_above: int | None = None  # end training when an audit finds more intruders

    def __post_init__(self) -> None:
        _check(self)

    @property
    def lora_alpha(self) -> float:
        """Alpha as a number: a multiple of the rank is worked out."""
        return _alpha(self.alpha, self.rank)

    @property
    def columns(self) -> Columns:
        """Which columns of a data file hold what."""
        return Columns(
            text=self.text,
            label=self.label,
            prompt=self.prompt,
            completion=self.completion,
            score=self.score,
            validation_file=self.validation_file,
            test_file=self.test_file,
            no_header=self.no_header,
        )

    @property
    def target_accuracy(self) -> float | None:
        """The accuracy at which training stops, or None."""
        return None if self.match is None else _accuracy(self.match)

    def as_dict(self) -> dict[str, Any]:
        """Every setting as plain JSON types."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def config_from_mapping(settings: dict[str, Any], *, where: str) -> FinetuneConfig:
    """Settings by name, short or long. SettingError for an unknown, doubled or missing one."""
    known = {field.name: field for field in fields(FinetuneConfig)}
    chosen: dict[str, Any] = {}
    for given, value in settings.items():
        name = LONG_NAMES.get(given, given).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *LONG_NAMES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise SettingError(f"{where}: {given!r} is not a setting{hint}")
        if name in chosen:
            raise SettingError(f"{where}: {given!r} sets {name!r} a second time; keep one of the two")
        chosen[name] = _typed(name, value, where)
    missing = [name for name in ("base", "task", "out") if not chosen.get(name)]
    if missing:
        raise SettingError(f"{where}: {', '.join(missing)} must be given")
    return FinetuneConfig(**chosen)


def read_config(path: str | Path, **changes: Any) -> FinetuneConfig:
    """The settings of a YAML file, with those in ``changes`` put over them."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            settings = yaml.safe_load(file)
    except OSError as error:
        raise SettingError(f"config {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"config {str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise SettingError(
            f"config {str(path)!r} holds a {type(settings).__name__}; expected settings by name"
        )
    short = {LONG_NAMES.get(str(key), str(key)).replace("-", "_"): value for key, value in settings.items()}
    if len(short) < len(settings):
        config_from_mapping(
            {str(key): value for key, value in settings.items()}, where=f"config {str(path)!r}"
        )
    return config_from_mapping(short | changes, where=f"config {str(path)!r}")


_TUPLES = {"target_modules", "text", "report_to"}

_NUMBERS = {
    "dropout",
    "loraplus_lr_ratio",
    "lr",
    "epochs",
    "weight_decay",
    "warmup_steps",
    "max_grad_norm",
}

_WHOLE = {
    "rank", "steps", "batch_size", "gradient_accumulation_steps", "seed", "data_seed", "max_length",
    "max_train_samples", "max_eval_samples", "eval_steps", "save_steps", "logging_steps", "audit_steps",
    "stop_above",
}  # fmt: skip

_SWITCHES = {"train_all", "gradient_checkpointing", "drop_too_long", "no_header"}

_OPTIONAL = {field.name for field in fields(FinetuneConfig) if "None" in str(field.type)}


def _typed(name: str, value: Any, where: str) -> Any:
    """``value`` as the type of the setting; YAML reads 1e-3 as text and a list where a tuple is meant."""
    if value is None and name in _OPTIONAL:
        return None
    try:
        if name in _TUPLES:
            if name == "target_modules" and isinstance(value, str):
                return value
            return tuple(value.split(",")) if isinstance(value, str) else tuple(str(item) for item in value)
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise ValueError("expected true or false")
            return value
        if name in _WHOLE:
            if isinstance(value, bool) or float(value) != int(float(value)):
                raise ValueError("expected a whole number")
            return int(float(value))
        if name in _NUMBERS:
            return float(value)
        if name == "alpha":
            return value if isinstance(value, str) else float(value)
        if not isinstance(value, str | Path):
            raise ValueError("expected text")
        return str(value)
    except (TypeError, ValueError) as error:
        wanted = "a number" if name in _NUMBERS else str(error)
        raise SettingError(
            f"{where}: {name} is {value!r}; {wanted if 'expected' in wanted else f'expected {wanted}'}"
        ) from error


def _check(config: FinetuneConfig) -> None:

    if config.method not in METHODS:
        near = difflib.get_close_matches(config.method, METHODS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingError(
            f"method {config.method!r} is not known; {hint}expected one of {', '.join(METHODS)}"
        )
    at_least = {
        "rank": 1, "batch_size": 1, "gradient_accumulation_steps": 1, "eval_steps": 1, "save_steps": 1,
        "logging_steps": 1, "steps": 1, "max_train_samples": 1, "max_eval_samples": 1, "weight_decay": 0,
        "warmup_steps": 0, "max_grad_norm": 0, "seed": 0, "audit_steps": 1, "stop_above": 0,
    }  # fmt: skip
    for name, least in at_least.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise SettingError(f"{name} is {value}; expected {least} or more")
    if not 0 < config.lr < float("inf"):
        raise SettingError(f"lr is {config.lr}; expected a positive number")
    if not 0 <= config.dropout < 1:
        raise SettingError(f"dropout is {config.dropout}; expected 0 or more and below 1")
    if config.loraplus_lr_ratio < 1:
        raise SettingError(f"loraplus_lr_ratio is {config.loraplus_lr_ratio}; expected 1 or more")
    if config.steps is None and config.epochs is None:
        raise SettingError("neither steps nor epochs is given; expected one of the two")
    if config.steps is not None and config.epochs is not None:
        raise SettingError(f"steps is {config.steps} and epochs is {config.epochs}; expected one of the two")
    if config.epochs is not None and not config.epochs > 0:
        raise SettingError(f"epochs is {config.epochs}; expected more than 0")
    for name, allowed in {
        "init_a": ("random", "orthonormal"),
        "precision": ("auto", "fp32", "bf16", "fp16"),
        "score": (None, "final-number", "exact", "none"),
    }.items():
        if getattr(config, name) not in allowed:
            listed = ", ".join(str(item) for item in allowed if item)
            raise SettingError(f"{name} is {getattr(config, name)!r}; expected one of {listed}")
    if config.init_a != "random" and config.method not in ("lora-fa", "b-only"):
        raise SettingError(
            f"init_a is {config.init_a!r}, which is for lora-fa and b-only; method is {config.method!r}"
        )
    if config.start_from is not None and (config.method == "full" or changes_the_base(config.method)):
        raise SettingError(
            f"start_from is {config.start_from!r}, which method {config.method!r} cannot go on from; "
            "merge that adapter into the base instead"
        )
    if config.train_all and config.method != "full":
        raise SettingError(f"train_all is for method full; method is {config.method!r}")
    if config.stop_above is not None and config.audit_steps is None:
        raise SettingError(f"stop_above is {config.stop_above}, but no audits are made; give audit_steps too")
    _alpha(config.alpha, config.rank)
    if config.match is not None:
        _accuracy(config.match)


def _alpha(alpha: float | str, rank: int) -> float:
    text = str(alpha).strip()
    try:
        value = float(text[:-1] or 1) * rank if text.endswith("r") else float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise SettingError(
            f"alpha is {alpha!r}; expected a positive number, or a multiple of the rank such as '2r'"
        )
    return value


def _accuracy(match: str) -> float:
    name, _, value = match.partition("=")
    try:
        target = float(value)
    except ValueError:
        target = float("nan")
    if name.strip() != "accuracy" or not 0 < target <= 1:
        raise SettingError(f"match is {match!r}; expected accuracy=NUMBER with a number above 0 and up to 1")
    return target


# Every method with what sets it apart, in one line each.
METHODS = {
    "full": "all linear weights; embeddings, norms and biases frozen unless train_all",
    "lora": "W0 + alpha/r B A, A random, B zero (Hu et al. 2021)",
    "rslora": "LoRA scaled by alpha/sqrt(r) (Kalajdzievski 2023)",
    "dora": "LoRA on the direction, a trained magnitude per column (Liu et al. 2024)",
    "pissa": "LoRA that starts from the leading singular triplets of W0 (Meng et al. 2024)",
    "olora": "LoRA that starts from a QR decomposition of W0 (Buyukakyuz 2024)",
    "lora-fa": "A frozen, gradient of B corrected for it (Zhang et al. 2023)",
    "b-only": "A frozen, B trained as in LoRA",
    "lora+": "LoRA with a higher rate for B (Hayou et al. 2024)",
}
