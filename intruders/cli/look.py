"""``intruders inspect`` and ``intruders verify``: what weights are, and what a merged model contains."""

import typer

from ..errors import SettingError
from ..system.this_process import ExitStatus
from . import options
from .from_verb import argument, command, flag, option
from .output import Outputs, put_json, refuse_given, say, terminal_width


@command(
    argument("path", str, f"A model or adapter: {options.MODEL_IS}, or a sum such as A@0.7+B@0.3."),
    argument("other", str | None, "A second adapter, to compare the updates of both. [default: none]", None),
    option(
        "base",
        str | None,
        "Base model of the audit: adds the matrices to examine. [default: none]",
        metavar="MODEL",
    ),
    option(
        "energy",
        float,
        "Share of the squared singular values of an adapter's update that the shown ranks and subspaces keep, above 0 "
        "and at most 1.",
        0.99,
        metavar="SHARE",
    ),
    option(
        "runtime",
        str | None,
        "Show instead what vllm, sglang, llama.cpp or transformers applies of an adapter on --base; status 1 if "
        "not all. [default: none]",
        metavar="RUNTIME",
        names=["--for"],
    ),
    flag("json", "Print JSON, and nothing else.", panel=options.OUTPUT),
    options.verbose_of("tensor"),
)
def inspect(
    *,
    path: str,
    other: str | None,
    base: str | None,
    energy: float,
    runtime: str | None,
    json: bool,
    verbose: bool,
) -> None:
    """Show what a model or adapter path contains.

    Lists format, tensors and the matrices that an audit would examine. Of an adapter it measures the update without
    the base. Of two adapters it compares the updates.

    Examples:
      # Show the format of an adapter and its ranks in use
      intruders inspect my-adapter
      # Compare the updates of two adapters
      intruders inspect first-adapter second-adapter
    """
    from ..audits.update_alone import check_energy, compare_updates, update_of
    from ..checkpoints.adapters.adapter import Adapter
    from ..checkpoints.pairing.inspect import inspect_parts, open_parts
    from ..checkpoints.pairing.served import served_by
    from ..reports.inspection import inspection_lines, overlap_lines, served_lines, update_lines

    check_energy(energy)
    to = Outputs(json="-" if json else None)
    file = next((given for given in (path, other) if given is not None and given.endswith(".json")), None)
    if json and file is not None:
        raise SettingError(
            f"'{file}' was passed with --json, which takes no file here; expected an adapter or model; leave it out, "
            f"and write > {file} at the end of the command"
        )
    if other is not None:
        for name, given in (("--base", base), ("--for", runtime)):
            if given is not None:
                raise SettingError(
                    f"{name} '{given}' was passed with two adapters; expected one of the two; omit {name}"
                )
        overlap = compare_updates(path, other, energy)
        to.put(overlap, lambda overlap, _: say(overlap_lines(overlap, verbose)))
        return
    parts = open_parts(path)
    if runtime is not None:
        served = served_by(runtime, parts, base)
        to.put(served, lambda served, _: say(served_lines(served, verbose)))
        raise typer.Exit(ExitStatus.DONE if served.in_full else ExitStatus.FAILED)
    inspections = inspect_parts(parts, base)
    updates = [update_of(part, energy) if isinstance(part, Adapter) else None for part, _ in parts]
    both = list(zip(inspections, updates, strict=True))
    documents = [told.to_document() | {"update": update and update.to_document()} for told, update in both]
    if put_json(documents, to.json):
        return
    for inspection, update in both:
        say(inspection_lines(inspection, verbose, terminal_width()))
        if update is not None:
            say(update_lines(update, verbose))


@command(
    argument("base", str, f"Model before the merge: {options.MODEL_IS}."),
    argument(
        "adapter",
        str,
        "Adapter that was merged or is served: a folder, a file, a Hub id; of a merge also a sum: A@0.7+B@0.3.",
    ),
    argument(
        "merged",
        str | None,
        "Model that should contain the adapter: as BASE. [required without --endpoint]",
        None,
    ),
    option(
        "endpoint",
        str | None,
        "Address of an OpenAI-compatible server that should apply the adapter, in the place of MERGED. A key is read "
        "from OPENAI_API_KEY. [default: none]",
        metavar="URL",
    ),
    option(
        "model",
        str | None,
        "Name of the adapter on the server of --endpoint. [default: none]",
        metavar="NAME",
    ),
    flag("split_fused", "Check the q, k and v parts of fused weights as separate matrices."),
    flag("allow_other", "Accept a merged model that also changed tensors outside the adapter."),
    options.outputs(options.JSON, options.SARIF),
    options.verbose_of("matrix and every other tensor"),
)
def verify(
    *,
    base: str,
    adapter: str,
    merged: str | None,
    endpoint: str | None,
    model: str | None,
    split_fused: bool,
    allow_other: bool,
    to: Outputs,
    verbose: bool,
) -> None:
    """Check that a merged model or a server applies an adapter.

    Exits with status 0 if the adapter is applied, 1 if something is wrong, 2 if a model or a server cannot be read,
    and 3 if rounding or quantization hides the answer.

    Examples:
      # Check that a merged model contains its adapter
      intruders verify smollm2-135m my-adapter merged-model
      # Check that a server applies an adapter
      intruders verify base-model my-adapter --endpoint http://localhost:8000 --model my-adapter
    """
    if endpoint is not None and model is not None and merged is None:
        from ..measures.verify_served import verify_served
        from ..reports.verification import served_lines

        given = {"split_fused": split_fused or None, "allow_other": allow_other or None, "sarif": to.sarif}
        refuse_given(given, "is for a merged model", "pass MERGED without --endpoint, or leave it out")
        with to.work() as progress:
            told = verify_served(base, adapter, endpoint=endpoint, model=model, progress=progress)
        to.put(told, lambda told, _: say(served_lines(told)))
        raise typer.Exit(told.exit_status())
    if merged is None or endpoint is not None or model is not None:
        raise SettingError(
            f"merged is {merged!r} and model is {model!r}; expected MERGED alone, or --endpoint with --model; pass one "
            "of the two"
        )
    from ..checkpoints.merges.verify import verify as run
    from ..reports.terminal import Page
    from ..reports.verification import print_verification

    with to.work(source=merged) as progress:
        result = run(base, adapter, merged, split_fused=split_fused, progress=progress)
    if to.sarif is not None:
        from ..reports.sarif import verification_findings, write_sarif

        write_sarif(verification_findings(result, allow_other), to.sarif)
    if not put_json(result.to_document(allow_other), to.json):
        print_verification(result, Page(), verbose=verbose, allow_other=allow_other)
    raise typer.Exit(result.exit_status(allow_other))
