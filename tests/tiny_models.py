"""Tiny models of many families, with random weights and one small tokenizer."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

SPECIALS = ["<pad>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDS_TWICE = CHATML.replace("{% endif %}", "{% else %}</s>{% endif %}")
VOCABULARY = 260
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
}
LONG = SHAPE | {"num_key_value_heads": 2, "max_position_embeddings": 2048}
STATE = SHAPE | {"state_size": 8}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 28,
    "patch_size": 14,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}
ALIBI = {"n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}
# Name of a family: its model class, the class of its configuration, and the configuration.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LONG),
    "bloom": ("BloomForCausalLM", "BloomConfig", ALIBI | {"hidden_size": 32}),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", GPT | {"rotary_dim": 8}),
    "mamba": ("MambaForCausalLM", "MambaConfig", STATE),
    "falcon_mamba": ("FalconMambaForCausalLM", "FalconMambaConfig", STATE),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        LONG
        | {"mamba_d_state": 8, "mamba_dt_rank": 8, "num_experts": 2}
        | {"attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        LONG | {"layer_types": ["conv", "full_attention"]},
    ),
    "gptoss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        LONG
        | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64},
    ),
    "granite": ("GraniteForCausalLM", "GraniteConfig", LONG | {"logits_scaling": 4.0}),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "text_config": LONG | {"head_dim": 16, "sliding_window": 64},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "boi_token_index": 250,
            "eoi_token_index": 251,
            "image_token_index": 252,
        },
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        "Mistral3Config",
        {
            "text_config": LONG | {"model_type": "mistral", "head_dim": 16},
            "vision_config": VISION | {"model_type": "pixtral", "head_dim": 8},
            "image_token_index": 252,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT | {"n_positions": 128}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    ),
    # Its router is a linear layer that returns two things.
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        LONG
        | {"head_dim": 16, "intermediate_size_mlp": 48, "attention_chunk_size": 64}
        | {"num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    # A width of the feed-forward layers for each layer.
    "gemma3n": (
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        LONG
        | {"head_dim": 16, "intermediate_size": [48, 48], "sliding_window": 64}
        | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
        | {"laurel_rank": 8, "altup_num_inputs": 2, "num_kv_shared_layers": 0}
        | {"layer_types": ["sliding_attention", "full_attention"]}
        | {"activation_sparsity_pattern": [0.0, 0.0]},
    ),
    "ctrl": ("CTRLLMHeadModel", "CTRLConfig", GPT | {"dff": 48, "n_positions": 128}),
    "bert": ("BertLMHeadModel", "BertConfig", SHAPE | {"max_position_embeddings": 2048}),
}


def chat_tokenizer(template: str = CHATML, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """One token a byte, four control tokens, a chat template."""
    vocabulary = {
        token: i for i, token in enumerate(SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token=eos, chat_template=template
    )


def make_model(family: str, folder: Path, tokenizer: Any = None) -> Path:
    """Saves a random model of the family with its tokenizer, and returns the folder."""
    model_name, config_name, settings = FAMILIES[family]
    torch.manual_seed(0)
    named = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 3)
    config = getattr(transformers, config_name)(**{**named, **settings})
    model = getattr(transformers, model_name)(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "conv1d" not in name:
                weight.normal_(std=0.1)
    model.generation_config = GenerationConfig(eos_token_id=3, pad_token_id=0)
    model.save_pretrained(folder)
    (tokenizer or chat_tokenizer()).save_pretrained(folder)
    return folder


def edit_json(path: Path, **values: Any) -> None:
    """Changes these values of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values), encoding="utf-8")


def save_tiny_lm(folder: Path) -> Path:
    """Saves a random two-layer Llama with a byte-level tokenizer, a chat template and eos
    `<|im_end|>`; returns the folder."""
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
    fast.chat_template = CHATML
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
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
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_tiny_encoder(folder: Path) -> Path:
    """Saves a random one-layer BERT as a SentenceTransformer with mean pooling and a
    character-level WordPiece; returns the folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

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
    with tempfile.TemporaryDirectory() as base:
        BertModel(config).save_pretrained(base)
        tokenizer.save_pretrained(base)
        transformer = Transformer(base, max_seq_length=256)
    modules = [transformer, Pooling(32, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder
