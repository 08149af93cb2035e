"""GGUF files made dense: the same answers, a folder that rag-ft takes, and one line of what is
wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dense_from_gguf import main
from tiny_models import make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rag_ft.llm.chat_template import load_chat_tokenizer
from rag_ft.model_hub import resolve

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}
QUESTION = [{"role": "user", "content": "When does the ferry leave?"}]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("original") / "model")


def write_gguf(folder: Path, file: Path, kind: str, template: bool = True) -> Path:
    """The Llama of a folder as llama.cpp writes it: its own names, and rows of queries and keys in
    another order."""
    model, tokenizer = read(folder)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)

    tokens = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    tokens[-1] = "qz"  # a byte-level tokenizer has no merges, and GGUF files must have one
    control = set(tokenizer.added_tokens_decoder)
    types = [
        gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL
        for i in range(len(tokens))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["q z"])
    writer.add_bos_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_pad_token_id(0)
    if template:
        writer.add_chat_template(tokenizer.chat_template)

    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        rows, theirs = weight.float().numpy(), name
        for part, count in heads.items():
            if part in name:
                halves = rows.reshape(count, 2, rows.shape[0] // count // 2, rows.shape[1])
                rows = halves.swapaxes(1, 2).reshape(rows.shape)
        for ours, short in NAMES.items():
            theirs = theirs.replace(ours, short)
        quantised = kind == "Q8_0" and rows.ndim == 2 and not rows.shape[1] % 32
        dtype = gguf.GGMLQuantizationType[kind if quantised else "F32"]
        writer.add_tensor(theirs, gguf.quants.quantize(rows, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def read(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def logits(folder: Path) -> torch.Tensor:
    model, tokenizer = read(folder)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**ids).logits[0]


@pytest.mark.parametrize(("kind", "error"), [("F32", 1e-5), ("Q8_0", 0.03)])
def test_the_folder_gives_the_logits_of_the_model(
    original: Path, tmp_path: Path, kind: str, error: float
) -> None:
    file = write_gguf(original, tmp_path / "tiny.gguf", kind)
    assert main([str(file), str(tmp_path / "dense"), "--dtype", "float32"]) == 0
    wanted, found = logits(original), logits(tmp_path / "dense")
    assert float((found - wanted).norm() / wanted.norm()) < error
    # rag-ft takes the folder: whole weights, a chat template, an end of answers.
    assert resolve(str(tmp_path / "dense"), "llm") == tmp_path / "dense"
    tokenizer = load_chat_tokenizer(tmp_path / "dense")
    assert tokenizer.eos_token == "<|im_end|>"


def test_what_cannot_become_a_model_is_one_line(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(file: Path, to: Path) -> str:
        assert main([str(file), str(to)]) == 1
        # Before it stand the progress bars of transformers.
        *_, last = capsys.readouterr().err.splitlines()
        assert last.startswith("error: ")
        return last

    assert "is no file" in said(tmp_path / "missing.gguf", tmp_path / "dense")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing more")
    assert "cannot read" in said(tmp_path / "broken.gguf", tmp_path / "dense")
    plain = write_gguf(original, tmp_path / "plain.gguf", "F32", template=False)
    assert "has no chat template" in said(plain, tmp_path / "dense")
    assert not [*tmp_path.glob("dense*")]
    (tmp_path / "dense").mkdir()
    assert "is there already" in said(plain, tmp_path / "dense")
