"""argv -> command. Turns RagFtError into one line. Imports nothing heavy."""

from __future__ import annotations

import argparse
import atexit
import difflib
import errno
import gc
import importlib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from rag_ft.errors import NotGoodEnoughError, RagFtError
from rag_ft.options.review import add_review_commands
from rag_ft.options.shipping import add_bundle, add_demo, add_overrides, add_require, finish
from rag_ft.options.versions import add_version_commands
from rag_ft.stage_table import NAMES, STAGES
from rag_ft.terminal import SafeFormatter, note
from rag_ft.version import __version__

# What the machine refuses and the user can repair. Any other OSError is a defect of rag_ft.
SYSTEM_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
SYSTEM_ERRORS |= {errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}
FORCE_HELP = "run it again even if it is up to date; replies of a language model are reused"
RETRY_HELP = "ask again only for the pairs that were rejected because of errors of the server"
UPDATE_HELP = "take documents that were added, changed or removed; the rest stays as it is"
COMPACT_HELP = "as --update, and write the index without deleted vectors, as one segment"
SHARDED = {"ingest", "index", "generate", "train_retriever", "train_reranker", "evaluate"}
SHARD_HELP = "only do the buckets of one part of N (I from 0); merge-shards writes the result"
DROP_HELP = "with --force: also delete the replies, so that the language model is asked again"

# Before it ends Python would look for garbage among all objects of torch: 2 to 3 s of any command.
atexit.register(gc.freeze)


def main(argv: list[str] | None = None) -> int:
    """Entry point of `rag-ft`.

    Returns:
        The exit code: 0 done, 1 an error that the user can fix, 130 interrupted. argparse exits
        with 2 for a wrong command line. 3: measured and not good enough.
    """
    args = parse_arguments(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if args.debug else logging.WARNING, handlers=[handler])
    if not args.debug:
        _quieten_libraries(handler)
    try:
        # Commands are imported when they are called: most load numpy, and some load torch.
        module, function = args.function.rsplit(".", 1)
        getattr(importlib.import_module(f"rag_ft.commands.{module}"), function)(args)
        return 0
    except NotGoodEnoughError as error:
        note(f"rag-ft: not good enough: {error}")
        return 3
    except RagFtError as error:
        if args.debug:
            raise
        note(f"rag-ft: error: {' '.join(str(error).split())}")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if args.debug or error.errno not in SYSTEM_ERRORS:
            raise
        note(
            f"rag-ft: error: {error.filename or 'a file'}: {error.strerror}; repair that and run "
            "the same command again to continue"
        )
        return 1
    except Exception as error:  # what another library says of the machine has no type of its own
        told = machine_error(error)
        if args.debug or told is None:
            raise
        note(f"rag-ft: error: {told}")
        return 1
    except KeyboardInterrupt:
        forced = getattr(args, "force", False)
        again = "the command without --force" if forced else "the same command again"
        note(f"\nrag-ft: interrupted; run {again} to continue")
        return 130


