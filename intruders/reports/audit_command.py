"""The command that makes an audit again."""

import re
import shlex
from collections.abc import Sequence
from functools import partial

from ..audits.audit_settings import AuditSettings
from ..audits.result.audit_result import Audit
from ..checkpoints.opening.model_sum import each_part
from ..checkpoints.stored.locate import HubOrigin, split_revision
from ..system.commands import changed_options, command_of, options_of

# How models that Python had in memory are named: "LlamaForCausalLM (HuggingFaceTB/SmolLM2-135M), adapter 'default'".
_IN_MEMORY = re.compile(r"state dict of .*|\w+ \(.*\)|.*, adapter '.*'")
# In the order in which the line names those that are changed, after k and epsilon, which it always names.
_NAMED = ("include", "exclude", "include_embeddings", "split_fused", "skip_non_finite", "base_dtype", "exact")


def audit_command(audit: Audit) -> str | None:
    """Return a shell line with the audit's own settings; None for models from Python, not from files."""
    if not is_from_files(audit):
        return None
    base = each_part(audit.base_source, partial(_at_its_commit, hub=audit.base_hub))
    tuned = each_part(audit.tuned_source, partial(_at_its_commit, hub=audit.tuned_hub))
    return shlex.join([*command_of("audit", base, tuned), *options_of_audit(AuditSettings.of(audit))])


def options_of_audit(settings: AuditSettings) -> list[str]:
    """Return the options of an audit with these settings: k and epsilon, and others that differ from the defaults."""
    named = options_of({"k": settings.k, "epsilon": settings.epsilon})
    return [*named, *changed_options(settings, _NAMED)]


def _at_its_commit(source: str, hub: Sequence[HubOrigin]) -> str:
    """Return a Hub id with the commit that was audited: tomorrow the branch may name another model."""
    asked = split_revision(source)
    if asked is None:
        return source
    of_it = [origin for origin in hub if origin.repository == asked[0]]
    # Of two revisions of one repository in a sum, the one that was asked for.
    of_it = of_it if len(of_it) == 1 else [origin for origin in of_it if origin.revision == asked[1]]
    return f"{of_it[0].repository}@{of_it[0].commit}" if len(of_it) == 1 else source


def is_from_files(audit: Audit) -> bool:
    """Return whether a command can name the audit's models: not those that Python had in memory."""
    sources = (audit.base_source, audit.tuned_source)
    return audit.tuned_kind in ("adapter", "checkpoint", "stack") and not any(
        _IN_MEMORY.fullmatch(source) for source in sources
    )
