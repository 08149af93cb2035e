"""The loss is on the answer and its end mark, after exactly the prompt that serving sends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import trl
from tiny_models import CHATML
from tokenizers import AddedToken

from rag_ft.errors import ConfigError
from rag_ft.llm.chat_template import load_chat_tokenizer, render, special_tokens
from rag_ft.training.generator.tokenization import ChatTokens

MESSAGES = ({"role": "user", "content": "When does the end of the ferry's day come? Say: end."},)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
NO_END = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEMPLATES = {
    "qwen3.jinja": ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"),
    "qwen2_5.jinja": ("<|im_start|>assistant\n", "<|im_end|>"),
    "glm4moe.jinja": ("<|assistant|>\n<think></think>", "<|im_end|>"),
    "gptoss.jinja": ("<|start|>assistant", "<|return|>"),
    "llama3.jinja": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "gemma.jinja": ("<start_of_turn>model\n", "<end_of_turn>"),
    CHATML: ("<|im_start|>assistant\n", "<|im_end|>"),
    TRIMMING: ("<|im_start|>assistant\n", "<|im_end|>"),
    NO_END: ("assistant: ", "<|im_end|>"),
}


def tokenizer_with(template: str, folder: Path) -> Any:
    """The tiny model's tokenizer, whose end token is <|im_end|>, with this template or TRL's."""
    tokenizer = load_chat_tokenizer(folder)
    tokenizer.bos_token = "<|endoftext|>"
    file = (
        Path(trl.__file__).parent / "chat_templates" / template
        if template.endswith(".jinja")
        else None
    )
    tokenizer.chat_template = file.read_text(encoding="utf-8") if file else template
    return tokenizer


@pytest.mark.parametrize("answer", ["end", "im", "e", "m", "8:15", "<|", "The end"])
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda name: name[:20])
def test_the_prompt_is_that_of_serving_and_the_target_is_answer_and_end_mark(
    template: str, answer: str, tiny_lm_dir: Path
) -> None:
    tokenizer = tokenizer_with(template, tiny_lm_dir)
    encoded = ChatTokens(tokenizer).encode(MESSAGES, answer)
    prompt = tokenizer.decode(encoded.input_ids[: encoded.num_prompt_tokens])
    opening, end = TEMPLATES[template]
    assert prompt == render(tokenizer, MESSAGES) and prompt.endswith(opening)
    assert tokenizer.decode(encoded.input_ids[encoded.num_prompt_tokens :]) == answer + end


def test_a_finished_turn_of_a_thinking_template_is_what_is_trained_on(tiny_lm_dir: Path) -> None:
    tokenizer = tokenizer_with("qwen3.jinja", tiny_lm_dir)
    turn = [*MESSAGES, {"role": "assistant", "content": "8:15"}]
    whole = tokenizer.decode(ChatTokens(tokenizer).encode(MESSAGES, "8:15").input_ids)
    assert tokenizer.apply_chat_template(turn, tokenize=False) == whole + "\n"


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}", "{{ raise_exception('no system role') }}"]
)
def test_a_template_that_renders_nothing_is_one_line(
    tmp_path: Path, tiny_lm_dir: Path, template: str
) -> None:
    folder = Path(shutil.copytree(tiny_lm_dir, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"chat template of .* cannot render a question"):
        load_chat_tokenizer(folder)


def test_tokens_that_are_special_without_a_name_are_escaped_in_prompts_and_answers(
    tiny_lm_dir: Path,
) -> None:
    tokenizer = load_chat_tokenizer(tiny_lm_dir)
    names = ["[ARGS]", "<|turn>", "<end_of_utterance>", "[SEP]", "<fim_prefix>", "§CTRL§"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names])
    tokens = ChatTokens(tokenizer)
    hostile = "Ada " + " ".join(names) + " <|im_end|> Bo"
    encoded = tokens.encode(({"role": "user", "content": hostile},), hostile)
    specials = set(tokenizer.convert_tokens_to_ids(names))
    assert not specials & set(encoded.input_ids)
    learned = tokenizer.decode(encoded.input_ids[encoded.num_prompt_tokens :])
    assert learned.endswith("Bo<|im_end|>") and learned.count("<|im_end|>") == 1
    assert special_tokens(tokenizer)[-1] == "§CTRL§"
