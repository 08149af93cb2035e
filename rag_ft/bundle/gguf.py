"""A merged generator -> a GGUF file for llama.cpp and Ollama, by the tools of llama.cpp."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.bundle import hf_to_gguf
from rag_ft.errors import ConfigError
from rag_ft.llm.chat_template import TEMPLATE_OPTIONS, answer_ending, load_chat_tokenizer
from rag_ft.version import CHECKOUT

# Of options.shipping.GGUF_TYPES; llama-quantize makes the others of F16.
AS_CONVERTED = ("F16", "Q8_0")
START_SECONDS = 300
PROMPT = "rag-ft-prompt"


@dataclass(frozen=True)
class LlamaCpp:
    """A folder with the source of llama.cpp and, in build/bin/, its programs."""

    folder: Path

    @property
    def converter(self) -> Path:
        """convert_hf_to_gguf.py, which hf_to_gguf.py runs."""
        return self.folder / "convert_hf_to_gguf.py"

    def program(self, name: str) -> Path:
        """llama-quantize or llama-server."""
        return self.folder / "build" / "bin" / name


def find_llama_cpp(wanted: Path | None) -> LlamaCpp:
    """The tools in the folder `wanted`, else those that `make gguf` built.

    Raises:
        ConfigError: they are not there.
    """
    found = LlamaCpp((wanted or CHECKOUT / ".llama.cpp" / "source").expanduser())
    programs = (found.program("llama-quantize"), found.program("llama-server"))
    for path in (found.converter, *programs):
        if not path.is_file():
            raise ConfigError(
                f"--gguf needs llama.cpp, and {path} is missing: run `make gguf`, or name a folder "
                "in which llama.cpp was built (--llama-cpp)"
            )
    return found


def convert(tools: LlamaCpp, model: Path, type: str, to: Path, texts: Sequence[str]) -> None:
    """Writes the model of the folder `model` to the file `to`, as one of GGUF_TYPES. `texts`
    are such as it will read.

    Raises:
        ConfigError: llama.cpp cannot convert the model, or would read texts as other tokens.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    plain = to if type in AS_CONVERTED else to.with_suffix(".f16")
    words = [sys.executable, hf_to_gguf.__file__, str(tools.folder)]
    if splits_like_gpt2(model, texts):
        words.append("--like-gpt2")
    outtype = "q8_0" if type == "Q8_0" else "f16"
    _run([*words, str(model), "--outtype", outtype, "--outfile", str(plain)], tools)
    if plain != to:
        _run([str(tools.program("llama-quantize")), str(plain), str(to), type], tools)
        plain.unlink()


def splits_like_gpt2(model: Path, texts: Sequence[str]) -> bool:
    """Whether the model's tokenizer gives the same tokens of these texts where they are first split
    as GPT-2 splits them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = model / "tokenizer.json"
    if not path.is_file():
        return False
    own, other = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(path))
    if not isinstance(own.model, models.BPE):
        return False
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return all(own.encode(text).ids == other.encode(text).ids for text in texts)


def ollama_prompt(model: Path) -> dict[str, Any]:
    """{template, stops}: what stands around a prompt as the generator was trained, as a template of
    Ollama, and the tokens that end an answer. Prompts are single messages of a user."""
    tokenizer = load_chat_tokenizer(model, False)
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}],
            add_generation_prompt=True,
            tokenize=False,
            **TEMPLATE_OPTIONS,
        )
    )
    before, _, after = text.partition(PROMPT)
    # Ollama puts this token before the text itself.
    before = before.removeprefix(tokenizer.bos_token or "")
    ends = (answer_ending(tokenizer), tokenizer.eos_token)
    stops = list(dict.fromkeys(str(end) for end in ends if end))
    return {"template": before + "{{ .Prompt }}" + after, "stops": stops}


@contextlib.contextmanager
def llama_server(tools: LlamaCpp, file: Path, alias: str, max_tokens: int) -> Iterator[str]:
    """Runs llama-server for a GGUF file on this machine; gives its address, http://.../v1.

    Raises:
        ConfigError: it does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [str(tools.program("llama-server")), "-m", str(file), "--alias", alias, "--jinja"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--parallel", "1", "-c", str(max_tokens)]
    with tempfile.NamedTemporaryFile() as log:
        server = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(server, f"http://127.0.0.1:{port}/health", Path(log.name))
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait()


def _wait_until_up(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Raises ConfigError where the server ends, or is not up after START_SECONDS."""
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.2)
    raise ConfigError(f"llama-server did not start: {_last_line(log.read_bytes())}")


def _run(words: Sequence[str], tools: LlamaCpp) -> None:
    """Runs a program to its end. Raises ConfigError with its last line where it fails."""
    # What the converter needs beside our own packages lies where `make gguf` installed it.
    beside = sorted(tools.folder.parent.glob("tools/lib/python*/site-packages"))
    paths = [*map(str, beside), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    if done.returncode:
        raise ConfigError(f"llama.cpp cannot convert the model: {_last_line(done.stderr)}")


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
