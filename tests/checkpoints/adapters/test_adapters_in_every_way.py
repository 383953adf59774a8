"""Every PEFT method that is read, from every start, given in every way, against PEFT's own merged weights.

The lists are METHODS below, and STARTS, WAYS and CALLBACKS in ``adapted``. Each combination is a test: which matrices
changed, the size of each update, and each matrix's count of intruders against two full decompositions in double
precision. What cannot exist (a conversion that PEFT does not make) is left out by ``does_not_exist``; what cannot be
known (a folder whose base was changed and is elsewhere) must be refused, which ``is_refused`` says. Plain LoRA is given
from every start in every way, DoRA from one start of each kind, and the other scales from the usual one; what is left
writes the same kinds of files and is given in one way each, in turn, the callbacks being one of these. ``-m slow`` runs
these. Which starts and variants of the installed PEFT write to the base's weights is run, and looked at.
"""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig

from intruders.checkpoints.adapters.peft_adapter import start_that_changed
from intruders.checkpoints.adapters.peft_types import changes_the_base
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.errors import PairingError
from tests.checkpoints.adapted import (
    CALLBACKS,
    LORA,
    STARTS,
    WAYS,
    Adapted,
    adapt,
    does_not_exist,
    is_refused,
    own_weights,
    require_audit,
    starts_of_installed_peft,
    train_with_callbacks,
)
from tests.checkpoints.models import change_config, paired, refused, saved, tiny_llama, with_adapter

# One of each way of making a weight; ``test_by_peft`` has every type from a folder and in memory.
IN_EVERY_WAY = ("loha", "lokr", "adalora", "vera", "ia3", "oft", "unilora")
METHODS: list[tuple[str, str, bool | str]] = [
    *(("llama", method, start) for method in LORA for start in STARTS if not does_not_exist(method, start)),
    *(("llama", method, True) for method in IN_EVERY_WAY),
    *(
        ("gpt2", method, start)
        for method in ("lora", "dora")
        for start in (True, "pissa", "corda", "lora_ga")
    ),
]


def is_like_another(case: tuple[str, str, bool | str]) -> bool:
    """From a start of which another of its kind is looked at, with another scale or kind of layer than in all ways."""
    kind, method, start = case
    if method not in LORA or start is True or (kind, method) == ("llama", "lora"):
        return False
    return (kind, method) != ("llama", "dora") or start not in ("pissa", "lora_ga")


def parameters(case: tuple[str, str, bool | str], *others: str) -> Any:
    """One combination as a test, left out of the plain suite where another is much like it."""
    marks = [pytest.mark.slow] if is_like_another(case) else []
    return pytest.param(case, *others, marks=marks, id="-".join(map(str, (*case, *others))))


BY_CALLBACKS = "callbacks"


def ways(case: tuple[str, str, bool | str]) -> list[str]:
    """Every way of giving it that exists, or one of them."""
    existing = [way for way in [*WAYS, BY_CALLBACKS] if not does_not_exist(*case[1:], way)]
    if is_like_another(case):
        return [existing[METHODS.index(case) % len(existing)]]
    return existing


@pytest.fixture(scope="module")
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Adapted, Path]:
    """One trained model serves all ways: none of them changes it."""
    kind, method, start = request.param
    folder = tmp_path_factory.mktemp("adapted")
    return kind, adapt(kind, method, start, folder), folder


@pytest.mark.parametrize(
    ("adapted", "way"),
    [parameters(case, way) for case in METHODS for way in ways(case) if way != BY_CALLBACKS],
    indirect=["adapted"],
)
def test_audit_is_that_of_what_peft_merges(adapted: tuple[str, Adapted, Path], way: str) -> None:
    kind, model, folder = adapted
    if is_refused(model.start, way):
        with refused(r"started from its base's own weights \(\w+\)", PairingError):
            WAYS[way](model, folder)
        return
    before, after = model.before, model.after_once
    if way == "weighted sum":
        after = {name: before[name] + 0.5 * (after[name] - before[name]) for name in before}
    require_audit(WAYS[way](model, folder), kind, before, after)


# KaSA truncates the base before training, and LoftQ rounds it.
CALLED_BACK = [*(parameters(case) for case in METHODS if BY_CALLBACKS in ways(case)), ("llama", "kasa", True)]


@pytest.mark.parametrize("case", CALLED_BACK)
def test_callbacks_find_what_peft_merges(case: tuple[str, str, bool | str], tmp_path: Path) -> None:
    """One that is not told the base follows training: what was done to the base before is no part of that."""
    kind, method, start = case
    own: dict[str, Any] = {"kasa_config": KasaConfig()} if method == "kasa" else {}
    model = adapt(kind, "lora" if own else method, start, tmp_path, train=False, **own)
    at_start = model.after() if own or start == "loftq" else model.before
    found = train_with_callbacks(model, tmp_path)
    for way, before in zip(CALLBACKS, (at_start, model.before), strict=True):
        require_audit(found[way], kind, before, model.after())


