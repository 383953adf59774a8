"""Write reports from saved results, as `intruders report` does."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..audits.result.audit_result import Audit
from ..audits.scales.critical_scales_result import scales_beside, scales_for
from ..charts.drawing import write_drawings
from ..checkpoints.stored.names import natural_order
from ..data.task import names_given
from ..errors import ResultFileError, SettingError
from ..experiments.healing import RECORD as HEALING
from ..studies.study_folder import StudyFolder
from ..system.files import user_path, write_atomically
from .audit import audit_figures, render_audit
from .compare_audits import common_matrices, comparison_figures, labels_for, render_comparison
from .html_page import check_can_write_html
from .study import write_study_report

AUDIT_NAMES = ("audit.json", "audit.parquet")
AnyPath = str | os.PathLike[str]


def write_report(
    paths: AnyPath | Sequence[AnyPath],
    out: AnyPath | None = None,
    figures: AnyPath | None = None,
    scale: AnyPath | None = None,
) -> list[Path]:
    """Write an HTML report, figures or both from saved results.

    The folder of a study gets the report of the study. One audit gets a report of its own; several audits are compared.

    Args:
      paths: The folder of one study; or one or several saved audits (.json or .parquet), or folders that contain
        audit.json or audit.parquet.
      out: Path of the HTML report (default: report.html in the folder of a study; none for audits).
      figures: Folder for the figures as PNG, SVG and CSV (default: no figures).
      scale: File of critical scales to show with one audit (default: scale.json next to the audit, if it is of the same
        update and settings).

    Returns:
      The paths of the written files.

    Raises:
      SettingError: neither ``out`` nor ``figures`` is given for audits, or the paths and options do not go together.
      ResultFileError: a file cannot be read or written.
      MissingDependencyError: a package of the extra ``report`` is missing.

    Examples:
      >>> import tempfile
      >>> import torch
      >>> from intruders import audit
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> result = audit(base, {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}, cache=False)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     result.save(f"{folder}/audit.json")
      ...     [page] = write_report([f"{folder}/audit.json"], f"{folder}/report.html")
      ...     page.name, "1 intruder" in page.read_text()
      ('report.html', True)
    """
    paths = names_given(paths)
    study = study_among(paths, scale)
    if study is not None:
        return write_study_report(study, out, figures)
    if out is None and figures is None:
        raise SettingError(
            "nothing to write; pass --out FILE for the HTML report, --png DIR for figures, or both"
        )
    if out is not None:
        check_can_write_html(out)
    files = [file for path in paths for file in audit_files(user_path(path))]
    audits = [Audit.load(file) for file in files]
    side_by_side = len(audits) > 1
    if side_by_side and scale is not None:
        raise SettingError(f"--scale '{scale}' is shown with one audit, and {len(audits)} were given")
    scales = None
    if scale is not None:
        scales = scales_for(audits[0], scale)
    elif not side_by_side:
        scales = scales_beside(audits[0], files[0].parent)
    written = []
    if out is not None:
        written.append(user_path(out))
        page = render_comparison(audits) if side_by_side else render_audit(audits[0], scales)
        write_atomically(written[0], page.encode())
    if figures is not None:
        drawn = comparison_figures(common_matrices(audits), labels_for(audits)) if side_by_side else None
        drawn = drawn or audit_figures(audits[0], scales)
        written += write_drawings(drawn, figures)
    return written


def study_among(paths: Sequence[AnyPath], scale: AnyPath | None) -> AnyPath | None:
    """Return the path that is the folder of a study; None if none is. SettingError unless it is alone."""
    studies = [path for path in paths if StudyFolder(user_path(path)).is_study]
    if studies and (len(paths) > 1 or scale is not None):
        raise SettingError(
            f"'{studies[0]}' is a study and has a report of its own; pass it alone, without --scale"
        )
    return studies[0] if studies else None


def audit_files(path: Path) -> list[Path]:
    """Return the files of saved audits at ``path``: the file itself, a folder's own audit, or its subfolders'."""
    if not path.exists():
        raise ResultFileError(f"'{path}' does not exist; pass an audit that `intruders audit --json` wrote")
    if not path.is_dir():
        return [path]
    inner = (entry for entry in path.iterdir() if entry.is_dir())
    # The charts show the audits of a training in this order, so it is that of the steps.
    for folders in ([path], sorted(inner, key=lambda entry: natural_order(entry.name))):
        candidates = [next((f / name for name in AUDIT_NAMES if (f / name).is_file()), None) for f in folders]
        if files := [file for file in candidates if file is not None]:
            return files
    if (path / HEALING).is_file():
        raise ResultFileError(
            f"'{path}' is the folder of a healing; expected a study or saved audits; for the page of a healing, run "
            "its `intruders heal` again with --html FILE, which heals nothing again"
        )
    is_run = (path / "run.json").is_file()  # which `intruders finetune` made
    hint = f"; make one: intruders audit BASE {path} --json {path}/audit.json" if is_run else ""
    raise ResultFileError(
        f"the folder '{path}' has no {' or '.join(AUDIT_NAMES)}, and neither have its subfolders{hint}"
    )
