"""The process's settings of reduced precision: off inside, and put back after, however they were set."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from intruders.linalg import products
from intruders.linalg.full_precision import full_precision, is_covered

MATMUL = torch.backends.cuda.matmul
HAS_NEW_NAMES = hasattr(MATMUL, "fp32_precision")


def error_of_product() -> float:
    """Largest error of a single-precision product, as a share of its largest entry."""
    generator = torch.Generator().manual_seed(0)
    rows, matrix = torch.randn(16, 512, generator=generator), torch.randn(512, 512, generator=generator)
    exact = rows.double() @ matrix.double()
    return float(((rows @ matrix).double() - exact).abs().max() / exact.abs().max())


def seen() -> dict[str, object]:
    """Everything that torch tells of its settings."""
    state: dict[str, object] = {
        name: getattr(MATMUL, name)
        for name in (
            "allow_fp16_reduced_precision_reduction",
            "allow_bf16_reduced_precision_reduction",
            "allow_fp16_reduced_precision_reduction_split_k",
            "allow_bf16_reduced_precision_reduction_split_k",
            "allow_fp16_accumulation",
        )
        if hasattr(MATMUL, name)
    }
    if HAS_NEW_NAMES:
        state |= {
            "cuda": MATMUL.fp32_precision,
            "mkldnn": torch.backends.mkldnn.matmul.fp32_precision,
            "all": torch.backends.fp32_precision,
        }
    try:
        state["old"] = torch.get_float32_matmul_precision()
        state["tf32"] = MATMUL.allow_tf32
    except RuntimeError:
        state["old"] = "set one by one"
    return state


@pytest.fixture(autouse=True)
def default_settings() -> Iterator[None]:
    before = seen()
    yield
    if HAS_NEW_NAMES:
        torch.backends.fp32_precision = "none"
        MATMUL.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    if HAS_NEW_NAMES:
        MATMUL.fp32_precision = before["cuda"]
        torch.backends.mkldnn.matmul.fp32_precision = before["mkldnn"]
    MATMUL.allow_fp16_reduced_precision_reduction = True
    MATMUL.allow_bf16_reduced_precision_reduction = True
    if hasattr(MATMUL, "allow_fp16_accumulation"):
        MATMUL.allow_fp16_accumulation = False
    assert seen() == before


def setting(**values: object) -> Callable[[], None]:
    """Set what this version of torch has of these, of products on CUDA."""

    def set_them() -> None:
        for name, value in values.items():
            if hasattr(MATMUL, name):
                setattr(MATMUL, name[: -len("_split_k")] if name.endswith("_split_k") else name, value)

    return set_them


def one_by_one() -> None:
    if HAS_NEW_NAMES:
        MATMUL.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def for_all_backends() -> None:
    if HAS_NEW_NAMES:
        torch.backends.fp32_precision = "bf16"


WAYS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "allow_tf32": setting(allow_tf32=True),
    "half-precision sums": setting(allow_fp16_accumulation=True),
    "no split-k": setting(allow_fp16_reduced_precision_reduction_split_k=(False, False)),
    "one by one": one_by_one,
    "all backends": for_all_backends,
}


@pytest.mark.parametrize("way", list(WAYS))
def test_products_are_full_inside_and_settings_put_back(way: str) -> None:
    exact = error_of_product()
    WAYS[way]()
    before, outside = seen(), error_of_product()
    with full_precision():
        assert error_of_product() == exact < 1e-5
        assert not MATMUL.allow_fp16_reduced_precision_reduction
        assert not MATMUL.allow_bf16_reduced_precision_reduction
        assert not getattr(MATMUL, "allow_fp16_accumulation", False)
        if HAS_NEW_NAMES:
            assert MATMUL.fp32_precision == torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        else:
            assert not MATMUL.allow_tf32
    assert seen() == before
    assert error_of_product() == outside


def test_a_backend_goes_on_to_follow_the_setting_of_all() -> None:
    if not HAS_NEW_NAMES:
        return
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"
    with full_precision():
        pass
    torch.backends.fp32_precision = "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


def test_an_error_inside_puts_them_back_too() -> None:
    torch.set_float32_matmul_precision("medium")
    with pytest.raises(KeyboardInterrupt), full_precision():
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == "medium"


def test_of_several_threads_the_last_one_puts_them_back() -> None:
    torch.set_float32_matmul_precision("medium")
    entered, may_leave = threading.Event(), threading.Event()

    def hold() -> None:
        with full_precision():
            entered.set()
            may_leave.wait()

    other = threading.Thread(target=hold)
    with full_precision():
        other.start()
        entered.wait()
    assert torch.get_float32_matmul_precision() == "highest"  # the other thread is still inside
    may_leave.set()
    other.join()
    assert torch.get_float32_matmul_precision() == "medium"


# --- whether a device's products round as little as the proofs allow


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    is_covered.cache_clear()
    yield
    is_covered.cache_clear()


def to_bf16(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def to_tf32(tensor: Tensor) -> Tensor:
    """Cut the last 13 bits, which TF32 leaves out."""
    return (tensor.contiguous().view(torch.int32) & -(2**13)).view(torch.float32)


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu", "meta"])
def test_this_machine_is_covered_and_kinds_without_an_argument_are_not(kind: str) -> None:
    assert is_covered(torch.device(kind)) == (kind == "cpu")


@pytest.mark.parametrize("coarse", [to_bf16, to_tf32])
@pytest.mark.parametrize("product", ["_plain", "_linear"])
def test_a_library_that_computes_in_less_is_seen(
    product: str, coarse: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = getattr(products, product)
    if product == "_linear":
        if not products._has_linear():
            return
        monkeypatch.setattr(products, "_has_linear", lambda: True)
    monkeypatch.setattr(products, product, lambda rows, matrix: exact(coarse(rows), coarse(matrix)))
    assert not is_covered(torch.device("cpu"))


def test_what_the_process_has_set_does_not_count() -> None:
    torch.set_float32_matmul_precision("medium")
    assert is_covered(torch.device("cpu"))
