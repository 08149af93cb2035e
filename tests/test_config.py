import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from rag_ft import config, config_advanced, config_training
from rag_ft.config import Config, LLMConfig
from rag_ft.config_loader import (
    DELETED,
    flat,
    load_config,
    make_config,
    moved_settings,
    settings_table,
)
from rag_ft.errors import ConfigError

ROOT = Path(__file__).parent.parent
SECTIONS = {
    name: section
    for module in (config, config_advanced, config_training)
    for name, section in vars(module).items()
    if isinstance(section, type)
    and issubclass(section, BaseModel)
    and name not in ("BaseModel", "Section", "Source")
}


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
    with pytest.raises(ConfigError, match="correct the path"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_loads_and_says_its_hardware(path: Path) -> None:
    load_config(path)
    assert "Hardware" in path.read_text(encoding="utf-8").splitlines()[0]


class Reads(ast.NodeVisitor):
    """(section class, attribute) of everything that a module reads of a configuration or a section.

    Follows annotations, assignments, `self.x` and `.config`; `given` are names bound from outside.
    """

    def __init__(self, given: dict[str, type[BaseModel]]) -> None:
        self.bound, self.found = dict(given), set[tuple[type[BaseModel], str]]()

    def section_of(self, node: ast.expr) -> type[BaseModel] | None:
        if isinstance(node, ast.Attribute) and (section := self.section_of(node.value)):
            self.found.add((section, node.attr))
            field = section.model_fields.get(node.attr)
            return field.annotation if field and field.annotation in SECTIONS.values() else None
        name = ast.unparse(node)
        if name.startswith("self."):
            name = name.removeprefix("self")
        if name in self.bound:
            return self.bound[name]
        return Config if isinstance(node, ast.Attribute) and node.attr == "config" else None

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=True):
                self.bind(one, other)
        elif section := self.section_of(value):
            self.bound[ast.unparse(target).removeprefix("self")] = section

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self.bound)
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            section = annotated(argument.annotation)
            if (
                section is None
                and argument.arg == "llm"
                and ast.unparse(argument.annotation or node) == "Any"
            ):
                section = LLMConfig
            if section:
                self.bound[argument.arg] = section
        self.generic_visit(node)
        self.bound = outer | {name: s for name, s in self.bound.items() if name[0] == "."}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer = dict(self.bound)
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and (section := annotated(line.annotation)):
                self.bound["." + ast.unparse(line.target)] = section
        self.generic_visit(node)
        self.bound = outer

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if section := annotated(node.annotation):
            self.bound[ast.unparse(node.target).removeprefix("self")] = section
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.bind(target, node.value)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.section_of(node)
        self.generic_visit(node)


def annotated(annotation: ast.expr | None) -> type[BaseModel] | None:
    words = re.findall(r"\w+", ast.unparse(annotation)) if annotation else []
    return next((SECTIONS[word] for word in words if word in SECTIONS), None)


def reads_of(source: str, given: dict[str, type[BaseModel]] | None = None) -> set[tuple[str, str]]:
    reads = Reads(given or {})
    reads.visit(ast.parse(source))
    return {(section.__name__, name) for section, name in reads.found}


def all_reads() -> set[tuple[str, str]]:
    found = set()
    for path in (ROOT / "rag_ft").rglob("*.py"):
        # The modules of language models take the section `llm` alone.
        given = {"config": LLMConfig, "._config": LLMConfig} if "llm" in path.parts else {}
        given |= {"self": Config} if path.name == "config.py" else {}
        found |= reads_of(path.read_text(encoding="utf-8"), given)
    return found


def test_only_a_read_of_the_own_section_counts_as_use() -> None:
    source = "def f(model, config: Config):\n    s = config.train_generator.advanced\n"
    assert reads_of(source + "    return model.seed, model.epochs, s.rank") == {
        ("Config", "train_generator"),
        ("TrainGeneratorConfig", "advanced"),
        ("TrainGeneratorAdvanced", "rank"),
    }


def test_every_setting_is_read_from_its_own_section() -> None:
    # Config gives the dtype to encoder and LLM, tested below; the others are read by properties.
    read = all_reads() | {
        ("RunConfig", "dtype"),
        ("RetrievalConfig", "context"),
        ("TrainRerankerAdvanced", "enabled"),
    }
    unread = []
    for section in SECTIONS.values():
        for name, field in section.model_fields.items():
            if section is not Config and (section.__name__, name) not in read:
                unread.append(f"{section.__name__}.{name}")
            assert section is Config or name == "advanced" or field.description, (
                f"{section.__name__}.{name}"
            )
    assert unread == []