# Every field of LoraConfig that makes another method of LoRA: a value for it, and whether it writes to the base's
# weights. None stands for what the tiny Llama cannot carry.
VARIANTS: dict[str, tuple[Any, bool | None]] = {
    "use_dora": (True, False),
    "velora_config": (VeloraConfig(num_groups=2), False),
    "monteclora_config": (MontecloraConfig(), False),
    "alora_invocation_tokens": ([1, 2], False),
    "use_bdlora": (
        BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"], target_modules_bd_b=["down_proj"]),
        False,
    ),
    "kasa_config": (KasaConfig(), True),
    "use_qalora": (True, None),
    "arrow_config": (peft.ArrowConfig(), None),
}
REFUSED = {"use_qalora", "arrow_config"}


def test_every_start_of_the_installed_peft_is_known() -> None:
    assert set(STARTS) == starts_of_installed_peft()


@pytest.mark.parametrize("start", STARTS)
def test_starts_that_write_to_the_base_are_those_of_the_list(start: bool | str, tmp_path: Path) -> None:
    adapted = adapt("llama", "lora", start, tmp_path, train=False)
    own = own_weights(adapted.model)
    written = [name for name, weight in adapted.before.items() if not torch.equal(own[name], weight)]
    assert bool(written) == STARTS[start] == changes_the_base(start)


def test_every_variant_of_the_installed_peft_is_known() -> None:
    fields = peft.LoraConfig.__dataclass_fields__.values()
    assert {field.name for field in fields if field.metadata.get("is_lora_variant")} <= set(VARIANTS)


@pytest.mark.parametrize("name", [name for name, (_, writes) in VARIANTS.items() if writes is not None])
def test_variants_that_write_to_the_base(name: str, tmp_path: Path) -> None:
    value, writes = VARIANTS[name]
    adapted = adapt("llama", "lora", True, tmp_path, **{name: value})
    own = own_weights(adapted.model)
    assert any(not torch.equal(own[weight], adapted.before[weight]) for weight in adapted.before) == writes
    start = start_that_changed(adapted.model)
    assert (start is not None) == writes


@pytest.mark.parametrize(
    "way", ["folder, with its base", "in memory, with its base", "changed base + adapter"]
)
@pytest.mark.parametrize("name", sorted(set(VARIANTS) - REFUSED - {"alora_invocation_tokens"}))
def test_variants_are_what_peft_merges(name: str, way: str, tmp_path: Path) -> None:
    adapted = adapt("llama", "lora", True, tmp_path, **{name: VARIANTS[name][0]})
    require_audit(WAYS[way](adapted, tmp_path), "llama", adapted.before, adapted.after())


@pytest.mark.parametrize("way", ["folder, with its base", "in memory, alone"])
def test_alora_is_read_as_lora_with_a_note(way: str, tmp_path: Path) -> None:
    """PEFT refuses to merge it; from the invocation tokens on, its B A is in force as LoRA's is."""
    adapted = adapt("llama", "lora", True, tmp_path, alora_invocation_tokens=[1, 2])
    found = WAYS[way](adapted, tmp_path)
    adapted.model.peft_config["default"].alora_invocation_tokens = None
    folder = saved(adapted.model, tmp_path / "plain")
    as_lora = peft.PeftModel.from_pretrained(tiny_llama(), folder).merge_and_unload().state_dict()
    require_audit(found, "llama", adapted.before, as_lora)
    assert any("acts from its invocation tokens on (aLoRA)" in note for note in found.settings["matched"])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_variants_that_are_not_read_are_named(name: str, tmp_path: Path) -> None:
    folder = saved(adapt("llama", "lora", True, tmp_path).model, tmp_path / "adapter")
    change_config(folder, **{name: {"some": "value"}})
    with refused(f"uses {name}, and it .* PEFT cannot merge it"):
        open_sides(tiny_llama(), folder)


def test_adalora_does_what_no_start_says(tmp_path: Path) -> None:
    """It takes over LoRA's setting and starts from zero whatever it is: its folder is a plain one."""
    config = peft.AdaLoraConfig(init_r=4, target_modules=["q_proj"], total_step=10, init_lora_weights="pissa")
    assert paired(tiny_llama(), saved(with_adapter(config), tmp_path)).pairs


IA3 = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
DORA = peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"])


@pytest.mark.parametrize(("kind", "config"), [("IA3", IA3), ("DoRA", DORA)])
def test_several_active_adapters_that_do_not_add_up_are_refused(kind: str, config: peft.PeftConfig) -> None:
    """Their merge is not W0 + (W1 - W0) + (W2 - W0): the second acts on what the first made of the weight."""
    model = with_adapter(config)
    model.add_adapter("second", config)
    model.base_model.set_adapter(["default", "second"])
    with refused(f"2 active adapters, of which {kind} acts on what"):
        open_sides(tiny_llama(), model)
