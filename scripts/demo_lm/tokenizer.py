"""Byte-level BPE in which a name has one spelling everywhere."""

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from . import filler, tasks

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Lower-case words carry their space; capitalised words, digits and codes do not. So "Tolda" is
# spelled alike in the context, at the start of an answer and inside JSON, which makes copying a
# matter of matching tokens.
PATTERN = r" ?[a-z]+|[A-Z]?[a-z]+|[A-Z]|[0-9]| ?[^\sA-Za-z0-9]+|\s"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _texts(items: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(items):
        item = tasks.training_item(rng, rng.choice(("middle", "full")))
        texts.append(
            item
            if isinstance(item, str)
            else "\n".join(f"user\n{u}\nassistant\n{a}" for u, a in item)
        )
    return texts + list(filler.english_sentences()) * 3


def build(vocabulary: int = 4096, items: int = 8000, seed: int = 7) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on generated items and ordinary English."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(items, seed), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