def test_everything_read_from_a_section_is_one_of_its_settings() -> None:
    unknown = [
        f"{section}.{name}"
        for section, name in sorted(all_reads())
        # Other libraries' objects have a `.config` too; for ours mypy knows the sections.
        if section != "Config"
        and name not in SECTIONS[section].model_fields
        and not hasattr(SECTIONS[section], name)
    ]
    assert unknown == []


def test_flat_lists_every_setting_once() -> None:
    values = flat(Config())
    assert values["ingest.chunk_tokens"] == 128 and values["generate.advanced.round_trip_k"] == 10
    assert values.keys() == {setting.name for setting in settings_table()}


def test_the_table_says_what_a_reader_needs_of_every_setting() -> None:
    table = settings_table()
    assert len({setting.name for setting in table}) == len(table)
    assert all(setting.description.endswith((".", "!")) for setting in table)
    assert sum(not setting.is_advanced for setting in table) <= 40
    [row] = [setting for setting in table if setting.name == "encoder.advanced.max_tokens"]
    assert (row.default, row.type, row.is_advanced) == ("null", "int | None", True)


@pytest.mark.parametrize("old", sorted(moved_settings()))
def test_a_moved_setting_takes_effect_and_says_its_new_place(
    old: str, caplog: pytest.LogCaptureFixture
) -> None:
    *sections, key = old.split(".")
    new = moved_settings()[old]
    value = flat(Config())[new]
    wanted = {"run.dtype": "bfloat16"}.get(new, value)
    values = {key: wanted}
    for section in reversed(sections):
        values = {section: values}
    assert flat(make_config(values))[new] == wanted
    assert [record.message for record in caplog.records] == [f"{old} has moved: write {new}"]


def test_with_title_was_true_or_false() -> None:
    for old, new in ((True, "title"), (False, "none")):
        config = make_config({"retrieval": {"advanced": {"with_title": old}}})
        assert config.retrieval.context == new


def test_the_command_line_beats_the_file_by_old_and_new_names(tmp_path: Path) -> None:
    by_old = write(tmp_path, "generate:\n  round_trip_k: 5\nllm:\n  dtype: bfloat16\n")
    config = load_config(by_old, ["generate.advanced.round_trip_k=7", "encoder.dtype=float32"])
    assert (config.generate.advanced.round_trip_k, config.run.dtype) == (7, "float32")
    by_new = write(tmp_path, "generate:\n  advanced:\n    round_trip_k: 5\n")
    assert load_config(by_new, ["generate.round_trip_k=7"]).generate.advanced.round_trip_k == 7


def test_one_dtype_is_that_of_encoder_and_language_model() -> None:
    config = make_config({"llm": {"dtype": "float32"}, "encoder": {"dtype": "float32"}})
    assert (config.run.dtype, config.llm.dtype, config.encoder.dtype) == ("float32",) * 3
    with pytest.raises(ConfigError, match=r"encoder.dtype='bfloat16' sets run.dtype, .* 'float32'"):
        make_config({"llm": {"dtype": "float32"}, "encoder": {"dtype": "bfloat16"}})


def test_two_old_names_with_two_values_on_the_command_line_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder.dtype='bfloat16' sets run.dtype"):
        load_config(write(tmp_path, ""), ["llm.dtype=float32", "encoder.dtype=bfloat16"])


@pytest.mark.parametrize("name", sorted(DELETED))
def test_a_deleted_setting_is_an_error_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} no longer exists: .*measured"):
        load_config(write(tmp_path, ""), [f"{name}=0"])


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("generate.rond_trip_k=3", "generate.advanced.round_trip_k"),
        ("generate.advanced.pairs_per_chunk=3", "generate.pairs_per_chunk"),
        ("train_generator.advanced.ranks=3", "train_generator.advanced.rank"),
        ("evaluate.pairs_per_chunk=3", "generate.pairs_per_chunk"),
        ("ingest.lsr_steps=3", "train_retriever.advanced.lsr_steps"),
        ("retreival.top_k=3", "retrieval"),
    ],
)
def test_an_unknown_name_names_the_nearest_anywhere(
    tmp_path: Path, override: str, nearest: str
) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean {nearest}\?"):
        load_config(write(tmp_path, ""), [override])


def test_a_language_model_is_asked_for_only_where_one_is_used() -> None:
    config = make_config({})
    with pytest.raises(ConfigError, match=r"set llm.model"):
        _ = config.llm.required_model
    assert make_config({"llm": {"model": "some"}}).llm.required_model == "some"


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


def test_answers_cite_where_the_prompts_ask_for_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text, cites in (
        ("llm: {prompts: full}", True),
        ("llm: {prompts: compact}", False),
        ("llm: {prompts: compact}\ntrain_generator: {advanced: {cite: true}}", True),
        ("llm: {prompts: full}\ntrain_generator: {advanced: {cite: false}}", False),
    ):
        path.write_text(text, encoding="utf-8")
        assert load_config(path).train_generator.advanced.cite is cites
