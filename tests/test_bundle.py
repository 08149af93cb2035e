"""`rag-ft bundle`: a folder that answers as its run did, wherever it stands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from generator_run import Make, prepare
from test_deploy import check

from rag_ft.bundle.contents import Contents
from rag_ft.bundle.making import check_bundle, make_bundle
from rag_ft.bundle.manifest import open_bundle, read_manifest
from rag_ft.cli import main
from rag_ft.commands.explain import explain
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.rag import RagPipeline
from rag_ft.run_dir import RunDir
from rag_ft.serving.collections import open_collection, open_models
from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.storage import read_rows

Bundle = Callable[..., Path]
DEMO_LM = Path(__file__).parent.parent / "data" / "models" / "demo-lm"


@pytest.fixture(scope="module")
def finished() -> dict[str, tuple[Config, RunDir]]:
    """The run that `run` trained first; each test gets a copy of it."""
    return {}


@pytest.fixture
def run(
    finished: dict[str, tuple[Config, RunDir]],
    make_run: Make,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Config, RunDir]:
    """A run whose generator was tuned from the demo model, which answers in words."""
    if not finished:
        settings = {"max_steps": 8, "learning_rate": 1e-3}
        config, run_dir = prepare(make_run, settings=settings, llm__model=str(DEMO_LM))
        train_generator.run(Session(config, run_dir))
        kept = tmp_path_factory.mktemp("finished") / "run"
        finished["run"] = config, RunDir(Path(shutil.move(run_dir.path, kept)))
    config, trained = finished["run"]
    run_dir = RunDir(Path(shutil.copytree(trained.path, tmp_path / "run")))
    where = config.run.model_copy(update={"dir": run_dir.path})
    return config.model_copy(update={"run": where}), run_dir


def bundle_of(run: tuple[Config, RunDir], folder: Path, **options: Any) -> Path:
    folder.mkdir()
    contents = Contents(Session(*run), frozenset({"generator"}), **options)
    [drift] = make_bundle(contents, folder, "people", {"torch": "2.13.0+cpu"}, 6).values()
    assert (drift.questions, drift.equal, drift.same_chunks) == (6, 6, 6)
    return folder


@pytest.fixture(scope="module")
def made() -> dict[bool, Path]:
    """The first bundle, merged or not; each test gets a copy of it."""
    return {}


@pytest.fixture
def bundle(
    made: dict[bool, Path],
    run: tuple[Config, RunDir],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    def copy_of(merge: bool = False) -> Path:
        if merge not in made:
            made[merge] = bundle_of(run, tmp_path_factory.mktemp("made") / "bundle", merge=merge)
        return Path(shutil.copytree(made[merge], tmp_path / "bundle"))

    return copy_of


def config_file(config: Config, path: Path) -> Path:
    plain = config.model_dump(mode="json")
    plain.pop("name")
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return path


@pytest.mark.parametrize("merge", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_moved_bundle_answers_as_its_run_without_the_run(
    bundle: Bundle, run: tuple[Config, RunDir], tmp_path: Path, merge: bool
) -> None:
    moved = shutil.move(bundle(merge=merge), tmp_path / "moved")
    held = {path.name for path in (moved / "models").iterdir()}
    assert held == ({"encoder"} if merge else {"encoder", "llm"})
    assert (moved / "generator" / "adapter_config.json").exists() != merge
    modes = {path.stat().st_mode for path in (moved / "generator").iterdir()}
    assert len(modes) == 1  # nothing for one user alone: a container serves as another one
    shutil.rmtree(run[1].path)
    drift = check_bundle(moved)
    assert (drift.questions, drift.equal, drift.same_chunks) == (6, 6, 6)
    for text in (moved / "bundle.json", moved / "generator" / "adapter_config.json"):
        assert not text.exists() or str(tmp_path) not in text.read_text(encoding="utf-8")


def test_check_jsonl_holds_dev_questions_first_and_never_test_questions(
    bundle: Bundle, run: tuple[Config, RunDir]
) -> None:
    rows = list(read_rows(bundle() / "check.jsonl"))
    assert "Bex" in {row["answer"] for row in rows}
    assert {row["document_id"] for row in rows[:2]} == {"d8"}  # the dev document
    assert "d9" not in {row["document_id"] for row in rows}  # the test document
    assert {len(row["answers"]) for row in rows} == {0, 1}


@pytest.mark.slow
def test_a_bundle_without_base_serves_one_model_and_with_base_three(
    run: tuple[Config, RunDir], tmp_path: Path
) -> None:
    for with_base, ids in (
        (False, ["people"]),
        (True, ["people", "people-base", "people-closed-book"]),
    ):
        folder = bundle_of(run, tmp_path / f"bundle-{with_base}", with_base=with_base)
        collection = open_collection(open_bundle(folder), base_only=False)
        assert collection.tuned == {"generator"}
        with open_models([collection]) as models:
            assert [model.id for model in models] == ids
        if not with_base:
            with pytest.raises(ConfigError, match="bundle it with --with-base"):
                open_collection(open_bundle(folder), base_only=True)


def test_the_tuned_model_is_made_smaller_and_not_the_base_beside_it(
    run: tuple[Config, RunDir], tmp_path: Path
) -> None:
    contents = Contents(Session(*run), frozenset({"generator"}), merge=True, with_base=True)
    assert contents.answering(tmp_path) == RunDir(tmp_path).generator
    untuned = Contents(Session(*run), frozenset())
    assert untuned.answering(tmp_path) == tmp_path / "models" / "llm" / DEMO_LM.name


def flip_a_byte(folder: Path) -> None:
    path = folder / "generator" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def add_code(folder: Path) -> None:
    (folder / "generator" / "modeling_other.py").write_text("raise SystemExit\n")


def link_outside(folder: Path) -> None:
    path = folder / "prompts" / "answer.txt"
    target = shutil.move(path, folder.parent / "answer.txt")
    path.symlink_to(target)


def set_code(folder: Path) -> None:
    text = (folder / "bundle.json").read_text()
    own = '"settings": {'
    wrong = '"settings": {"llm.advanced.trust_remote_code": true,'
    (folder / "bundle.json").write_text(text.replace(own, wrong))


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (flip_a_byte, "generator/adapter_model.safetensors has changed"),
    (lambda folder: (folder / "chunks.jsonl").unlink(), "chunks.jsonl is missing"),
    (add_code, "generator/modeling_other.py was added"),
    (link_outside, "prompts/answer.txt leads out of the bundle"),
    (set_code, "sets llm.advanced.trust_remote_code, which a bundle cannot"),
    (lambda folder: (folder / "bundle.json").write_text("{"), "bundle.json is damaged"),
    (lambda folder: (folder / "bundle.json").unlink(), "a folder without bundle.json"),
]


def test_a_damaged_bundle_is_refused_in_one_line(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = bundle()
    open_bundle(whole)
    for number, (damage, said) in enumerate(DAMAGES):
        folder = shutil.copytree(whole, tmp_path / f"copy-{number}")
        damage(folder)
        with pytest.raises(DataError, match=said):
            open_bundle(folder)
        for words in (["serve", str(folder)], ["bundle", "--check", str(folder)]):
            assert main(words) == 1
            assert said in capsys.readouterr().err


def test_feedback_that_the_server_writes_does_not_damage_a_bundle(bundle: Bundle) -> None:
    folder = bundle()
    for name in ("feedback.jsonl", "served.jsonl", "reviews.jsonl"):
        (folder / name).write_text("{}\n")
    open_bundle(folder)


def test_the_command_bundles_checks_and_exits_with_3_where_answers_changed(
    run: tuple[Config, RunDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, to = config_file(run[0], tmp_path / "people.yaml"), tmp_path / "bundle"
    assert main(["bundle", str(file), "--to", str(to), "--questions", "4"]) == 0
    assert "4 of 4 answers are equal" in capsys.readouterr().out
    assert main(["bundle", str(file), "--to", str(to)]) == 1
    assert "is a folder that exists" in capsys.readouterr().err
    assert main(["bundle", "--check", str(to)]) == 0
    # One token is too short for an answer.
    assert main(["bundle", "--check", str(to), "evaluate.advanced.max_tokens=1"]) == 3
    assert "not good enough: " in capsys.readouterr().err
    assert main(["bundle", "--check", str(to), str(file)]) == 1
    assert main(["bundle", str(file)]) == 1
    assert "name one configuration, and --to FOLDER" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bundle_is_pushed_to_an_fsspec_address(
    run: tuple[Config, RunDir], tmp_path: Path
) -> None:
    import fsspec

    file = config_file(run[0], tmp_path / "people.yaml")
    assert main(["bundle", str(file), "--to", "memory://shipped/people", "--questions", "2"]) == 0
    names = {Path(name).name for name in fsspec.filesystem("memory").find("/shipped/people")}
    assert {"bundle.json", "README.md", "check.jsonl", "chunks.jsonl"} <= names
    # The run remembers it, so that `forget` can name it.
    [row] = read_rows(run[1].copies)
    assert (row["what"], row["to"]) == ("bundle", "memory://shipped/people")


def test_cards_name_models_licences_and_files(bundle: Bundle) -> None:
    folder = bundle()
    card = (folder / "README.md").read_text(encoding="utf-8")
    content = read_manifest(folder)
    assert "6 of 6 answers are equal" in card and "| demo-lm | apache-2.0 |" in card
    assert content["models"]["llm"]["name"] in card
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    assert compose["services"]["rag-ft"]["read_only"] is True
    check("hadolint", folder / "Dockerfile")
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", folder / "compose.yaml")
    kit = yaml.safe_load((folder / "Kitfile").read_text(encoding="utf-8"))
    named = [kit["model"], *kit["model"]["parts"], *kit["datasets"], *kit["code"], *kit["docs"]]
    assert all((folder / part["path"]).exists() for part in named)
    tops = {name.split("/")[0] for name in content["files"]}
    assert tops <= {part["path"].split("/")[0] for part in named}
    needed = (folder / "requirements.txt").read_text()
    assert "torch==2.13.0\n" in needed and "https://download.pytorch.org/whl/cpu\n" in needed
    assert not (folder / "Modelfile").exists()
    assert json.loads((folder / "bundle.json").read_text())["check"]["equal"] == 6


def test_a_server_name_alone_cannot_be_bundled(run: tuple[Config, RunDir], tmp_path: Path) -> None:
    llm = run[0].llm.model_copy(update={"backend": "openai", "base_url": "http://localhost:1/v1"})
    remote = run[0].model_copy(update={"llm": llm})
    with pytest.raises(ConfigError, match="needs the files of the language model"):
        bundle_of((remote, run[1]), tmp_path / "bundle")


def test_a_tuned_encoder_is_bundled_with_its_index_and_without_the_base_encoder(
    run: tuple[Config, RunDir], tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    # As train_retriever leaves them, with an adapter beside the weights.
    _, run_dir = run
    shutil.copytree(tiny_encoder_dir, run_dir.retriever)
    shutil.copytree(run_dir.index, run_dir.retriever_index)
    (run_dir.retriever / "adapter").mkdir()
    (run_dir.retriever / "adapter" / "adapter_config.json").write_text("{}")
    folder = tmp_path / "bundle"
    folder.mkdir()
    contents = Contents(Session(*run), frozenset({"generator", "retriever"}))
    [drift] = make_bundle(contents, folder, "people", {}, 2).values()
    assert drift.same_chunks == 2
    names = {path.name for path in folder.iterdir()}
    assert {"retriever", "retriever_index"} <= names and "index" not in names
    assert not (folder / "models" / "encoder").exists()
    assert not (folder / "retriever" / "adapter").exists()
    collection = open_collection(open_bundle(folder), base_only=False)
    assert collection.tuned == {"generator", "retriever"} and not collection.has_base
    # What asks for base components says that there are none; what shows both shows the tuned ones.
    with pytest.raises(ConfigError, match="holds no base components: bundle it with --with-base"):
        RagPipeline.from_config(open_bundle(folder), tuned=False)
    text = explain(open_bundle(folder), "who has the blue oar")
    assert text.startswith("tuned encoder") and "base encoder" not in text


def test_a_run_that_trusts_code_is_bundled_and_its_bundle_does_not(
    run: tuple[Config, RunDir], tmp_path: Path
) -> None:
    config, run_dir = run
    advanced = config.llm.advanced.model_copy(update={"trust_remote_code": True})
    trusting = config.model_copy(
        update={"llm": config.llm.model_copy(update={"advanced": advanced})}
    )
    folder = bundle_of((trusting, run_dir), tmp_path / "bundle")
    assert "trust_remote_code" not in (folder / "bundle.json").read_text()
    assert not open_bundle(folder).llm.advanced.trust_remote_code
    asked = open_bundle(folder, ["llm.advanced.trust_remote_code=true"])
    assert asked.llm.advanced.trust_remote_code
