"""A language model that would fail or answer at random later is refused when it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import ENDS_TWICE, chat_tokenizer, edit_json, make_model

from rag_ft.errors import ConfigError
from rag_ft.llm.causal_lm import check_language_model, load_causal_lm, unused_settings
from rag_ft.llm.chat_template import load_chat_tokenizer
from rag_ft.training.generator.lora import without_adapter
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.model_shape import read_shape, shape_from_files


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("llama") / "model")


def changed(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "model"))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as error:
        load_causal_lm(folder, "float32", "cpu")
    assert "\n" not in str(error.value)


def test_missing_weights_are_named(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = {name: w for name, w in weights.items() if "layers.1.mlp.up_proj" not in name}
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"lack 1 weights .*layers\.1\.mlp\.up_proj\.weight.* would be random")
    prefixed = {f"module.{name}": weight for name, weight in weights.items()}
    save_file(prefixed, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "lack .* weights of its architecture")


def test_quantised_weights_without_their_package_name_it(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path)
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(folder, r"quantised weights \(gptq\).* install the package that reads gptq")


def test_code_in_the_folder_does_not_run_unless_a_setting_allows_it(
    llama: Path, tmp_path: Path
) -> None:
    folder, mark = changed(llama, tmp_path), tmp_path / "ran"
    code = (
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"open({str(mark)!r}, 'w').close()\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    (folder / "own_code.py").write_text(code, encoding="utf-8")
    classes = {
        "AutoConfig": "own_code.OwnConfig",
        "AutoModelForCausalLM": "own_code.OwnModel",
    }
    edit_json(folder / "config.json", model_type="own", auto_map=classes)
    refused(folder, r"Python code of its own.*llm\.advanced\.trust_remote_code=true")
    with pytest.raises(ConfigError, match="trust_remote_code"):
        read_shape(folder)
    load_chat_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("family", ["gpt2", "opt", "ctrl"])
def test_positions_that_end_before_the_prompts_are_refused(family: str, tmp_path: Path) -> None:
    folder = make_model(family, tmp_path / family)
    model = load_causal_lm(folder, "float32", "cpu")
    check_language_model(model, folder, 128)
    with pytest.raises(ConfigError, match=r"has 128 positions.* set it to at most 128"):
        check_language_model(model, folder, 129)


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path: Path) -> None:
    folder = make_model("bert", tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"\(bert\) reads texts in both directions"):
        check_language_model(load_causal_lm(folder, "float32", "cpu"), folder, 128)


@pytest.mark.parametrize("family", ["gemma3", "mistral3", "mamba", "jamba", "llama4"])
def test_every_adapter_layer_is_one_that_text_goes_through(family: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = load_causal_lm(make_model(family, tmp_path / family), "float32", "cpu")
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        target_modules="all-linear",
        exclude_modules=without_adapter(model),
    )
    tuned = get_peft_model(model, lora)
    tuned(input_ids=torch.arange(60, 90)[None]).logits.sum().backward()
    moving = {n: p.grad is not None and bool(p.grad.any()) for n, p in tuned.named_parameters()}
    adapters = {name: moves for name, moves in moving.items() if "lora_B" in name}
    assert adapters and all(adapters.values())


def test_a_plain_text_model_is_adapted_as_before(llama: Path) -> None:
    assert without_adapter(load_causal_lm(llama, "float32", "cpu")) is None


def test_one_end_mark_is_learned_where_the_template_writes_two(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path)
    chat_tokenizer(ENDS_TWICE, eos="</s>").save_pretrained(folder)
    tokens = load_chat_tokens(str(folder))
    encoded = tokens.encode(({"role": "user", "content": "Who?"},), "Ada")
    learned = encoded.input_ids[encoded.num_prompt_tokens :]
    assert tokens.tokenizer.decode(learned) == "Ada<|im_end|>"


def test_marks_beyond_the_vocabulary_are_refused_and_unused_ones_are_not(
    llama: Path, tmp_path: Path
) -> None:
    folder = changed(llama, tmp_path)
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    load_chat_tokenizer(folder)  # Gemma 3 has such a token
    tokenizer.chat_template = str(tokenizer.chat_template) + "<image>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"1 tokens beyond the 260 rows .*'<image>'.*resize"):
        load_chat_tokenizer(folder)
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens(["word"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match="tokens beyond the 260 rows"):
        load_chat_tokenizer(folder)


def test_a_template_that_loops_for_ever_is_given_up(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.llm import chat_template

    monkeypatch.setattr(chat_template, "TEMPLATE_SECONDS", 0.2)
    folder = changed(llama, tmp_path)
    loop = "{% for a in range(4000) %}{% for b in range(4000) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop + "x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"takes longer than .* correct chat_template"):
        load_chat_tokenizer(folder)


def test_a_template_without_the_question_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path)
    (folder / "chat_template.jinja").write_text("<|im_start|>assistant", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"leaves out what the user asks.* use another model"):
        load_chat_tokenizer(folder)


def test_a_tokenizer_with_code_of_its_own_is_not_exchanged_for_another(
    llama: Path, tmp_path: Path
) -> None:
    folder = changed(llama, tmp_path)
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Tok", None]}}
    edit_json(folder / "tokenizer_config.json", **own)
    with pytest.raises(ConfigError, match=r"llm\.advanced\.trust_remote_code=true"):
        load_chat_tokenizer(folder)


def test_weights_that_are_quantised_in_an_unknown_way_or_of_another_shape_are_refused(
    llama: Path, tmp_path: Path
) -> None:
    folder = changed(llama, tmp_path)
    edit_json(folder / "config.json", quantization_config={"quant_method": "exl2"})
    refused(folder, r"quantised weights \(exl2\), which transformers does not read: set llm\.model")
    edit_json(folder / "config.json", quantization_config=None, intermediate_size=64)
    refused(folder, "have other shapes than its config.json says")


def test_settings_of_replies_that_no_backend_applies_are_named(llama: Path) -> None:
    model = load_causal_lm(llama, "float32", "cpu")
    assert unused_settings(model) == {}
    model.generation_config.repetition_penalty, model.generation_config.num_beams = 1.1, 1
    assert unused_settings(model) == {"repetition_penalty": 1.1}


def test_a_model_that_fails_on_a_short_text_is_one_line(llama: Path) -> None:
    model = load_causal_lm(llama, "float32", "cpu")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(5, 5)
    with pytest.raises(ConfigError, match=r"cannot read a short text .* set llm\.model"):
        check_language_model(model, llama, 128)


@pytest.mark.parametrize("family", ["ctrl", "gemma3n"])
def test_the_shape_is_read_whatever_its_numbers_are_called(family: str, tmp_path: Path) -> None:
    folder = make_model(family, tmp_path / family)
    shape = shape_from_files(folder)
    model = load_causal_lm(folder, "float32", "cpu")
    assert shape.parameters == model.num_parameters()
    assert (shape.layers, shape.hidden, shape.vocabulary) == (2, 32, 260)
    assert isinstance(shape.feed_forward, int)


def test_a_configuration_that_contradicts_itself_is_one_line(llama: Path, tmp_path: Path) -> None:
    folder = changed(llama, tmp_path)
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | {"num_attention_heads": "many"}))
    refused(folder, "does not load as a causal language model")
