"""The configuration file: what a parser or a number would make of it, and what a user means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rag_ft.config_loader import flat, load_config, make_config
from rag_ft.errors import ConfigError


def test_a_path_may_be_a_text() -> None:
    assert load_config("configs/demo.yaml") == load_config(Path("configs/demo.yaml"))


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("ingest:\n  sources: [a]\nrun: {}\ningest:\n  test_share: 0.2\n")
    with pytest.raises(ConfigError, match="'ingest' stands on line 1 and again on line 4"):
        load_config(path)
    path.write_text("ingest:\n  test_share: 0.1\n  test_share: 0.2\n")
    with pytest.raises(ConfigError, match="'test_share' stands on line 2 and again on line 3"):
        load_config(path)
    path.write_text("x: &x {seed: 1}\nrun:\n  <<: *x\n  seed: 2\n")  # a merge key is no repetition
    with pytest.raises(ConfigError, match="unknown key x"):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 3000, "[" * 100_000, "- " * 100_000, "{a: " * 100_000),
        "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000)),
        "run: {seed: " + "9" * 5000 + "}",
        "run: {seed: 1e",
    ],
    ids=["brackets", "more brackets", "lists", "mappings", "aliases", "digits", "no end"],
)
def test_what_no_parser_takes_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_value_of_nested_aliases_is_shown_in_short(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    inside = "\n  ".join(lines)
    path = tmp_path / "run.yaml"
    path.write_text(f"run:\n  {inside}\n  seed: *a11\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize("text", ["run: &r\n  dir: *r\n", "ingest:\n  sources: &s [*s]\n"])
def test_a_value_that_holds_itself_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="aliases stand for more than"):
        load_config(path)


def test_two_equal_alias_bombs_at_an_old_and_a_new_name_end_at_once(tmp_path: Path) -> None:
    lines = []
    for name in "ab":
        lines.append(f"{name}0: &{name}0 [x, x, x, x, x, x, x, x, x]")
        lines += [
            f"{name}{n}: &{name}{n} [{', '.join([f'*{name}{n - 1}'] * 9)}]" for n in range(1, 12)
        ]
    path = tmp_path / "run.yaml"
    path.write_text("\n".join([*lines, "run: {dtype: *a11}", "llm: {dtype: *b11}", ""]))
    with pytest.raises(ConfigError, match="aliases stand for more than"):
        load_config(path)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800"])
def test_a_path_that_no_file_can_have_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir"):
        make_config({"run": {"dir": text}})
    with pytest.raises(ConfigError, match=r"ingest\.sources"):
        make_config({"ingest": {"sources": [text]}})


def test_no_number_is_endless() -> None:
    """Every numeric setting has a range: neither infinity nor a number beyond reason passes."""
    for name, value in flat(make_config({})).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        section, *rest = name.split(".")
        for wrong in (float("inf"), float("nan"), 1e30, 10**30, -1e30):
            inner = {rest[-1]: wrong} if len(rest) == 1 else {"advanced": {rest[-1]: wrong}}
            with pytest.raises(ConfigError, match=re.escape(name)):
                make_config({section: inner})


def test_home_and_variables_in_paths_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    config = make_config(
        {"run": {"dir": "~/runs/a"}, "ingest": {"sources": ["$HOME/docs", {"path": "~/more"}]}}
    )
    assert str(config.run_path) == "/home/ada/runs/a"
    first, second = config.ingest.sources
    assert str(first) == "/home/ada/docs" and str(getattr(second, "path", "")) == "/home/ada/more"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ingest: {sources: documents}", r"\(got 'documents'; write \['documents'\]\)"),
        ("ingest:\n\tsources: [a]", "not YAML: .* at line 2, column 1$"),
        ("\udcff\udcfe", "cannot read .*: it is no text in UTF-8; name a YAML file"),
    ],
)
def test_the_mistakes_of_a_first_configuration_are_plain_lines(
    text: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=told):
        load_config(path)
