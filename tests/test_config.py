from pathlib import Path

import pytest

from rag_ft.config import Config, _knobs
from rag_ft.config_loader import flat, load_config
from rag_ft.errors import ConfigError

ROOT = Path(__file__).parent.parent


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_command_line_beats_file_beats_default(tmp_path: Path) -> None:
    path = write(tmp_path, "ingest:\n  chunk_tokens: 64\n  dev_share: 0.2\n")
    config = load_config(path, ["ingest.chunk_tokens=32"])
    assert (config.ingest.chunk_tokens, config.ingest.dev_share, config.ingest.test_share) == (
        32,
        0.2,
        0.3,
    )
    assert config.run_path == Path("runs/some")


def test_scientific_notation_is_a_number_although_yaml_reads_a_string(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "train_generator:\n  learning_rate: 1e-4\n"))
    assert config.train_generator.learning_rate == 1e-4


def test_an_unknown_key_names_the_nearest_one_and_all_errors_come_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "ingest:\n  chunk_tokns: 64\nretrieval:\n  mode: dens\n")
    with pytest.raises(ConfigError, match=r"did you mean ingest.chunk_tokens\?.*retrieval.mode"):
        load_config(path)


def test_a_key_in_the_wrong_section_names_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key ingest.top_k: did you mean retrieval.top_k\?"
    ):
        load_config(write(tmp_path, "ingest:\n  top_k: 4\n"))


@pytest.mark.parametrize("override", ["chunk_tokens=3", "ingest.chunk_tokens", "=", "ingest.=3"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(write(tmp_path, ""), [override])


@pytest.mark.parametrize("text", ["- a\n- b\n", "ingest: 3\n", "ingest: [1"])
def test_a_file_that_is_no_sections_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="configs/"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_loads_and_says_its_hardware(path: Path) -> None:
    load_config(path)
    assert "Hardware" in path.read_text(encoding="utf-8").splitlines()[0]


def test_every_knob_has_a_description_and_is_used() -> None:
    source = "\n".join(
        p.read_text(encoding="utf-8")
        for p in (ROOT / "rag_ft").rglob("*.py")
        if p.name != "config.py"
    )
    for section, field in Config.model_fields.items():
        for name, knob in _knobs(field.annotation).items():
            assert knob.description, f"{section}.{name} has no description"
            assert f".{name}" in source or f'"{name}"' in source, (
                f"{section}.{name} is used nowhere"
            )


def test_flat_lists_every_knob_once() -> None:
    values = flat(Config())
    assert values["ingest.chunk_tokens"] == 128
    assert "name" not in values


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "ingest.sources=[{pth: docs}]",
            "unknown key ingest.sources.0.pth: a source has path, split",
        ),
        (
            "ingest.sources=[{path: docs, split: tset}]",
            "ingest.sources.0.split: input should be 'train', 'dev' or 'test'",
        ),
        ("name.x=3", "unknown section name"),
    ],
)
def test_a_wrong_source_and_a_name_are_told_in_the_users_words(
    tmp_path: Path, override: str, told: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    assert (
        told in str(error.value)
        and "lax" not in str(error.value)
        and "Source" not in str(error.value)
    )


def test_a_section_that_is_no_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("1: {a: 2}", encoding="utf-8")
    with pytest.raises(ConfigError, match="must hold sections"):
        load_config(path)
