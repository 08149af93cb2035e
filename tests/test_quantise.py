"""Weights with fewer bits: what goes to llmcompressor, what comes back, and, where its environment
is, the whole way."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from generator_run import Make, prepare

from rag_ft.bundle.contents import Contents
from rag_ft.bundle.making import make_bundle
from rag_ft.bundle.manifest import open_bundle, read_manifest
from rag_ft.bundle.quantise import Quantised, find_quantiser, quantise, replace_weights
from rag_ft.cli import main
from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.stages import train_generator

DEMO_LM = Path(__file__).parent.parent / "data" / "models" / "demo-lm"


def test_a_missing_environment_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing: run `make quantise`"):
        find_quantiser(tmp_path / "python")


def test_a_bundle_has_one_smaller_form(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--int4"], ["--gguf", "Q8_0"]):
        with pytest.raises(SystemExit, match="2"):
            main(["bundle", "x.yaml", "--to", "x", "--int8", *more])
        assert "not allowed with argument --int8" in capsys.readouterr().err


def python(folder: Path, script: str) -> Path:
    """A program in place of the Python that has llmcompressor."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_examples_go_to_the_program_and_its_weights_into_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, work = Path("model"), Path("work")
    model.mkdir()
    work.mkdir()
    for name in ("config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"):
        (model / name).write_text("old")
    # its script, MODEL, TYPE, EXAMPLES, TO
    made = 'mkdir "$5/quantised"; cd "$5/quantised"; cp "$4" model.safetensors'
    made += '; echo "$3" > config.json'
    quantise(Quantised("int4", python(tmp_path, made)), model, [[1, 2], [3]], work)
    replace_weights(model, work / "quantised")
    assert {path.name: path.read_text() for path in model.iterdir()} == {
        "config.json": "int4\n",
        "tokenizer.json": "old",
        "model.safetensors": "[1, 2]\n[3]\n",
    }


def test_what_cannot_be_quantised_is_one_line(tmp_path: Path) -> None:
    failing = python(tmp_path, "echo Traceback >&2; echo no such layer >&2; exit 1")
    with pytest.raises(ConfigError, match="cannot quantise the model: no such layer"):
        quantise(Quantised("int8", failing), DEMO_LM, [[1]], tmp_path)


def test_it_is_calibrated_on_training_examples_of_the_run(make_run: Make, tmp_path: Path) -> None:
    config, run_dir = prepare(make_run, settings={}, llm__model=str(DEMO_LM))
    (tmp_path / "models" / "llm").mkdir(parents=True)
    (tmp_path / "models" / "llm" / DEMO_LM.name).symlink_to(DEMO_LM)
    contents = Contents(Session(config, run_dir), frozenset())
    examples = contents.training_examples(tmp_path)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_LM)
    texts = [tokenizer.decode(ids) for ids in examples]
    assert texts and all(text.startswith("<|im_start|>user\n") for text in texts)
    asked = {row["question"] for row in map(json.loads, run_dir.qa.read_text().splitlines())}
    assert any(question in text for question in asked for text in texts)


def is_there() -> bool:
    """Whether `make quantise` was run."""
    try:
        return bool(find_quantiser(None))
    except ConfigError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not is_there(), reason="llmcompressor is not there (make quantise)")
def test_a_bundle_with_rounded_weights_answers_nearly_as_its_run(
    make_run: Make, tmp_path: Path
) -> None:
    settings = {"max_steps": 2, "learning_rate": 1e-3}
    config, run_dir = prepare(make_run, settings=settings, llm__model=str(DEMO_LM))
    train_generator.run(Session(config, run_dir))
    contents = Contents(Session(config, run_dir), frozenset({"generator"}), merge=True)
    folder = tmp_path / "bundle"
    folder.mkdir()
    drifts = make_bundle(
        contents, folder, "people", {}, 12, Quantised("int8", find_quantiser(None))
    )
    assert drifts["bundle"].equal == 12 and drifts["int8"].agreement >= 0.9
    assert open_bundle(folder).llm.backend == "vllm"
    model = json.loads((folder / "generator" / "config.json").read_text(encoding="utf-8"))
    assert model["quantization_config"]["quant_method"] == "compressed-tensors"
    assert read_manifest(folder)["quantised"]["type"] == "int8"
    assert "vllm/vllm-openai" in (folder / "Dockerfile").read_text(encoding="utf-8")
