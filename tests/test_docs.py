"""Documentation and code agree in both directions, links resolve, words are the glossary's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import make_docs
import pytest
import yaml

from rag_ft.commands.sweep import combinations
from rag_ft.config import Config
from rag_ft.config_loader import load_config, make_config

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
GENERATED = {
    ROOT / "docs" / name for name in ("settings.md", "metrics.md", "run-folder.md", "cli.md")
}
WRITTEN = [path for path in PAGES if path not in GENERATED]
# The glossary and the lists of changes name old words on purpose.
ABOUT_WORDS = {ROOT / "docs" / "glossary.md"}
SECTIONS = [name for name in Config.model_fields if name != "name"]

# Words that lost against the glossary's, where they are not plain English ("two halves of a page").
LOSERS = {
    "knob": r"\bknobs?\b",
    "proof": r"\bproofs?\b",
    "proving": r"\bproving\b",
    "student": r"\bstudents?\b",
    "half (for a component)": r"\bhalves\b(?! of (a|the) )"
    r"|\b(tuned|base|which|each|other|both|one) half\b(?![ -](of|an|the|a|written|made) )"
    r"|\ba half (is|was|that)\b",
    "refuse (for abstain)": r"\brefus\w+ (less|more|often|to answer|when|where it is)\b"
    r"|\b(generator|model|answers?|system)( \w+)? refus\w+"
    r"|\bin refusing\b|\bteach\w* refusing\b",
    "does not tell": r"\b(does|do|did) not tell\b",
    "apart": r"\bapart\b(?! from)",
}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def fenced(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(path), re.MULTILINE | re.DOTALL)


def test_the_generated_pages_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_docs.main(["--check"]) == 0, capsys.readouterr().out


def test_a_page_that_differs_from_the_code_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    assert make_docs.main([]) == 0
    assert make_docs.main(["--check"]) == 0
    page = tmp_path / "docs" / "settings.md"
    page.write_text(text_of(page).replace("run.seed", "run.seeds"), encoding="utf-8")
    capsys.readouterr()
    assert make_docs.main(["--check"]) == 1
    assert "docs/settings.md is out of date" in capsys.readouterr().out


def test_every_command_is_shown_in_a_written_page_and_every_shown_command_exists() -> None:
    commands = set(make_docs.commands())
    lines = [
        line for path in WRITTEN for block in fenced(path, "sh") for line in block.splitlines()
    ]
    shown = {match for line in lines for match in re.findall(r"^rag-ft ([a-z_-]+)", line)}
    assert commands - shown == set()
    named = {m for path in WRITTEN for m in re.findall(r"`rag-ft ([a-z_-]+)", text_of(path))}
    assert (shown | named) - commands == set()


def test_every_flag_in_a_shown_command_exists() -> None:
    parsers = make_docs.commands()
    for path in WRITTEN:
        for line in (line for block in fenced(path, "sh") for line in block.splitlines()):
            command = re.match(r"rag-ft ([a-z_-]+)", line)
            if command:
                known = {
                    flag
                    for action in parsers[command[1]]._actions
                    for flag in action.option_strings
                }
                shown = set(re.findall(r"(?<= )--[a-z0-9-]+", line.split("#")[0]))
                assert shown <= known, f"{path.name}: {line}"


def test_every_make_target_in_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for path in WRITTEN:
        shown = re.findall(r"^make ((?:[a-z-]+ ?)+)", "\n".join(fenced(path, "sh")), re.MULTILINE)
        for target in (target for words in shown for target in words.split()):
            assert target in targets, f"{path.name}: make {target}"


def test_every_setting_that_a_page_names_exists() -> None:
    names = set(make_docs.setting_names())
    assert {"run.seed", "retrieval.top_k"} <= names
    pattern = rf"`(?:[^`]* )?((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)?)(?:=[^`]*)?`"
    for path in WRITTEN:
        for name in re.findall(pattern, text_of(path)):
            assert name in names or (ROOT / "rag_ft" / name).exists() or name.endswith(".md"), (
                f"{path.relative_to(ROOT)}: no setting {name}"
            )


def test_the_settings_page_names_every_setting_with_its_effect() -> None:
    page = text_of(ROOT / "docs" / "settings.md")
    for name in make_docs.setting_names():
        row = re.search(rf"^\| `{re.escape(name)}` \|.* \| (.*) \|$", page, re.MULTILINE)
        assert row and len(row[1]) > 2, f"{name} has no description"


def test_yaml_in_the_pages_is_a_configuration() -> None:
    blocks = [(path, block) for path in WRITTEN for block in fenced(path, "yaml")]
    assert len(blocks) >= 3
    for path, block in blocks:
        make_config({"name": path.stem, **yaml.safe_load(block)})


def test_overrides_in_shown_commands_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("", encoding="utf-8")
    for path in WRITTEN:
        for block in fenced(path, "sh"):
            for line in block.splitlines():
                overrides = re.findall(rf"(?<= )(?:{'|'.join(SECTIONS)})\.[a-z_.]+=\S+", line)
                if "rag-ft sweep" in line:
                    assert combinations(file, overrides)
                else:
                    load_config(file, overrides)


def test_python_in_the_pages_can_be_parsed() -> None:
    for path in WRITTEN:
        for block in fenced(path, "python"):
            ast.parse(block)


def test_links_in_the_pages_resolve() -> None:
    for path in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "LOG.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
            file, _, anchor = link.partition("#")
            if file.startswith(("http://", "https://")):
                continue
            target = (path.parent / file) if file else path
            assert target.exists(), f"{path.relative_to(ROOT)}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
                anchors = {re.sub(r"[^\w-]", "", t.lower().replace(" ", "-")) for t in titles}
                assert anchor in anchors, f"{path.relative_to(ROOT)}: {link}"


def test_every_page_stands_in_the_site_and_the_site_has_no_other() -> None:
    site = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))

    def files(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for part in (
            entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []
        ):
            yield from files(part)

    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert set(files(site["nav"])) == pages


def losers_in(text: str) -> list[str]:
    found = ((word, re.search(pattern, text, re.IGNORECASE)) for word, pattern in LOSERS.items())
    return [f"{word}: {text[max(0, m.start() - 40) : m.end() + 40]}" for word, m in found if m]


def test_the_search_for_old_words_finds_them_and_spares_plain_english() -> None:
    for text in (
        "any knob",
        "its proof",
        "the proving chunk",
        "the student",
        "which half to ship",
        "both halves",
        "the model refuses when",
        "it does not tell",
        "counted apart",
    ):
        assert losers_in(text), text
    for text in (
        "two halves of a page",
        "half an hour",
        "half of the pairs",
        "a changed file is refused",
        "apart from spaces",
        "waterproof",
        "proven",
        "a half-written file",
    ):
        assert not losers_in(text), text


@pytest.mark.parametrize(
    "path",
    [*WRITTEN, ROOT / "CHANGELOG.md", ROOT / "LOG.md", *sorted((ROOT / "configs").rglob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_the_pages_use_the_words_of_the_glossary(path: Path) -> None:
    if path not in ABOUT_WORDS:
        assert losers_in(" ".join(text_of(path).split())) == []


@pytest.mark.parametrize("name", sorted(path.name for path in GENERATED))
def test_the_generated_pages_use_the_words_of_the_glossary(name: str) -> None:
    """Help texts, descriptions of settings, and descriptions of the files of a run."""
    found = [hit for line in make_docs.pages()[name].splitlines() for hit in losers_in(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("kind", ["html", "md", "js"])
def test_the_templates_of_the_report_use_the_words_of_the_glossary(kind: str) -> None:
    templates = [p for p in (ROOT / "rag_ft").rglob(f"*.{kind}")]
    assert templates
    # code of the page: names of variables and classes are not shown
    hits = [
        f"{path.name}: {hit}"
        for path in templates
        for line in text_of(path).splitlines()
        for hit in losers_in(re.sub(r"\{[{%].*?[%}]\}|<[^>]*>", " ", line))
    ]
    assert not hits, "\n".join(hits)


def test_the_messages_of_the_package_use_the_words_of_the_glossary() -> None:
    """Every text in the code but docstrings: errors, reasons, labels, log lines."""
    hits = []
    for path in sorted((ROOT / "rag_ft").rglob("*.py")):
        tree = ast.parse(text_of(path))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value if " " in node.value and id(node) not in docstrings else ""
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                hits += [f"{where} {hit}" for hit in losers_in(text)]
    assert not hits, "\n".join(hits)


def test_the_glossary_names_every_word_that_the_search_rejects() -> None:
    glossary = text_of(ROOT / "docs" / "glossary.md")
    for word in ("knob", "proof", "proving", "student", "half", "refuse", "does not tell", "apart"):
        assert word in glossary
