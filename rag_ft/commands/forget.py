"""`rag-ft forget`: removes a document from all versions of a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rag_ft.errors import ConfigError
from rag_ft.forgetting.forget import Forgetting, forget, locked_versions, survey, unfinished
from rag_ft.report.rendering import aligned
from rag_ft.terminal import note, say


def forget_command(args: argparse.Namespace) -> None:
    """`rag-ft forget`.

    Raises:
        ConfigError: no version knows the document, or nobody confirms.
    """
    with locked_versions(args.run) as run_dirs:
        begun = unfinished(args.run).get("document")
        if begun and begun != args.document and not args.dry_run:
            note(f"[forget] continues with {begun}, which a killed call had begun")
            forget(survey(run_dirs, begun))
        work = survey(run_dirs, args.document)
        say("\n".join(described(work)))
        if args.dry_run:
            return
        if not args.yes and not work.continues:
            confirm(args.document)
        forget(work)
    say(f"{args.document} is forgotten. {next_step(args.run, work)}")


def described(work: Forgetting) -> list[str]:
    """What goes, what learnt from the document, and what is out of reach."""
    rows = [["version", "file", "lines that go", "of"]]
    for version, files in work.lines.items():
        rows += [[version, file, str(gone), str(number)] for file, (gone, number) in files.items()]
    text = [*aligned(rows), "Its vectors go too, and report.html and report.md."]
    for version, components in work.trained.items():
        if components:
            text.append(f"{version}: its tuned {' and '.join(components)} learnt from it.")
    text += [f"Not reached, delete it yourself: {place}" for place in work.copies]
    return text


def confirm(document: str) -> None:
    """Raises ConfigError unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise ConfigError("forgetting cannot be undone: add --yes, or --dry-run to only look")
    note(f"Forget {document} for good? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was changed")


def next_step(run: Path, work: Forgetting) -> str:
    """What the user does now."""
    if not any(work.trained.values()):
        return "No tuned component learnt from it."
    return (
        f"`rag-ft improve {run}` makes a version that did not learn from it; until then, "
        "`rag-ft serve --base` serves without what did."
    )
