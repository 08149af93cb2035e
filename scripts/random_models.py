"""Models with random weights in the shapes of real ones, and random text for them: speed and memory
are those of the real ones."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

WORDS = ["the", "of", "is", "in", "to"]
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


def _shape(
    hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, head: int, words: int, tied: bool
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "vocab_size": words,
        "tie_word_embeddings": tied,
    }


# Shapes of Qwen3-0.6B and Qwen3-8B, and one for a CPU.
SHAPES = {
    "0.6b": _shape(1024, 3072, 28, 16, 8, 128, 151936, tied=True),
    "8b": _shape(4096, 12288, 36, 32, 8, 128, 151936, tied=False),
    "tiny": _shape(64, 128, 2, 2, 1, 32, 512, tied=True),
}


def random_model(size: str, attention: str, **changes: Any) -> Qwen3ForCausalLM:
    """A Qwen3 of `size` (see SHAPES), on the GPU in bfloat16 or on the CPU in float32.

    `attention` is the name of an implementation in transformers; `changes` are settings of its
    configuration.
    """
    from transformers import Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(**{**SHAPES[size], "max_position_embeddings": 4096, **changes})
    config._attn_implementation = attention
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if DEVICE == "cpu" else torch.bfloat16)
    try:
        with torch.device(DEVICE):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def random_encoder(folder: Path, tiny: bool) -> Path:
    """The folder of a new sentence encoder of BERT-base's shape, or a tiny one, below `folder`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    width, shape, base = 768, dict[str, int](), folder / "base"
    if tiny:
        width = 32
        shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=30522, hidden_size=width, **shape)).save_pretrained(base)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=512), Pooling(width, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


def random_ids(rng: random.Random, model: Qwen3ForCausalLM, count: int) -> list[int]:
    """`count` token ids of the model's vocabulary."""
    return [rng.randrange(model.config.vocab_size) for _ in range(count)]


def random_text(rng: random.Random, num_words: int) -> str:
    """Words that `random_encoder` knows."""
    return " ".join(rng.choices(WORDS, k=num_words))
