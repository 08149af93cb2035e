import errno
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rag_ft.cli import main
from rag_ft.stage_table import NAMES

ROOT = Path(__file__).parent.parent


def test_help_lists_every_stage_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    positions = [text.index(f"    {name}") for name in NAMES]
    assert positions == sorted(positions)


def test_help_is_fast_and_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'faiss', 'sentence_transformers', 'numpy', 'pydantic'}"
    code = f"import sys, rag_ft.cli; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
    words = [sys.executable, "-m", "rag_ft", "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(words, capture_output=True, check=True)
    # About 0.1 CPU seconds; the bound leaves room for slow machines.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.5


def test_the_pipeline_and_the_settings_load_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'faiss', 'sentence_transformers'}"
    code = f"import sys, rag_ft.config, rag_ft.pipeline; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_an_error_is_one_line_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "none.yaml"]) == 1
    error = capsys.readouterr().err
    assert "rag-ft: error: no configuration file none.yaml" in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback() -> None:
    from rag_ft.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["ingest", "none.yaml", "--debug"])


def test_status_of_a_new_run_says_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(f"run:\n  dir: {tmp_path / 'run'}\n", encoding="utf-8")
    assert main(["status", str(config)]) == 0
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    # Without a reranker there is none to tune.
    assert states == [*["missing"] * 4, "unused", *["missing"] * 3]


def test_the_readme_names_only_commands_and_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = [sys.executable, "-m", "rag_ft", "--help"]
    help_text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for command in set(re.findall(r"^rag-ft ([a-z_]+)", readme, re.MULTILINE)):
        assert re.search(rf"^ +{command}\b", help_text, re.MULTILINE), (
            f"rag-ft {command} is in the README only"
        )
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for target in set(re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE)):
        assert target in targets, f"make {target} is in the README only"


def test_the_readme_lists_every_stage() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"`{name}`" in readme


def test_overrides_may_stand_anywhere_and_nothing_else_may(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run.dir={tmp_path / 'run'}"
    assert main(["status", "configs/demo.yaml", "--debug", run]) == 0
    assert "ingest           missing" in capsys.readouterr().out
    for words in (["--forse", run], [run, "oops"]):
        with pytest.raises(SystemExit):
            main(["ingest", "configs/demo.yaml", "--force", *words])


def test_what_the_machine_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "chunks.jsonl")

    monkeypatch.setattr("rag_ft.stages.ingest.run", full)
    assert main(["ingest", "configs/demo.yaml", f"run.dir={tmp_path / 'run'}"]) == 1
    assert (
        "chunks.jsonl: No space left on device; repair that and run the same command again"
        in capsys.readouterr().err
    )


def test_a_missing_vllm_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "llm.backend=vllm",
        f"llm.advanced.vllm_python={tmp_path / 'python'}",
        f"run.dir={tmp_path / 'run'}",
    ]
    assert main(["run", "configs/demo.yaml", *words]) == 1
    assert "llm.advanced.vllm_python" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("llm.model=missing/model/here", "llm.model"),
        ("llm.prompts=compct", "llm.prompts"),
        ("generate.questions=[missing.jsonl]", "generate.questions: missing.jsonl does not exist"),
        ("llm.backend=openai", "llm.base_url is not set"),
        ("reranker.model=./missing", "reranker.model"),
    ],
)
def test_what_the_settings_name_is_looked_for_before_anything_runs(
    word: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "configs/demo.yaml", word, f"run.dir={tmp_path / 'run'}"]) == 1
    assert told in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["askk"], "no 'askk': did you mean ask?"),
        (["run", "c.yaml", "--until", "generat"], "no 'generat': did you mean generate?"),
        (["ask", "c.yaml"], "required: question\n"),
        (["ingest", "c.yaml", "--forse"], "no argument --forse: see rag-ft ingest --help"),
    ],
)
def test_a_wrong_command_line_is_told_with_a_remedy(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["review"],
        ["preview"],
        ["export", "--format", "trl", "--to", "pairs"],
        ["import", "--format", "csv", "--from", "none.csv"],
    ],
)
def test_a_command_about_pairs_names_the_stage_that_writes_them(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *flags = words
    assert main([command, "configs/demo.yaml", f"run.dir={tmp_path}", *flags]) == 1
    assert "run `rag-ft generate CONFIG` first" in capsys.readouterr().err


def test_a_bundle_of_a_run_without_index_names_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run.dir={tmp_path / 'run'}", "--to", str(tmp_path / "bundle")]
    assert main(["bundle", "configs/demo.yaml", *words]) == 1
    assert "run `rag-ft index CONFIG`" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of mem"),
        (ImportError("_x.so: failed to map segment from shared object"), "out of memory"),
        (ValueError("serializing: I/O error: File too large (os error 27)"), "free some space"),
        (RuntimeError("Error in write: No space left on device"), "free some space"),
    ],
)
def test_a_full_machine_is_one_line(
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rag_ft.commands import env

    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(env, "env_command", fails)
    assert main(["env"]) == 1
    text = capsys.readouterr().err
    assert told in text and text.count("\n") == 1


def test_a_path_that_is_too_long_for_the_system_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(f"run:\n  dir: {'a' * 5000}\n")
    assert main(["status", str(path)]) == 1
    text = capsys.readouterr().err
    assert "File name too long" in text and text.count("\n") == 1


def test_no_library_talks_to_the_user() -> None:
    says = (
        "import logging, warnings, rag_ft.cli as cli; cli.main(['status', 'missing.yaml']);"
        "logging.getLogger('library').warning('it warns'); warnings.warn('it warns');"
        "from transformers.utils import logging as theirs; theirs.get_logger().warning('it warns');"
        "logging.getLogger('rag_ft.x').warning('ours'); logging.getLogger('library').error('fails')"
    )
    done = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)
    assert "it warns" not in done.stdout + done.stderr
    assert "WARNING ours" in done.stderr and "ERROR fails" in done.stderr


def test_no_command_looks_for_garbage_when_it_ends() -> None:
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); "
    done = subprocess.run(
        [sys.executable, "-c", code + "import rag_ft.cli"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 1000
