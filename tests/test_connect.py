"""The snippets of docs/how-to/connect.md, in Python and for curl, against a running server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import Says, live, served_models, small_run

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "connect.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
# They ask for an older openai package than the tests.
OTHERS = ["llama-index-llms-openai-like==0.8.1", "langchain-openai==1.7.4"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Iterator[str]:
    session = small_run(tmp_path_factory.mktemp("connect"), tiny_encoder_dir)
    with live(served_models(session, Says("at noon [1]"), name="demo")) as address:
        yield address


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("others")
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *OTHERS], check=True)
    return python


def printed(python: str, snippet: str, url: str) -> str:
    assert "http://127.0.0.1:8000" in snippet
    code = snippet.replace("http://127.0.0.1:8000", url)
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_snippet_is_run_here() -> None:
    assert len(SNIPPETS) == 3


def test_the_snippet_for_openais_package(url: str) -> None:
    answer, *sources = printed(sys.executable, SNIPPETS[0], url).splitlines()
    assert answer == "at noon [1]"
    assert any("/documents/" in line for line in sources)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on the PATH")
def test_the_command_for_curl(url: str) -> None:
    [command] = re.findall(r"```sh\n(curl .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    command = command.replace("http://127.0.0.1:8000", url)
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "at noon [1]"


@pytest.mark.slow  # installs the packages
@pytest.mark.parametrize("number", [1, 2], ids=OTHERS)
def test_the_snippet_for_another_package(url: str, other_python: str, number: int) -> None:
    assert printed(other_python, SNIPPETS[number], url).splitlines()[0] == "at noon [1]"
