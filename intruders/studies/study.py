"""A study as its YAML file says it, read and checked before anything runs. The keys are in docs/reference/study.md."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..audits.audit_settings import AuditSettings
from ..errors import SettingError
from ..experiments.experiment_settings import (
    INTERPOLATE,
    AttributionSettings,
    ComparisonSettings,
    SweepSettings,
)
from ..measures.measure_settings import LossSettings
from ..mitigation.remedies.remedy_table import SHRINK_OUTPUT
from ..models.loading_settings import Loading
from ..settings import Settings, setting, settings_of
from ..settings.numbers import A_SEED, SEEDS
from ..settings.settings_class import mapping, refuse_unknown, short_names, shown, told_at
from ..settings.yaml_text import read_text, read_yaml
from ..training.finetune_config import FinetuneConfig

KINDS = ("finetune", "sequence", "random-rank-one")
SELECTIONS = ("fastest", "mildest")
# Keys by claim, which are kept as they are given: what answers the claims reads them.
_BY_CLAIM = ("support", "power", "primary")
# What a study decides itself.
_OWN = {"out": "the study's folder contains all runs", "seed": "give seeds: [0, 1, ...] instead"}


@dataclass(frozen=True)
class ComparisonMeasure(ComparisonSettings):
    """The comparison of remedies on every run: which ones, and on how many documents and examples."""

    max_documents: int | None = setting(
        None, "Number of documents per corpus; the evaluation's, if None.", least=2
    )
    max_examples: int | None = setting(
        None, "Number of examples per task and split; the evaluation's, if None.", least=1
    )


@dataclass(frozen=True)
class KLMeasure(Settings):
    """The KL divergence of the tuned model from its base on the run's own task."""

    max_examples: int | None = setting(
        64, "Number of examples of the split that is scored, from the first.", least=2
    )


