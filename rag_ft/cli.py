"""argv -> configuration -> stage. Turns RagFtError into one line. Imports nothing heavy."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_ft.errors import RagFtError
from rag_ft.pipeline import STAGES
from rag_ft.run_dir import RunDir
from rag_ft.version import __version__

if TYPE_CHECKING:
    from rag_ft.config import Config

# What the machine does not let us do, and the user can mend; any other OSError is ours.
SYSTEM_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}
FORCE_HELP = "replace what was made before; a language model's replies are kept and used again"
DROP_HELP = (
    "with --force: also delete the language model's replies, so that it is asked everything again"
)
STAGE_HELP = {stage.name: stage.does for stage in STAGES}


def main(argv: list[str] | None = None) -> int:
    """Entry point of `rag-ft`. Returns the exit code: 0 done, 1 something the user can fix, 130 interrupted; argparse
    exits with 2 for a wrong command line. 3 is kept for results that are measured and not good enough."""
    args = _arguments(argv)
    logging.basicConfig(
        level=logging.INFO if args.debug else logging.WARNING, format="%(levelname)s %(message)s"
    )
    try:
        args.command(args)
        return 0
    except RagFtError as error:
        if args.debug:
            raise
        print(f"rag-ft: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if args.debug or error.errno not in SYSTEM_ERRORS:
            raise
        print(f"rag-ft: error: {error.filename or 'a file'}: {error.strerror}; run the same command again to continue "
              "once that is mended", file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        again = (
            "the command without --force"
            if getattr(args, "force", False)
            else "the same command again"
        )
        print(f"\nrag-ft: interrupted; run {again} to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """As argparse reads them, with overrides anywhere: it takes none after a flag."""
    parser = _parser()
    args, left = parser.parse_known_args(argv)
    strange = [
        word
        for word in left
        if word.startswith("-") or "=" not in word or not hasattr(args, "overrides")
    ]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if getattr(args, "drop_replies", False) and not args.force:
        parser.error(
            "--drop-replies needs --force: it deletes what a language model was asked for hours"
        )
    if left:
        args.overrides = [*args.overrides, *left]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rag-ft",
        description="From raw documents to a measurably better local question-answering system.",
    )
    parser.add_argument("--version", action="version", version=f"rag-ft {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in STAGE_HELP.items():
        stage = _command(commands, name, text, partial(_stage, name=name))
        _add_force(stage)
    run = _command(commands, "run", "all stages in order; those up to date are skipped", _run)
    _add_force(run)
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    _command(commands, "status", "which stages are done, stale or missing", _status)
    ask = _command(commands, "ask", "answer one question with cited chunks", _ask, overrides=False)
    ask.add_argument("question", help="the question, quoted")
    ask.add_argument("overrides", nargs="*", metavar="section.key=value", help="change a setting")
    ask.add_argument("--base", action="store_true", help="with the base models, not the tuned ones")
    _add_tools(commands)
    return parser


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help=FORCE_HELP)
    command.add_argument("--drop-replies", action="store_true", help=DROP_HELP)


def _add_tools(commands: Any) -> None:
    export = _command(
        commands, "export", "write the pairs as training data for another tool", _export
    )
    export.add_argument(
        "--format", required=True, help="openai, gemini, sharegpt, alpaca, trl, beir or squad"
    )
    export.add_argument(
        "--to", required=True, help="a path, or any fsspec address (s3://, gs://, hf://)"
    )
    export.add_argument(
        "--with-context", action="store_true", help="with the retrieved chunks in the prompt"
    )
    preview = _command(
        commands, "preview", "show generator training examples, the trained part marked", _preview
    )
    preview.add_argument("--num", type=int, default=10, help="how many (default 10)")
    _command(
        commands, "plan", "tokens, steps, memory, disk and hours before anything is run", _plan
    )
    merge = _command(commands, "merge", "merge the tuned adapter into plain safetensors", _merge)
    merge.add_argument("--to", type=Path, required=True, help="the folder to write")
    compare = commands.add_parser("compare", help="the same questions across runs, with intervals")
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders, the first is the base"
    )
    compare.add_argument("--to", type=Path, default=Path("compare.html"), help="the page to write")
    compare.add_argument("--debug", action="store_true", help="show tracebacks and notes")
    compare.set_defaults(command=_compare)
    env = commands.add_parser("env", help="versions and hardware, to paste into an issue report")
    env.add_argument("--debug", action="store_true", help="show tracebacks and notes")
    env.set_defaults(command=_env)


def _command(
    commands: Any,
    name: str,
    text: str,
    function: Callable[[argparse.Namespace], None],
    overrides: bool = True,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument(
        "config", type=Path, metavar="CONFIG", help="a YAML file, such as configs/demo.yaml"
    )
    if overrides:
        command.add_argument(
            "overrides", nargs="*", metavar="section.key=value", help="change a setting"
        )
    command.add_argument("--debug", action="store_true", help="show tracebacks and notes")
    command.set_defaults(command=function)
    return command


def _config(args: argparse.Namespace) -> Config:
    from rag_ft.config_loader import load_config

    return load_config(args.config, args.overrides)


def _checked(args: argparse.Namespace, *names: str) -> Config:
    """The configuration of a run whose files are as these stages left them; DataError where they are not."""
    from rag_ft.freshness import check_files

    config = _config(args)
    check_files(RunDir(config.run_path), names)
    return config


def _stage(args: argparse.Namespace, name: str) -> None:
    from rag_ft.pipeline import stages_to_run

    config = _config(args)
    *before, last = stages_to_run(name, config)
    _stages(config, before, force=False)
    _stages(config, [last], args.force, args.drop_replies)


def _stages(config: Config, names: list[str], force: bool, drop_replies: bool = False) -> None:
    from rag_ft.pipeline import run_stage

    for name in names:
        print(f"[{name}] {STAGE_HELP[name]}", file=sys.stderr)
        done = run_stage(name, config, force, drop_replies)
        print(_stage_line(name, done), file=sys.stderr)


def _run(args: argparse.Namespace) -> None:
    from rag_ft.pipeline import NAMES, stages_until

    config = _config(args)
    names = stages_until(args.until or NAMES[-1], config)
    _check_server(config, names)
    if _has_gpu():
        _run_in_processes(args, names)
    else:
        _stages(config, names, args.force, args.drop_replies)
    if "report" in names:
        _print_report(config)


def _check_server(config: Config, names: list[str]) -> None:
    """Raises ConfigError where a model or vLLM is missing: not after hours of ingesting and encoding."""
    from rag_ft.pipeline import stages_with_llm

    if stages_with_llm(config) & set(names):
        _ = config.llm.required_model
    if config.llm.backend == "vllm" and "generate" in names:
        from rag_ft.llm.vllm_process import find_vllm_python

        find_vllm_python(config.llm.advanced.vllm_python)


def _has_gpu() -> bool:
    """Without importing torch: whether the driver lists a device."""
    return os.path.exists("/proc/driver/nvidia/gpus") or os.path.exists("/dev/nvidia0")


def _run_in_processes(args: argparse.Namespace, names: list[str]) -> None:
    """One process a stage: that is how each gives its GPU memory back before the next."""
    import subprocess

    for name in names:
        words = [sys.executable, "-m", "rag_ft", name, str(args.config), *args.overrides]
        words += (
            ["--force"] * args.force
            + ["--drop-replies"] * args.drop_replies
            + ["--debug"] * args.debug
        )
        code = subprocess.run(words, check=False).returncode
        if code:
            raise RagFtError(
                f"{name} ended with exit code {code}; run the same command again to continue"
            )


def _stage_line(name: str, done: dict[str, Any]) -> str:
    if done.get("skipped"):
        return f"[{name}] up to date"
    counts = ", ".join(
        f"{k} {v}" for k, v in done["counts"].items() if isinstance(v, int | float | str)
    )
    return f"[{name}] done in {done['seconds']:.0f} s: {counts}"


def _print_report(config: Config) -> None:
    from rag_ft.report.summary import summary_table

    run_dir = RunDir(config.run_path)
    print(summary_table(run_dir))
    print(f"report: {run_dir.report_html}")


def _status(args: argparse.Namespace) -> None:
    from rag_ft.pipeline import status

    for name, state, why in status(_config(args)):
        print(f"{name:16} {state:10} {why}".rstrip())


def _ask(args: argparse.Namespace) -> None:
    from rag_ft.commands.ask import ask

    config = _checked(args, "ingest", "index", "train_retriever", "train_generator")
    print(ask(config, args.question, tuned=not args.base))


def _export(args: argparse.Namespace) -> None:
    from rag_ft.commands.export import export

    config = _checked(args, "ingest", "index", "generate", "train_retriever")
    print(export(config, args.format, args.to, args.with_context))


def _preview(args: argparse.Namespace) -> None:
    from rag_ft.commands.preview import preview
    from rag_ft.session import Session

    config = _checked(args, "ingest", "index", "generate", "train_retriever")
    print(preview(Session.of(config), args.num))


def _plan(args: argparse.Namespace) -> None:
    from rag_ft.commands.plan import plan

    print(plan(_checked(args, "ingest", "generate")))


def _merge(args: argparse.Namespace) -> None:
    from rag_ft.commands.merge import merge

    print(merge(_checked(args, "train_generator"), args.to))


def _compare(args: argparse.Namespace) -> None:
    from rag_ft.commands.compare import compare
    from rag_ft.freshness import check_files
    from rag_ft.pipeline import NAMES

    for folder in args.runs:
        check_files(RunDir(folder), finished=NAMES)
    print(compare(args.runs, args.to))


def _env(args: argparse.Namespace) -> None:
    from rag_ft.commands.env import env

    print(env())
