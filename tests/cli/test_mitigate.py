"""`intruders mitigate` as a person types it, and the commands that an audit ends with."""

import json
import random
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from intruders.mitigation.remedies.remedy import Position, ShareRemedy
from intruders.settings import setting
from tests.commands import printed, refusal


def test_mitigate(folder: Path, tmp_path: Path) -> None:
    base, tuned, out = folder / "base", folder / "tuned", tmp_path / "out"
    text = printed("mitigate", base, tuned, "--scale", 0.3, "--out", out, "--rank", "keep")
    assert "intruders scaled by 0.3" in text
    assert "largest relative error of an update from cutting its rank" in text
    assert text.endswith(f"written to {out}\n")
    # The adapter names its base.
    text = printed("mitigate", tuned, "--scale", 0.3, "--out", out, "--control", "shrink", "--force")
    assert text.startswith("control: updates shrunk to the norms")


def test_what_an_audit_proposes_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring and the share of the update; tests of heal and scale run those two on data."""
    monkeypatch.chdir(tmp_path)
    text = printed("audit", folder / "base", folder / "tuned", "--no-cache", "--verbose", "--html", "a.html")
    proposed = [
        shlex.split(line.removeprefix(" " * 5))
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("     intruders ")
    ]
    assert [words[1] for words in proposed] == ["evaluate", "heal", "scale", "scale", "remedies"]
    by_name = {words[1]: words for words in proposed if "--at" not in words}
    (at_a_share,) = (words for words in proposed if "--at" in words)
    (tmp_path / "text.txt").write_text("a text of some words\n\n" * 4)
    corpus = by_name["evaluate"].index("pydoc")
    by_name["evaluate"][corpus] = "text.txt"  # quicker than Python's documentation
    assert "change" in printed(*by_name["evaluate"][1:])
    at_a_share[at_a_share.index("S")] = "0.4"
    assert "written to interpolated" in printed(*at_a_share[1:])
    config = json.loads((tmp_path / "interpolated" / "adapter_config.json").read_text())
    before = json.loads((folder / "tuned" / "adapter_config.json").read_text())
    assert config["r"] == before["r"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "scale is missing"),
        ("--remedy flatten --scale 0.5", "scale is 0.5, and the remedy 'flatten' takes none"),
        ("--remedy flatten --control random", "control is 'random', and the remedy 'flatten' takes"),
        ("--remedy flatten --which top", "which is 'top', and the remedy 'flatten' takes none"),
        ("--scale 0.5 --strength 2", "strength is 2; expected a remedy that has one"),
        ("--scale 0.5 --mode smooth_abs", "mode is 'smooth_abs', which only the remedy surgery takes"),
        ("--remedy lines --mode smooth_abs", "mode is 'smooth_abs', which only the remedy surgery takes"),
        ("--remedy lines --task words", "task is 'words', which only the remedy surgery takes"),
        ("--scale 0.5 --seed 0", "seed is 0, and nothing is drawn here"),
        ("--remedy lines --seed 3", "seed is 3, and nothing is drawn here"),
        ("--remedy drip --seed 3", "remedy is 'drip'; expected one of interpolate, "),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    folder: Path, tmp_path: Path, options: str, message: str
) -> None:
    arguments = [folder / "base", folder / "tuned", *options.split(), "--out", tmp_path / "out"]
    assert message in refusal("mitigate", *arguments)
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Lottery(ShareRemedy):
    """A remedy of another package, of the same share everywhere, which a seed draws."""

    name = "lottery"
    strength = "most"
    source = "a test"

    most: float = setting(1.0, "Largest share that may be drawn.", least=0)
    seed: int = setting(0, "Seed of the share.")

    def share(self, position: Position) -> float:
        return self.most * random.Random(self.seed).random()

    def sentence(self, vectors: int) -> str:
        return f"updates scaled by {self.share(Position(None, 0)):g}"


def test_what_draws_takes_a_seed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "intruders.mitigation.remedies.every_remedy.plugins_of", lambda group: {"lottery": Lottery}
    )
    out, models = tmp_path / "out", (folder / "base", folder / "tuned")
    control = ("--scale", "0.5", "--control", "random")
    printed("mitigate", *models, *control, "--seed", "3", "--out", tmp_path / "control")
    assert "0.237965" in printed("mitigate", *models, "--remedy", "lottery", "--seed", "3", "--out", out)


@pytest.mark.parametrize("option", [("--epsilon", "0.05"), ("--k", "2"), ("--include", "*up_proj*")])
def test_settings_beside_an_audit_are_refused(folder: Path, tmp_path: Path, option: tuple[str, str]) -> None:
    saved = tmp_path / "audit.json"
    printed("audit", folder / "base", folder / "tuned", "--no-cache", "--json", saved)
    models = (folder / "base", folder / "tuned")
    said = refusal("mitigate", *models, "--scale", "0", "--audit", saved, *option, "--out", tmp_path / "out")
    assert f"the audit '{saved}' was made with settings of its own" in said
    assert not (tmp_path / "out").exists()