@dataclass(frozen=True)
class Measure(LossSettings, Loading):
    """The measures of every run of an experiment. The audit and the score on the run's own task are always made."""

    audit: AuditSettings = setting(AuditSettings(), "As in intruders audit.")
    max_examples: int | None = setting(200, "Number of examples per task, from the first.", least=1)
    critical_scale: bool = setting(False, "Measure the critical scale of the update too.")
    output_energy: bool = setting(
        False, "Measure the output energy of the update too, on the first `window` tokens of each document."
    )
    kl_to_base: KLMeasure | None = setting(
        None, "Measure KL(base || tuned) on the prompts and the answers of the run's own task too."
    )
    attribute: AttributionSettings | None = setting(
        None,
        "Split the rise of the loss on the first corpus into parts of the matrices, as in intruders attribute.",
    )
    intervene: SweepSettings | None = setting(
        None, "Scale the intruders, and what controls put in their place."
    )
    remedies: ComparisonMeasure | None = setting(
        None, "Compare remedies on every run, as in intruders remedies."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critical_scale and self.audit.base_dtype is not None:
            raise SettingError(
                f"critical_scale is true, but audit rounds the base to {self.audit.base_dtype!r}, and W0 + s D has the "
                "base that is stored; leave one of the two out"
            )
        controls = () if self.intervene is None else self.intervene.controls
        on_text = [
            f"control {name!r} of intervene is measured on text"
            for name in controls
            if name in (INTERPOLATE, SHRINK_OUTPUT)
        ]
        on_text += ["output_energy is true"] if self.output_energy else []
        on_text += [
            f"{name} is given" for name in ("attribute", "remedies") if getattr(self, name) is not None
        ]
        if on_text and not self.loss_on:
            raise SettingError(f"{on_text[0]}, but no loss_on gives the text; give loss_on: [pydoc], say")


@dataclass(frozen=True)
class Resources(Settings):
    """Resources that Ray reserves for a run."""

    gpus: float = setting(0.0, "Number of GPUs of a run.", least=0)
    cpus: float = setting(1.0, "Number of processors of a run.", least=0)


@dataclass(frozen=True)
class OfEveryKind(Settings):
    """Settings of an experiment of any kind."""

    kind: str = setting("finetune", "Kind of work of its runs.", choices=KINDS)
    seeds: tuple[int, ...] = setting(
        (0,),
        "Seeds; one run per seed.",
        item="seed",
        least=0,
        below=SEEDS,
        expected=A_SEED,
        may_be_empty=False,
    )
    measure: Measure = setting(Measure(), "What is measured of its runs.")


@dataclass(frozen=True)
class OfSequence(Settings):
    """Further settings of an experiment that trains in sequence."""

    tasks: tuple[str, ...] = setting((), "The tasks, in order.", item="task", may_be_empty=False)
    adapters: str = setting(
        "merge", "Merge each adapter into the model after its task, or keep it.", choices=("merge", "keep")
    )
    retrain_heads: bool = setting(
        False, "Train the head of an earlier task again on the frozen body before it is tested."
    )


@dataclass(frozen=True)
class OfRandomTerms(Settings):
    """Further settings of an experiment with random rank-one terms."""

    base: tuple[str, ...] = setting(help="The models.", item="model")
    multiples: tuple[float, ...] = setting(
        (),
        "Sizes of the terms, as multiples of ||W0||.",
        item="multiple of ||W0||",
        above=0,
        expected="a number above 0",
        may_be_empty=False,
    )
    include: tuple[str, ...] = setting((), "Only matrices that match.", item="pattern")
    exclude: tuple[str, ...] = setting((), "No matrices that match.", item="pattern")


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
    retrain_heads: bool = False  # of earlier tasks in a sequence, before they are tested
    orders: tuple[tuple[int, ...], ...] = ()  # of the tasks, as indices; none: as they stand
    multiples: tuple[float, ...] = ()  # of random-rank-one
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study(Settings):
    """A complete study, and the text that it was read from.

    Attributes:
      experiments: what is run, under which settings.
      support: by claim, what counts as support, in words, written before the study runs.
      power: by claim, the effect that is planned for and its spread over seeds.
      primary: by claim, a part of the name of the one effect that decides. These three are for the package that
        answers claims, and kept as they are given.
      text: the YAML text.
      file: the path that it was read from.
    """

    name: str = setting(help="What it is called; as its file if not given.")
    experiments: tuple[Experiment, ...] = ()
    analyses: tuple[str, ...] = setting(
        (), "Claims to answer; all of those that are installed if not given.", item="analysis"
    )
    select: tuple[str, ...] = setting(
        (),
        "At which learning rate of each method the methods are compared; all rates if not given.",
        item="selection",
        choices=SELECTIONS,
    )
    resources: Resources = setting(Resources(), "What Ray reserves for a run.")
    times_from: tuple[str, ...] = setting(
        (),
        "Folders of earlier or published studies, from whose times --dry-run tells how long this one takes.",
        item="folder",
    )
    compare_with: str | None = setting(None, "The paper's tables to print beside this study's figures.")
    support: dict[str, str] = field(default_factory=dict)
    power: dict[str, Any] = field(default_factory=dict)
    primary: dict[str, str] = field(default_factory=dict)
    text: str = ""
    file: str = ""


def read_study(path: str | Path) -> Study:
    """Read and check the study of a YAML file.

    Args:
      path: The YAML file. ``docs/reference/study.md`` lists its keys.

    Returns:
      The study, ready for :func:`run_study`.

    Raises:
      SettingError: the file cannot be read, is not YAML, or has an unknown key or a wrong value.
      MissingDependencyError: PyYAML is not installed.

    Examples:
      The name of the file becomes the study's name, unless the file gives another one:

      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     file = Path(folder) / "rates.yaml"
      ...     text = "experiments: {matched: {base: smollm2-135m, task: word-problems, lr: [0.001, 0.005]}}"
      ...     _ = file.write_text(text)
      ...     study = read_study(file)
      >>> study.name, study.experiments[0].settings["lr"]
      ('rates', [0.001, 0.005])
    """
    where = f"study {str(path)!r}"
    return replace(study_from_text(read_text(path, where), name=Path(path).stem, where=where), file=str(path))


def study_from_text(text: str, *, name: str, where: str) -> Study:
    """Read a study as :func:`read_study` does; ``name`` is the study's if the text has none."""
    given = mapping(read_yaml(text, where), where)
    known = [item.name for item in fields(Study) if item.name not in ("text", "file")]
    with told_at(where):
        refuse_unknown(given, [*known, "seeds"])
    seeds = given.pop("seeds", [0])
    titled = mapping(given.pop("experiments", None), f"{where}: experiments")
    if not titled:
        raise SettingError(f"{where}: there are no experiments; expected NAME: SETTINGS under 'experiments'")
    experiments = tuple(
        _experiment(name, settings, seeds, f"{where}, experiment {name!r}")
        for name, settings in titled.items()
    )
    if given.get("analyses") == "all":
        del given["analyses"]
    with told_at(where):
        for key in given.keys() & set(_BY_CLAIM):
            given[key] = mapping(given[key], key)
            for claim, entry in given[key].items():
                if key != "power" and not isinstance(entry, str):
                    raise SettingError(f"{key} of {claim!r}: {key} is {shown(entry)}; expected a text")
        return Study(**{"name": name} | given, experiments=experiments, text=text)


def _experiment(title: str, value: Any, seeds: Any, where: str) -> Experiment:
    given = mapping(value, where)
    with told_at(where):
        shared = OfEveryKind.from_mapping({"seeds": seeds} | _taken(given, OfEveryKind))
        if shared.kind == "random-rank-one":
            refuse_unknown(given, [*settings_of(OfRandomTerms), *settings_of(OfEveryKind)])
            specific = OfRandomTerms.from_mapping(given).values()
            specific["settings"] = {"base": list(specific.pop("base"))}
        else:
            own = [*settings_of(OfSequence), "order"] if shared.kind == "sequence" else []
            given = short_names(FinetuneConfig, given, ["methods", *own, *settings_of(OfEveryKind)])
            specific = _of_training(given, shared.kind)
    return Experiment(title, **shared.values(), **specific)


def _of_training(given: dict[str, Any], kind: str) -> dict[str, Any]:
    """Read what an experiment says of training: shared settings, those of each method, a sequence's tasks."""
    of_sequence: dict[str, Any] = {}
    if kind == "sequence":
        if "task" in given:
            raise SettingError("a sequence has tasks: [...], one after another, and no task")
        orders = given.pop("order", None)
        of_sequence = OfSequence.from_mapping(_taken(given, OfSequence)).values()
        of_sequence["orders"] = () if orders is None else _orders(orders, len(of_sequence["tasks"]))
    methods = given.pop("methods", [{}])
    _refuse_own(given)
    methods = methods if isinstance(methods, list) else [methods]
    if methods in ([], [None]):
        raise SettingError(f"methods is {shown(methods)}; expected at least one method")
    chosen = []
    for number, method in enumerate(methods, start=1):
        named = mapping(method, f"method {number}")
        with told_at(f"method {number}"):
            chosen.append(short_names(FinetuneConfig, named))
            _refuse_own(chosen[-1])
    return of_sequence | {"settings": given, "methods": tuple(chosen)}


def _orders(given: Any, tasks: int) -> tuple[tuple[int, ...], ...]:
    """Read one order of the tasks, such as [2, 1, 3], or a grid of several, as indices from 0."""
    is_grid = isinstance(given, list) and any(isinstance(element, list) for element in given)
    orders = given if is_grid else [given]
    for order in orders:
        numbers = order if isinstance(order, list) and all(type(number) is int for number in order) else []
        if sorted(numbers) != list(range(1, tasks + 1)):
            raise SettingError(
                f"order is {shown(order)}; expected the numbers 1 to {tasks} of the tasks in some order, or a list "
                "of such lists"
            )
    return tuple(tuple(number - 1 for number in order) for order in orders)


def _refuse_own(given: dict[str, Any]) -> None:
    for key, why in _OWN.items():
        if key in given:
            raise SettingError(f"{key} is not for a study; {why}")


def _taken(given: dict[str, Any], cls: type[Settings]) -> dict[str, Any]:
    return {name: given.pop(name) for name in settings_of(cls) if name in given}