def _quieten_libraries(handler: logging.Handler) -> None:
    """Libraries warn of what the user cannot change; only our own warnings are shown, and errors.
    Whoever sets PYTHONWARNINGS or TRANSFORMERS_VERBOSITY is obeyed."""
    handler.addFilter(
        lambda record: record.name.startswith("rag_ft") or record.levelno >= logging.ERROR
    )
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def machine_error(error: BaseException) -> str | None:
    """A line for a full disk or full memory that another library reports in words of its own; None
    for any other error."""
    text = " ".join(str(error).split())
    no_memory = r"out of memory|(?i:can(?:'t|not) allocate memory)|failed to map segment"
    if isinstance(error, MemoryError) or re.search(no_memory, text):
        return (
            f"out of memory ({text[:200] or type(error).__name__}): end other programs, or lower "
            "batch sizes and settings in tokens; run the same command again to continue"
        )
    no_disk = r"No space left on device|Disk quota exceeded|File too large|os error (?:27|28|122)\b"
    if re.search(no_disk, text):
        return f"{text[:300]}; free some space and run the same command again to continue"
    return None


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments as argparse reads them, with overrides anywhere: argparse itself takes none
    after a flag."""
    parser = make_parser()
    args, left = parser.parse_known_args(argv)
    unknown = [word for word in left if word.startswith("-") or "=" not in word]
    if left and not hasattr(args, "overrides"):
        unknown = left
    if unknown:
        words = " ".join(unknown)
        parser.error(f"{args.command} has no argument {words}: see rag-ft {args.command} --help")
    if getattr(args, "drop_replies", False) and not args.force:
        parser.error("--drop-replies needs --force: it deletes hours of a language model's work")
    if (getattr(args, "strict", False) or getattr(args, "junit", None)) and not args.require:
        parser.error("--strict and --junit need --require")
    if left:
        args.overrides = [*args.overrides, *left]
    return args


class _Parser(argparse.ArgumentParser):
    """argparse's parser; of a wrong choice it names the nearest one instead of all."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        close = difflib.get_close_matches(str(value), list(action.choices or ()), n=1)
        if close and value != close[0]:
            raise argparse.ArgumentError(action, f"no '{value}': did you mean {close[0]}?")
        super()._check_value(action, value)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `rag-ft`; docs/cli.md is made of it."""
    parser = _Parser(
        prog="rag-ft",
        description="From raw documents to a measurably better local question-answering system.",
    )
    parser.add_argument("--version", action="version", version=f"rag-ft {__version__}")
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", dest="command"
    )

    # Stages.
    for stage in STAGES:
        command = _add(commands, stage.name, stage.does, "run.stage_command")
        _add_force(command)
        if stage.grows:
            command.add_argument("--update", action="store_true", help=UPDATE_HELP)
        if stage.name in SHARDED:
            command.add_argument("--shard", metavar="I/N", help=SHARD_HELP)
        if stage.name == "index":
            command.add_argument("--compact", action="store_true", help=COMPACT_HELP)
        if stage.name == "generate":
            command.add_argument("--retry-rejected", action="store_true", help=RETRY_HELP)
        if stage.name == "evaluate":
            add_require(command)
    run = _add(
        commands, "run", "all stages in order; those up to date are skipped", "run.run_command"
    )
    _add_force(run)
    run.add_argument("--until", metavar="STAGE", choices=NAMES, help="stop after this stage")
    merge = "write the results of stages that ran with --shard from their buckets"
    _add(commands, "merge-shards", merge, "run.merge_shards_command")
    _add(commands, "status", "which stages are done, stale or missing", "run.status_command")

    _add_questions(commands)
    _add_tools(commands)
    return parser


def _add_questions(commands: Any) -> None:
    """Adds the commands that answer questions, and the one that explains a ranking."""
    ask = _add(
        commands, "ask", "answer one question with cited chunks", "ask.ask_command", overrides=False
    )
    ask.add_argument("question", help="the question, quoted")
    add_overrides(ask)
    ask.add_argument("--base", action="store_true", help="with the base models, not the tuned ones")
    ask.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="answer only from documents whose metadata, id or source has this value: "
        "field=value, field=a,b (one of them) or 'field=begins*'; repeat it for more fields",
    )

    serve = commands.add_parser(
        "serve",
        help="an OpenAI-compatible server with citations, and a chat page",
        description="an OpenAI-compatible server with citations, and a chat page",
    )
    serve.add_argument(
        "configs",
        nargs="+",
        metavar="CONFIG",
        help="YAML files or bundles, each a collection with model ids of its own; also "
        "section.key=value",
    )
    serve.set_defaults(overrides=[])
    serve.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="default 8000; 0: any free one")
    serve.add_argument("--base", action="store_true", help="serve base components only")
    serve.add_argument(
        "--insecure",
        action="store_true",
        help="listen on the network without a key (RAG_FT_API_KEY): everybody can ask",
    )
    finish(serve, "serve.serve_command")

    add_review_commands(commands, _add)
    text = "for one question, rank and score of each chunk shown in every ranking"
    explain = _add(commands, "explain", text, "explain.explain_command", overrides=False)
    explain.add_argument("question", help="the question, quoted")
    add_overrides(explain)


def _add_tools(commands: Any) -> None:
    """Adds the commands beside stages and questions."""
    # Data.
    export = _add(
        commands,
        "export",
        "write pairs or the index for another tool: to train, to review, to search",
        "export.export_command",
    )
    export.add_argument(
        "--format",
        required=True,
        help="openai, gemini, sharegpt, alpaca, trl, beir or squad; for review label-studio, "
        "argilla, csv or xlsx; the index as parquet, qdrant, elasticsearch or opensearch",
    )
    export.add_argument(
        "--to", required=True, help="a path, or any fsspec address (s3://, gs://, hf://)"
    )
    export.add_argument(
        "--with-context", action="store_true", help="with the retrieved chunks in the prompt"
    )
    preview = _add(
        commands,
        "preview",
        "show training examples of the generator, or documents as blocks and chunks",
        "preview.preview_command",
    )
    preview.add_argument(
        "--documents",
        metavar="TEXT",
        nargs="?",
        const="",
        help="show documents whose path contains TEXT instead, as they are read and split",
    )
    preview.add_argument("--num", type=int, default=10, help="how many (default 10)")
    merge = _add(
        commands,
        "merge",
        "merge the tuned adapter into its base model, as safetensors",
        "merge.merge_command",
    )
    merge.add_argument("--to", type=Path, required=True, help="the folder to write")

    add_bundle(commands)
    add_demo(commands)
    _add_comparisons(commands)
    add_version_commands(commands)
    env = commands.add_parser(
        "env",
        help="versions and hardware, for an issue report",
        description="versions and hardware, for an issue report",
    )
    finish(env, "env.env_command")


def _add_comparisons(commands: Any) -> None:
    """Adds the commands that plan and compare."""
    plan = _add(
        commands,
        "plan",
        "estimate tokens, steps, memory, disk and hours before anything is run",
        "plan.plan_command",
    )
    plan.add_argument(
        "--corpus", metavar="SIZE", help="plan for so much text (10TB) in place of the sources"
    )
    plan.add_argument(
        "--gpus", metavar="NUMBERxNAME", default="8xH100", help="with --corpus (default 8xH100)"
    )
    plan.add_argument(
        "--price", type=float, default=0, help="with --corpus: price of a GPU hour, for costs"
    )
    sweep = _add(
        commands,
        "sweep",
        "measure combinations of settings on dev questions: section.key=value,value ...",
        "sweep.sweep_command",
    )
    sweep.add_argument(
        "--questions", type=int, default=100, help="at most this many questions (default 100)"
    )
    sweep.add_argument(
        "--to", type=Path, help="the file for the best combination (default CONFIG.best.yaml)"
    )
    compare = commands.add_parser(
        "compare",
        help="compare runs on the same questions, with intervals",
        description="compare runs on the same questions, with intervals",
    )
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first is the base"
    )
    compare.add_argument("--to", type=Path, default=Path("compare.html"), help="the page to write")
    finish(compare, "compare.compare_command")


def _add(
    commands: Any, name: str, text: str, function: str, overrides: bool = True
) -> argparse.ArgumentParser:
    """Adds a command that takes a configuration file."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument(
        "config", type=Path, metavar="CONFIG", help="a YAML file, such as configs/demo.yaml"
    )
    if overrides:
        add_overrides(command)
    return finish(command, function)


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help=FORCE_HELP)
    command.add_argument("--drop-replies", action="store_true", help=DROP_HELP)
