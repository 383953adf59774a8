"""A claim of another package."""

import os
import subprocess
import sys

import pytest

from tests.research.parsed import parsed
from tests.studies.planted import run, study
from tests.system.test_plugins import example, installed

__all__ = ["example", "installed"]


def test_a_claim_is_analyzed_if_a_study_names_it(example: None) -> None:
    from intruders.errors import SettingError
    from intruders_research.claim_names import check_analyses
    from intruders_research.claims.every_claim import analyse_all

    [finding] = analyse_all(study(runs=[run("one"), run("two", status="failed")]), ["no-run-failed"])
    assert finding.verdict == "Contradicted: 1 of 2 runs finished"
    [finding] = analyse_all(study(), ["no-run-failed"])
    assert (finding.decision, finding.verdict) == (
        "not run",
        "Not run: this needs a study with at least one run",
    )
    with pytest.raises(SettingError, match="did you mean 'no-run-failed'"):
        check_analyses(["no-runs-failed"])
    experiments = {"one": {"base": "b", "task": "word-problems", "steps": 1}}
    asked = parsed({"analyses": ["no-run-failed"], "experiments": experiments})
    assert asked.analyses == ("no-run-failed",)


def test_an_audit_imports_no_plugin_of_another_group() -> None:
    """Methods and studies of research import transformers, which takes seconds and hundreds of megabytes."""
    asked = "import sys, torch, intruders; weights = {'up.weight': torch.eye(4)}; intruders.audit(weights, weights)"
    shown = "print(sorted({'peft', 'transformers', 'pandas', 'intruders_research'} & set(sys.modules)))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{asked}; from intruders.system.plugins import plugins_of; plugins_of('formats'); {shown}",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "INTRUDERS_PLUGINS": "1"},
    )
    assert done.stdout.splitlines()[-1] == "[]"
