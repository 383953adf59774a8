"""What inspect says of checkpoints, adapters and sums."""

from pathlib import Path

import pytest
import torch

from intruders.checkpoints.pairing.inspect import inspect
from intruders.errors import PairingError
from intruders.reports.inspection import inspection_lines
from tests.checkpoints.models import saved, tiny_gpt2, tiny_llama, with_lora


def adapter(folder: Path) -> Path:
    targets = ["q_proj", "down_proj"]
    settings = {"rank_pattern": {"q_proj": 3}, "modules_to_save": ["lm_head"]}
    return saved(with_lora(lora_alpha=6, target_modules=targets, **settings), folder)


def test_checkpoint(tmp_path: Path) -> None:
    (found,) = inspect(saved(tiny_gpt2(), tmp_path))
    assert (found.kind, found.format, found.input_first) == ("checkpoint", "safetensors", 8)
    assert found.parameters == sum(parameter.numel() for parameter in tiny_gpt2().parameters())
    assert found.audited == 8
    assert found.left_out["embedding (use --include-embeddings)"] == 2
    text = inspection_lines(found)
    assert "  c_attn            16 x 48  F32  2" in text
    assert "  mlp.c_proj        64 x 16  F32  2" in text
    assert "  8 weights are stored (in, out) and audited as (out, in)" in text
    assert len(inspection_lines(found, verbose=True)) > len(text)


@pytest.mark.parametrize("verbose", [False, True])
def test_a_table_fits_a_narrow_terminal(tmp_path: Path, verbose: bool) -> None:
    """A long name is cut in the middle, and what is measured of its tensor stays whole."""
    long = "model.layers.0.a_module_with_a_name_that_is_longer_than_a_terminal_is_wide_in_a_corner.weight"
    (found,) = inspect({long: torch.zeros(6, 4), "model.layers.0.short.weight": torch.zeros(6, 4)})
    _, first, second, *_ = inspection_lines(found, verbose, 60)
    assert len(first) == 60
    assert "6 x 4  float32" in first
    assert second.index("6 x 4") == first.index("6 x 4")
    assert any(
        long.rpartition(".")[0].rpartition(".")[2] in line for line in inspection_lines(found, verbose)
    )
    (of_adapter,) = inspect(adapter(tmp_path))
    assert max(map(len, inspection_lines(of_adapter, verbose, 60)[1:])) <= 60


def test_adapter_alone_and_against_its_base(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    (alone,) = inspect(folder)
    rows = {row.name: row for row in alone.rows}
    first = rows["model.layers.0.self_attn.q_proj.weight"]
    assert (first.method, first.rank, first.scale, first.shape) == ("lora", 3, 2.0, (16, 16))
    assert rows["model.layers.1.mlp.down_proj.weight"].scale == 3.0
    assert rows["lm_head.weight"].method == "saved in full"
    assert alone.audited is None
    assert alone.parameters == 2 * 3 * 32 + 2 * 2 * 40 + 40 * 16
    (against,) = inspect(folder, tiny_llama())
    assert against.audited == 4
    assert against.left_out == {
        "unchanged": 10,
        "one-dimensional": 5,
        "embedding (use --include-embeddings)": 2,
    }
    assert any("4 matrices to audit" in line for line in inspection_lines(against))
    with pytest.raises(PairingError):
        inspect(folder, tiny_gpt2())


def test_sum(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    found = inspect(f"{folder}@0.5+{folder}@0.25")
    assert [part.weight for part in found] == [0.5, 0.25]
    assert "  counted 0.5 times in the sum" in inspection_lines(found[0])


def test_names_cannot_move_the_cursor() -> None:
    (found,) = inspect({"a\x1b[2Jb.weight": torch.zeros(2, 2)})
    assert not any("\x1b" in line for line in inspection_lines(found, verbose=True) + inspection_lines(found))
