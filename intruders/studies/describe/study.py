"""A study as its YAML file says it, read and checked before anything runs. The keys are in docs/study.md."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import SettingError, missing_extra
from ...training.finetune_config import LONG_NAMES, FinetuneConfig
from ..claim_names import CLAIMS, check_analyses
from .checks import items, mapping, number, refuse_unknown, texts, whole
from .measures import Measure, measure_from

KINDS = ("finetune", "sequence", "random-rank-one")
# What a study decides itself.
_NOT_SETTINGS = {"out": "the study's folder holds all runs", "seed": "give seeds: [0, 1, ...] instead"}
_SETTINGS = [item.name for item in fields(FinetuneConfig) if item.name not in _NOT_SETTINGS]
_OF_EVERY_KIND = ["kind", "seeds", "measure"]
_OF_SEQUENCE = ["tasks", "adapters"]
_OF_MECHANISM = ["base", "multiples", "include", "exclude"]


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for a run."""

    gpus: float = 0
    cpus: float = 1


@dataclass(frozen=True)
class Experiment:
    """Runs that are compared with one another: shared settings, methods, and what is measured."""

    name: str
    kind: str
    seeds: tuple[int, ...]
    measure: Measure
    settings: dict[str, Any] = field(default_factory=dict)  # by short name; a list is a grid
    methods: tuple[dict[str, Any], ...] = ({},)
    tasks: tuple[str, ...] = ()  # of a sequence
    adapters: str = "merge"
    multiples: tuple[float, ...] = ()  # of random-rank-one
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A whole study, and the text that it was read from."""

    name: str
    experiments: tuple[Experiment, ...]
    analyses: tuple[str, ...] = tuple(CLAIMS)
    resources: Resources = Resources()
    text: str = ""


def read_study(path: str | Path) -> Study:
    """The study of a YAML file. SettingError for a file that cannot be read, an unknown key, a wrong value."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(f"study {str(path)!r} cannot be read: {reason}") from error
    return study_from_text(text, name=file.stem, where=f"study {str(path)!r}")


def study_from_text(text: str, *, name: str, where: str) -> Study:
    """As :func:`read_study`; ``name`` is the study's where it does not say one."""
    given = mapping(_parsed(text, where), where)
    refuse_unknown(given, [item.name for item in fields(Study) if item.name != "text"] + ["seeds"], where)
    seeds = _seeds(given.get("seeds", [0]), f"{where}: seeds")
    experiments = mapping(given.get("experiments"), f"{where}: experiments")
    if not experiments:
        raise SettingError(f"{where}: there are no experiments; expected NAME: SETTINGS under 'experiments'")
    given_name = given.get("name", name)
    if not isinstance(given_name, str) or not given_name.strip():
        raise SettingError(f"{where}: name is {given_name!r}; expected text")
    return Study(
        name=given_name.strip(),
        experiments=tuple(
            _experiment(str(title), settings, seeds, f"{where}, experiment {title!r}")
            for title, settings in experiments.items()
        ),
        analyses=_analyses(given.get("analyses", "all"), f"{where}: analyses"),
        resources=_resources(given.get("resources"), f"{where}: resources"),
        text=text,
    )


def _parsed(text: str, where: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("a study", "pyyaml", "train") from error

    class Loader(yaml.SafeLoader):
        """YAML's own lets the last of two equal keys win, and the runs of the first be lost in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1 and key != "<<":
                    line = node.start_mark.line + 1
                    raise SettingError(
                        f"{where}: {key!r} is given twice in what starts at line {line}; keep one"
                    )
            return dict(super().construct_mapping(node, deep=deep))

    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def _experiment(name: str, value: Any, seeds: tuple[int, ...], where: str) -> Experiment:
    given = {LONG_NAMES.get(key, key).replace("-", "_"): item for key, item in _once(value, where).items()}
    kind = given.pop("kind", "finetune")
    if kind not in KINDS:
        raise SettingError(f"{where}: kind is {kind!r}; expected one of {', '.join(KINDS)}")
    seeds = _seeds(given.pop("seeds"), f"{where}: seeds") if "seeds" in given else seeds
    measure = measure_from(given.pop("measure", None), f"{where}: measure")
    if kind == "random-rank-one":
        return _mechanism(name, given, seeds, measure, where)
    for key, why in _NOT_SETTINGS.items():
        if key in given:
            raise SettingError(f"{where}: {key} is not for a study; {why}")
    own = _OF_SEQUENCE if kind == "sequence" else []
    refuse_unknown(given, ["methods", *own, *_OF_EVERY_KIND, *_SETTINGS, *LONG_NAMES], where)
    methods = given.pop("methods", [{}])
    chosen = []
    for number_, method in enumerate(items(methods, f"{where}: methods", "method"), start=1):
        at = f"{where}, method {number_}"
        settings = {LONG_NAMES.get(k, k).replace("-", "_"): item for k, item in _once(method, at).items()}
        for key, why in _NOT_SETTINGS.items():
            if key in settings:
                raise SettingError(f"{at}: {key} is not for a study; {why}")
        refuse_unknown(settings, [*_SETTINGS, *LONG_NAMES], at)
        chosen.append(settings)
    tasks: tuple[str, ...] = ()
    adapters = given.pop("adapters", "merge") if kind == "sequence" else "merge"
    if kind == "sequence":
        if "task" in given:
            raise SettingError(f"{where}: a sequence has tasks: [...], one after another, and no task")
        tasks = texts(given.pop("tasks", None), f"{where}: tasks", "task")
        if adapters not in ("merge", "keep"):
            raise SettingError(f"{where}: adapters is {adapters!r}; expected merge or keep")
    return Experiment(name, kind, seeds, measure, given, tuple(chosen), tasks, adapters)


def _mechanism(
    name: str, given: dict[str, Any], seeds: tuple[int, ...], measure: Measure, where: str
) -> Experiment:
    refuse_unknown(given, [*_OF_MECHANISM, *_OF_EVERY_KIND], where)
    bases = texts(given.get("base"), f"{where}: base", "a model")
    multiples = items(given.get("multiples"), f"{where}: multiples", "multiple of ||W0||")
    include, exclude = (
        texts(given[key], f"{where}: {key}", "a pattern") if given.get(key) else ()
        for key in ("include", "exclude")
    )
    return Experiment(
        name,
        "random-rank-one",
        seeds,
        measure,
        {"base": list(bases)},
        multiples=tuple(number(item, f"{where}: multiples", above=0) for item in multiples),
        include=include,
        exclude=exclude,
    )


def _once(value: Any, where: str) -> dict[str, Any]:
    """Settings by name, none of them by its short and its long name at once."""
    given = mapping(value, where)
    seen: dict[str, str] = {}
    for key in given:
        short = LONG_NAMES.get(key, key).replace("-", "_")
        if short in seen:
            raise SettingError(f"{where}: {seen[short]!r} and {key!r} are the same setting; keep one")
        seen[short] = key
    return given


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(whole(seed, where, 0) for seed in items(value, where, "seed")))


def _analyses(value: Any, where: str) -> tuple[str, ...]:
    if value == "all":
        return tuple(CLAIMS)
    names = texts(value, where, "an analysis")
    try:
        return tuple(check_analyses(names))
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


def _resources(value: Any, where: str) -> Resources:
    given = mapping(value, where)
    refuse_unknown(given, [item.name for item in fields(Resources)], where)
    return Resources(**{key: number(item, f"{where}: {key}", least=0) for key, item in given.items()})
