"""A Llama in plain PyTorch (fast on a CPU), its circuit initialisation, and the export to
transformers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NORM_EPS = 1e-5
# Size of the constant first coordinate of an embedding, in standard deviations of the others.
NORM_GAIN = 4.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; every head has its own key and value."""

    vocabulary: int = 4096
    width: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 704
    theta: float = 10000.0
    positions: int = 2048

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def rotary_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """cos and sin, each [positions, head_width], in transformers' half-split layout."""
    frequency = 1.0 / shape.theta ** (
        torch.arange(0, shape.head_width, 2).float() / shape.head_width
    )
    angle = torch.outer(torch.arange(shape.positions).float(), frequency)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [batch, heads, length, head_width]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Norm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + NORM_EPS) * self.weight).to(
            x.dtype
        )


class Block(nn.Module):
    """One Llama layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.input_norm, self.output_norm = Norm(shape.width), Norm(shape.width)
        self.q, self.k, self.v, self.o = (
            nn.Linear(shape.width, shape.width, bias=False) for _ in range(4)
        )
        self.gate, self.up = (
            nn.Linear(shape.width, shape.feed_forward, bias=False) for _ in range(2)
        )
        self.down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal self-attention over x [batch, length, width]."""
        batch, length, width = x.shape
        split = (batch, length, self.shape.heads, self.shape.head_width)
        q, k, v = (layer(x).view(split).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention and feed-forward, each with its residual."""
        x = x + self.attend(self.input_norm(x), cos, sin)
        h = self.output_norm(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class DemoLM(nn.Module):
    """Embedding, blocks, final norm; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        cos, sin = rotary_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states [batch, length, width] of ids [batch, length]."""
        length = ids.shape[1]
        x, cos, sin = self.embedding(ids), self.cos[:length], self.sin[:length]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary."""
        return functional.linear(hidden, self.embedding.weight)


class CircuitInit:
    """Starts a model near an induction circuit, with plain trainable weights.

    Layer 0 gets heads that look at the previous tokens (through the phase of the rotary embedding),
    the layers above heads that look for the token after an earlier occurrence of the current one
    and copy it. Coordinate 0 of every embedding is a constant the positional heads read. Without
    this start the same model needs several times the tokens.
    """

    def __init__(self, model: DemoLM, scale: float = 0.1, seed: int = 1) -> None:
        self.model, self.shape, self.scale = model, model.shape, scale
        torch.manual_seed(seed)
        width, head = self.shape.width, self.shape.head_width
        self.frequency = 1.0 / self.shape.theta ** (torch.arange(0, head, 2).float() / head)
        self.basis = torch.zeros(width, width)
        self.basis[1:, 1:] = torch.linalg.qr(torch.randn(width - 1, width - 1))[0]
        slow = [i for i in range(head // 2) if self.frequency[i] < 0.04]
        self.slow_rows = slow + [i + head // 2 for i in slow]  # nearly blind to position
        self.previous_read = self._rows(0, head)
        self.previous_write = self._random_columns()

    def _rows(self, start: int, number: int) -> Tensor:
        return self.basis[[1 + (start + j) % (self.shape.width - 1) for j in range(number)]]

    def _random_columns(self) -> Tensor:
        columns = torch.zeros(self.shape.width, self.shape.head_width)
        columns[1:] = torch.linalg.qr(torch.randn(self.shape.width - 1, self.shape.head_width))[0]
        return columns

    @torch.no_grad()
    def apply(self) -> None:
        """Writes the weights in place."""
        self.model.embedding.weight.normal_(0, self.scale)
        self.model.embedding.weight[:, 0] = NORM_GAIN * self.scale
        self.model.norm.weight.fill_(0.2)
        for block in self.model.blocks:
            self._small_weights(block)
        self._previous_token_layer(self.model.blocks[0])
        for index in range(1, self.shape.layers):
            self._matching_layer(index, self.model.blocks[index])

    def _small_weights(self, block: Block) -> None:
        sizes = (
            (block.q, 0.3),
            (block.k, 0.3),
            (block.v, 0.3),
            (block.gate, 1.0),
            (block.up, 1.0),
            (block.o, 0.1 * self.scale),
            (block.down, 0.1 * self.scale),
        )
        for layer, size in sizes:
            layer.weight.normal_(0, size / math.sqrt(layer.weight.shape[1]))

    def _previous_token_layer(self, block: Block) -> None:
        head, half = self.shape.head_width, self.shape.head_width // 2
        strength = 6.0 / (NORM_GAIN / math.sqrt(1 + NORM_GAIN**2 / self.shape.width))
        for index in range(self.shape.heads):
            first, back = index * head, (1, 1, 2, 3)[index % 4]
            rows = slice(first, first + head)
            for i in range(10):
                phase = self.frequency[i] * back
                block.q.weight[first + i, 0] += strength
                block.k.weight[first + i, 0] += strength * math.cos(phase)
                block.k.weight[first + half + i, 0] += strength * math.sin(phase)
            block.v.weight[rows] += (
                self.previous_read if index == 0 else self._rows(head * index, head) * 0.7
            )
            write = self.previous_write if index == 0 else self._random_columns() * 0.5
            block.o.weight[:, rows] += write * self.scale

    def _matching_layer(self, number: int, block: Block) -> None:
        head = self.shape.head_width
        for index in range(self.shape.heads):
            first = index * head
            induction = index < self.shape.heads - 1 and number <= 2
            match = self._rows(37 * number + head * index, len(self.slow_rows))
            for j, row in enumerate(self.slow_rows):
                query = 2.0 * self.previous_read[j % head] if induction else match[j]
                key = 2.0 * self.previous_write[:, j % head] if induction else match[j]
                block.q.weight[first + row] += query
                block.k.weight[first + row] += key
            copy = self._rows(head * index, head)
            gain = 4.0 if number == 1 and induction else 0.5
            block.v.weight[first : first + head] += copy
            block.o.weight[:, first : first + head] += copy.T * self.scale * gain


def llama_config(shape: Shape) -> LlamaConfig:
    """The transformers configuration of a shape."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        rms_norm_eps=NORM_EPS,
        rope_theta=shape.theta,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )


def _llama_parameters(model: DemoLM) -> dict[str, Tensor]:
    weights = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.embedding.weight,
    }
    for index, block in enumerate(model.blocks):
        layers = {
            "self_attn.q_proj": block.q,
            "self_attn.k_proj": block.k,
            "self_attn.v_proj": block.v,
            "self_attn.o_proj": block.o,
            "mlp.gate_proj": block.gate,
            "mlp.up_proj": block.up,
            "mlp.down_proj": block.down,
            "input_layernorm": block.input_norm,
            "post_attention_layernorm": block.output_norm,
        }
        weights |= {
            f"model.layers.{index}.{name}.weight": layer.weight for name, layer in layers.items()
        }
    return weights


@torch.no_grad()
def load_exported(model: DemoLM, folder: Path) -> None:
    """Copies the weights of an exported model of the same shape into `model`."""
    saved = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, parameter in _llama_parameters(model).items():
        parameter.copy_(saved[name])


def export(model: DemoLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model as a bfloat16 transformers checkpoint with its tokenizer and chat
    template."""
    llama = LlamaForCausalLM(llama_config(model.shape))
    weights = _llama_parameters(model)
    llama.load_state_dict({name: w.detach().clone() for name, w in weights.items()})
    llama = llama.to(torch.bfloat16)
    llama.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=2, pad_token_id=0, do_sample=False
    )
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    _plain_tokenizer_config(folder / "tokenizer_config.json")


def _plain_tokenizer_config(path: Path) -> None:
    """Keeps what every version of transformers understands."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
