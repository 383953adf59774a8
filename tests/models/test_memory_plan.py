"""What the weights of a model need in memory, and what there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intruders.errors import NotEnoughMemoryError
from intruders.models import memory_plan
from intruders.models.loading import load_model
from intruders.models.loading_settings import Loading


def test_what_does_not_fit_is_refused_unloaded(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = sum(parameter.numel() for parameter in load_model(str(llama), "causal").parameters())
    plan = memory_plan.memory_plan(str(llama), Loading())
    assert plan.weights == numbers
    assert plan.needed == 4 * numbers + 2**28
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 3 * numbers + 2**28)
    with pytest.raises(NotEnoughMemoryError, match=r"not fit .* in float32: .*pass --dtype bfloat16"):
        load_model(str(llama), "causal")
    load_model(str(llama), "causal", loading=Loading(dtype="bfloat16"))
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 1)
    with pytest.raises(NotEnoughMemoryError, match="pass --device-map auto, or use a machine with more"):
        load_model(str(llama), "causal", loading=Loading(dtype="bfloat16"))


@pytest.mark.parametrize(
    ("limit", "taken", "stat"),
    [
        ("memory.max", "memory.current", "anon 900\ninactive_file 100"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file 100"),
    ],
)
def test_limits_of_cgroups_count(limit: str, taken: str, stat: str, tmp_path: Path) -> None:
    for name, content in {limit: "3000", taken: "1000", "memory.stat": stat}.items():
        (tmp_path / name).write_text(content)
    assert memory_plan.room_of_cgroup(tmp_path) == 2100


def test_a_limit_of_the_shell_refuses_in_one_line(llama: Path) -> None:
    """``ulimit -v`` leaves 100 MB, whatever the machine has; a short pass alone takes more."""
    code = (
        "import sys, resource, torch, psutil; from intruders.models.memory_plan import require_memory; "
        "from intruders.models.loading_settings import Loading; require_memory(sys.argv[1], Loading()); "
        "most = psutil.Process().memory_info().vms + 100 * 2**20; "
        "resource.setrlimit(resource.RLIMIT_AS, (most, most)); require_memory(sys.argv[1], Loading())"
    )
    command = [sys.executable, "-c", code, str(llama)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    last = run.stderr.splitlines()[-1]
    assert "NotEnoughMemoryError" in last
    assert "0.3 GiB of 0.1 GiB left by ulimit -v; raise ulimit -v, or use a smaller model" in last


def test_the_plan_counts_the_addresses_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a file is opened it is mapped twice, and then once."""
    numbers = 2**24
    tensors = {"weight": torch.zeros(numbers), "mask": torch.zeros(1000, dtype=torch.int64)}
    save_file(tensors, tmp_path / "a.safetensors")
    code = (
        "import sys, psutil, torch; from safetensors import safe_open; own = psutil.Process();\n"
        "def peak(): return 1024 * int(open('/proc/self/status').read().split('VmPeak:')[1].split()[0])\n"
        "before = own.memory_info(), peak(); file = safe_open(sys.argv[1], 'pt'); after = own.memory_info(), peak()\n"
        "print(after[1] - before[0].vms, after[0].vms - before[0].vms, after[0].data - before[0].data)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.safetensors")]
    taken = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    size = (tmp_path / "a.safetensors").stat().st_size
    # Beside the maps there is the parsed header, of less than a thousandth of the file.
    assert [round(int(part) / size, 2) for part in taken] == [2, 1, 1]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "dtype": "float32"}))
    room = 2 * size + 2**28
    monkeypatch.setattr(memory_plan, "_rooms_of_shell", lambda: [("ulimit -v", True, room)])
    fits = memory_plan.memory_plan(str(tmp_path), Loading(device="cpu"))
    assert fits.fits
    assert fits.needed == room
    # Half as many bytes beside the maps are less than the second map; without that they count.
    monkeypatch.setattr(memory_plan, "_rooms_of_shell", lambda: [("ulimit -d", False, 0)])
    for dtype, needed in (("float32", size), ("bfloat16", size + 2 * numbers)):
        plan = memory_plan.memory_plan(str(tmp_path), Loading(device="cpu", dtype=dtype))
        assert plan.needed == needed + 2**28
