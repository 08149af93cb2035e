"""Model folders: found by name, fingerprinted, and read before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rag_ft import model_hub
from rag_ft.errors import ConfigError
from rag_ft.llm import transformers_backend
from rag_ft.llm.transformers_backend import check_memory, load_causal_lm
from rag_ft.model_hub import fingerprint, load_token_counter, load_tokenizer, resolve, weights_gb
from rag_ft.storage import file_sha256

GIB = 2**30


def save(path: Path, num: int, dtype: torch.dtype) -> None:
    save_file({f"w{num}": torch.zeros(num, dtype=dtype)}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("stored", "wanted", "num_bytes"),
    [
        (torch.float32, "float32", 4),
        (torch.float32, "bfloat16", 2),
        (torch.bfloat16, "float32", 4),
        (torch.float16, "bfloat16", 2),
        (torch.int8, "float32", 1),
    ],
)
def test_weights_are_counted_as_they_are_computed(
    tmp_path: Path, stored: torch.dtype, wanted: str, num_bytes: int
) -> None:
    save(tmp_path / "model.safetensors", 1000, stored)
    assert weights_gb(tmp_path, wanted) * GIB == 1000 * num_bytes


def test_only_the_files_that_are_loaded_count(tmp_path: Path) -> None:
    for name, num in (("consolidated", 5000), ("model-1", 100), ("model-2", 200)):
        save(tmp_path / f"{name}.safetensors", num, torch.float32)
    assert weights_gb(tmp_path, "float32") == 0
    index = {
        "weight_map": {
            "a": "model-1.safetensors",
            "b": "model-1.safetensors",
            "c": "model-2.safetensors",
        }
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_gb(tmp_path, "float32") * GIB == 1200
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(
        ConfigError,
        match=r"cannot read the weights .*model-2\.safetensors.*download the model again",
    ):
        weights_gb(tmp_path, "float32")


@pytest.mark.parametrize("kept", [0, 4, 30, -1])
def test_weights_that_were_copied_by_half_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save(path, 1000, torch.float32)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"model\.safetensors.*copy or download the model again"):
        check_memory(tmp_path, "float32", "cpu")


def test_what_cannot_be_loaded_is_an_error_in_one_line(tiny_lm_dir: Path, tmp_path: Path) -> None:
    for file in tiny_lm_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="does not load as a causal language model"):
        load_causal_lm(tmp_path, "float32", "cpu")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    save(tmp_path / "model.safetensors", 1000, torch.float32)
    monkeypatch.setattr(transformers_backend, "free_memory_gb", lambda device: 3999 / GIB)
    check_memory(tmp_path, "bfloat16", "cpu")
    with pytest.raises(ConfigError, match="use a smaller or quantised model"):
        check_memory(tmp_path, "float32", "cpu")


HANDBOOK = Path(__file__).parent.parent / "data" / "handbook"
ODD_TEXTS = [
    "",
    " \n\t",
    "[SEP] and [MASK] [CLS]",
    "图书馆每天早上九点开门",
    "naïve e\u0301 👩‍🚀\u0000",
    "x" * 5000,
    "a\u200bb",
]


def test_tokens_are_counted_as_transformers_counts_them(demo_encoder: str) -> None:
    folder = resolve(demo_encoder, "encoder")
    texts = [
        path.read_text(errors="replace")
        for path in sorted(HANDBOOK.rglob("*.*"))
        if path.suffix != ".pdf"
    ]
    texts += [line for text in texts for line in text.splitlines()] + ODD_TEXTS
    expected = load_tokenizer(folder)(texts, add_special_tokens=False, verbose=False)["input_ids"]
    assert load_token_counter(folder)(texts) == [len(ids) for ids in expected]
    assert len(texts) > 1000 and sum(map(len, expected)) > 10_000


def test_without_tokenizer_json_tokens_are_counted_by_transformers(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    expected = load_token_counter(tiny_encoder_dir)(ODD_TEXTS)
    folder = tmp_path / "slow"
    shutil.copytree(tiny_encoder_dir, folder)
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.__getitem__)))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "BertTokenizer"})
    )
    counted = load_token_counter(folder)(["abc def", "a"])
    assert counted == load_token_counter(tiny_encoder_dir)(["abc def", "a"]) and len(
        expected
    ) == len(ODD_TEXTS)


def test_a_damaged_tokenizer_is_an_error_in_one_line(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_encoder_dir, tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{")
    with pytest.raises(
        ConfigError, match=r"cannot read .*tokenizer\.json.*copy the model's tokenizer again"
    ) as error:
        load_token_counter(tmp_path / "bad")
    assert "\n" not in str(error.value)


def test_counting_tokens_imports_neither_torch_nor_transformers(tiny_encoder_dir: Path) -> None:
    code = (
        "import sys, pathlib, rag_ft.stages.ingest; "
        "from rag_ft.model_hub import load_token_counter as load; "
        "assert load(pathlib.Path(sys.argv[1]))(['ab ']) == [2]; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_encoder_dir)], check=True)


def test_the_package_answers_for_the_short_name_and_the_hub_id_alike(demo_encoder: str) -> None:
    assert resolve(demo_encoder, "encoder") == resolve(
        f"sentence-transformers/{demo_encoder}", "encoder"
    )


def test_a_fingerprint_changes_with_content_and_names_and_not_with_the_place(
    tiny_lm_dir: Path, tmp_path: Path
) -> None:
    first = fingerprint(tiny_lm_dir)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_lm_dir, copy)
    (copy / "README.md").write_text("a model card does not count")
    (copy / "sub").mkdir()
    (copy / "sub" / "notes.txt").write_text("nor does what no module is made of")
    assert fingerprint(copy) == fingerprint(copy, exact=True) == first
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    changed = fingerprint(copy)
    weights.rename(copy / "other.safetensors")
    assert len({first, changed, fingerprint(copy)}) == 3


def test_the_folders_of_an_encoders_modules_count_and_its_adapter_does_not(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_encoder_dir, copy)
    (copy / "adapter").mkdir()
    (copy / "adapter" / "adapter_config.json").write_text("{}")
    assert fingerprint(copy) == fingerprint(tiny_encoder_dir)
    next(copy.glob("*_Pooling/config.json")).write_text("{}")
    assert fingerprint(copy) != fingerprint(tiny_encoder_dir)


def test_large_models_are_told_from_each_other_everywhere_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model_hub, "WHOLE_BYTES", 1000)
    prints = []
    for name, middle in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        content = b"0" * 2**21 + middle + b"0" * 2**21
        (tmp_path / name / "model.safetensors").write_bytes(content)
        prints.append((fingerprint(tmp_path / name), fingerprint(tmp_path / name, exact=True)))
    assert prints[0][0] == prints[1][0] and prints[0][1] != prints[1][1]


def test_a_file_is_hashed_once_while_its_size_and_time_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    os.utime(path, ns=(1, 2))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file_sha256(path)
