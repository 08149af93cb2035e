"""GGUF files: what stands around a prompt, tokenizers that llama.cpp does not know, and, where
llama.cpp was built, the whole way."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from generator_run import Make, prepare

from rag_ft.bundle.contents import Contents
from rag_ft.bundle.gguf import (
    LlamaCpp,
    convert,
    find_llama_cpp,
    llama_server,
    ollama_prompt,
    splits_like_gpt2,
)
from rag_ft.bundle.making import Gguf, make_bundle
from rag_ft.bundle.manifest import read_manifest
from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.stages import train_generator

DEMO_LM = Path(__file__).parent.parent / "data" / "models" / "demo-lm"
PLAIN = "The ferry leaves Port Sorrel at 12:15. It isn't late."


def test_the_prompt_of_ollama_is_that_of_the_chat_template() -> None:
    found = ollama_prompt(DEMO_LM)
    assert found["template"] == (
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found["stops"] == ["<|im_end|>"]


def test_a_tokenizer_that_gives_gpt2s_tokens_is_told_from_one_that_does_not(
    tiny_lm_dir: Path, tmp_path: Path
) -> None:
    assert splits_like_gpt2(DEMO_LM, [PLAIN])
    content = json.loads((tiny_lm_dir / "tokenizer.json").read_text(encoding="utf-8"))
    # This one joins a letter to the digit after it, which GPT-2 never does.
    vocabulary = content["model"]["vocab"]
    vocabulary["t1"] = len(vocabulary)
    content["model"]["merges"] = [["t", "1"]]
    content["pre_tokenizer"]["use_regex"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert splits_like_gpt2(tmp_path, ["at noon"])
    assert not splits_like_gpt2(tmp_path, ["at1"])
    assert not splits_like_gpt2(tmp_path / "missing", [PLAIN])


def test_missing_tools_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"convert_hf_to_gguf.py is missing: run `make gguf`"):
        find_llama_cpp(tmp_path)


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_program_that_fails_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    tools = LlamaCpp(tmp_path)
    tools.converter.write_text("def main():\n    raise SystemExit('no such architecture')\n")
    package = tmp_path / "conversion"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "class TextModel:\n    def get_vocab_base_pre(self, tokenizer): ...\n"
    )
    with pytest.raises(ConfigError, match="cannot convert the model: no such architecture"):
        convert(tools, DEMO_LM, "F16", tmp_path / "gguf" / "x.gguf", [PLAIN])
    program(tools.program("llama-server"), "echo cannot load; exit 1")
    with (
        pytest.raises(ConfigError, match="llama-server did not start: cannot load"),
        llama_server(tools, tmp_path / "x.gguf", "x", 512),
    ):
        pass


def built() -> Path | None:
    """Where llama.cpp was built: RAG_FT_LLAMA_CPP, or by `make gguf`."""
    try:
        named = os.environ.get("RAG_FT_LLAMA_CPP")
        return find_llama_cpp(Path(named) if named else None).folder
    except ConfigError:
        return None


@pytest.mark.slow
@pytest.mark.skipif(built() is None, reason="llama.cpp is not built (make gguf)")
@pytest.mark.parametrize(("type", "method"), [("Q8_0", "dora"), ("Q4_K_M", "lora")])
def test_llama_server_answers_as_the_run(
    make_run: Make, tmp_path: Path, type: str, method: str
) -> None:
    settings = {"max_steps": 2, "learning_rate": 1e-3, "method": method}
    config, run_dir = prepare(make_run, settings=settings, llm__model=str(DEMO_LM))
    train_generator.run(Session(config, run_dir))
    contents = Contents(Session(config, run_dir), frozenset({"generator"}), merge=True)
    folder = tmp_path / "bundle"
    folder.mkdir()
    gguf = Gguf(type, find_llama_cpp(built()))
    drifts = make_bundle(contents, folder, "people", {}, 12, gguf)
    assert drifts["bundle"].equal == 12
    assert drifts[type].agreement >= (0.9 if type == "Q8_0" else 0.5)
    content = read_manifest(folder)["gguf"]
    assert (folder / content["path"]).stat().st_size < 5_000_000
    modelfile = (folder / "Modelfile").read_text(encoding="utf-8")
    assert f"FROM ./{content['path']}" in modelfile and "{{ .Prompt }}" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
