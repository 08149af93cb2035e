"""Components from elsewhere, named by path, in a run folder where nothing was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_evaluate import ANSWERS, TEXTS, tiny_adapter

from rag_ft.cli import main
from rag_ft.errors import ConfigError
from rag_ft.run_dir import RunDir
from rag_ft.schema import Prediction
from rag_ft.storage import read_jsonl, write_jsonl


@pytest.fixture(scope="module")
def other_encoder(tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with other weights, as if tuned elsewhere."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder_dir), device="cpu")
    torch.manual_seed(2)
    for weights in model.parameters():
        weights.data += 0.3 * torch.randn_like(weights)
    folder = tmp_path_factory.mktemp("other-encoder")
    model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def other_adapter(tiny_lm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other-adapter")
    tiny_adapter(tiny_lm_dir, folder)
    return folder


@pytest.fixture
def make_config_file(
    tmp_path: Path, tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> Callable[..., Path]:
    """make_config_file(name="alone", **settings of evaluate) -> a configuration with documents and
    questions of its own."""
    write_jsonl(
        tmp_path / "documents.jsonl",
        [{"id": n, "title": n.title(), "text": t} for n, t in TEXTS.items()],
    )
    rows = [
        {"question": f"Who made the {n}?", "answers": [a], "document_id": n}
        for n, a in ANSWERS.items()
    ]
    write_jsonl(tmp_path / "questions.jsonl", rows)

    def make(name: str = "alone", **evaluate: Any) -> Path:
        values = {
            "run": {"dtype": "float32", "dir": str(tmp_path / name)},
            "ingest": {
                "sources": [{"path": str(tmp_path / "documents.jsonl"), "split": "test"}],
                "chunk_tokens": 50,
            },
            "encoder": {"model": str(tiny_encoder_dir)},
            "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
            "generate": {"pairs_per_chunk": 0, "questions": [str(tmp_path / "questions.jsonl")]},
            "evaluate": {
                **{k: str(v) for k, v in evaluate.items()},
                "advanced": {"max_tokens": 4, "num_resamples": 200},
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return make


def test_one_command_evaluates_an_adapter_and_an_encoder_from_elsewhere(
    make_config_file: Callable[..., Path], other_adapter: Path, other_encoder: Path
) -> None:
    config = make_config_file(adapter=other_adapter, encoder=other_encoder)
    assert main(["evaluate", str(config)]) == 0
    assert main(["report", str(config)]) == 0
    run_dir = RunDir(config.with_suffix(""))
    counts = json.loads(run_dir.done("evaluate").read_text())["counts"]
    assert (counts["generator_tuned"], counts["retriever_tuned"], counts["questions"]) == (
        1,
        1,
        len(ANSWERS),
    )
    assert (
        not run_dir.done("train_generator").exists()
        and not run_dir.done("train_retriever").exists()
    )
    said = {
        n: [p.answer for p in read_jsonl(run_dir.predictions(n), Prediction)]
        for n in ("base", "tuned_generator")
    }
    assert said["base"] != said["tuned_generator"]
    assert run_dir.hits("dense_tuned").read_text() != run_dir.hits("dense_base").read_text()
    metrics = json.loads(run_dir.metrics.read_text())
    assert metrics["tuned"] == {"generator": True, "retriever": True, "reranker": False}
    assert metrics["leakage"]["given"] == ["generator", "retriever"]
    assert "never trained on" not in run_dir.report_html.read_text() + run_dir.report_md.read_text()


def test_an_index_by_path_is_used_as_it_is(
    make_config_file: Callable[..., Path], other_encoder: Path
) -> None:
    first = make_config_file("first", encoder=other_encoder)
    off = ["train_generator.enabled=false", "evaluate.answers=false"]
    assert main(["evaluate", str(first), *off]) == 0
    index = RunDir(first.with_suffix("")).given_index
    second = make_config_file("second", encoder=other_encoder, index=index)
    assert main(["evaluate", str(second), *off]) == 0
    assert not RunDir(second.with_suffix("")).given_index.exists()
    hits = [RunDir(config.with_suffix("")).hits("tuned").read_text() for config in (first, second)]
    assert hits[0] == hits[1]


def test_an_index_of_another_encoder_is_an_error_with_the_remedy(
    make_config_file: Callable[..., Path], other_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off = ["train_generator.enabled=false", "evaluate.answers=false"]
    config = make_config_file(
        encoder=other_encoder, index=make_config_file().with_suffix("") / "index"
    )
    assert main(["evaluate", str(config), *off]) == 1
    assert "evaluate.advanced.index does not fit" in (said := capsys.readouterr().err)
    assert "made by another encoder: leave it out" in said


def test_base_models_alone_need_no_path(make_config_file: Callable[..., Path]) -> None:
    off = ["train_generator.enabled=false", "train_retriever.enabled=false"]
    config = make_config_file()
    assert main(["evaluate", str(config), *off]) == 0
    counts = json.loads(RunDir(config.with_suffix("")).done("evaluate").read_text())["counts"]
    assert (counts["generator_tuned"], counts["retriever_tuned"]) == (0, 0)


def test_a_run_that_has_something_to_train_is_not_started_by_evaluate(
    make_config_file: Callable[..., Path], other_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(make_config_file(encoder=other_encoder))]) == 1
    assert (
        "set train_generator.enabled=false to evaluate the external components alone"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("setting", "missing"), [("adapter", "adapter_config.json"), ("encoder", "modules.json")]
)
def test_a_path_that_holds_no_model_is_one_line(
    make_config_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    missing: str,
) -> None:
    off = ["train_generator.enabled=false", "train_retriever.enabled=false"]
    assert main(["evaluate", str(make_config_file(**{setting: tmp_path / "nowhere"})), *off]) == 1
    assert f"evaluate.{setting}: there is no {missing}" in capsys.readouterr().err


def test_what_the_run_tuned_itself_is_left_alone(
    make_config_file: Callable[..., Path], tmp_path: Path, other_adapter: Path
) -> None:
    own = RunDir(tmp_path / "alone").generator
    own.mkdir(parents=True)
    (own / "adapter_config.json").write_text("no adapter at all")
    config = make_config_file(adapter=other_adapter)
    assert main(["evaluate", str(config), "train_retriever.enabled=false"]) == 0
    assert [path.name for path in own.iterdir()] == ["adapter_config.json"]


def test_ask_uses_the_external_components(
    make_config_file: Callable[..., Path],
    other_adapter: Path,
    other_encoder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config_file(adapter=other_adapter, encoder=other_encoder)
    assert main(["evaluate", str(config), "evaluate.answers=false"]) == 0
    said = []
    for components in ([], ["--base"]):
        capsys.readouterr()
        assert main(["ask", str(config), "Who made the mill?", *components]) == 0
        said.append(capsys.readouterr().out.splitlines()[0])
    assert said[0] != said[1]


def test_an_adapter_of_another_base_is_refused(
    tiny_lm_dir: Path, other_adapter: Path, tmp_path: Path
) -> None:
    from rag_ft.config import LLMConfig
    from rag_ft.model_hub import with_tuned
    from rag_ft.storage import write_text

    base = shutil.copytree(tiny_lm_dir, tmp_path / "base")
    assert with_tuned(LLMConfig(model=str(base)), other_adapter)[1] == {"tuned": other_adapter}
    write_text(base / "generation_config.json", '{"eos_token_id": 1}')
    with pytest.raises(
        ConfigError, match=r"was trained on .*, and llm\.model is .* set llm\.model"
    ):
        with_tuned(LLMConfig(model=str(base)), other_adapter)
