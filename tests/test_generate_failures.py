"""Models that fail, runs that are killed, and settings that leave nothing to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from foreteller import NAMES, THINGS, Foreteller, documents, rejects_of, use
from foreteller import prepared as prepared

from rag_ft.cli import main
from rag_ft.commands.run import num_without_reply
from rag_ft.engine import language_model
from rag_ft.errors import ConfigError, DataError
from rag_ft.llm.interface import ChatRequest
from rag_ft.pipeline import run_stage
from rag_ft.session import Session
from rag_ft.stages import generate


def test_failed_requests_become_rejects_and_never_rows(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(request: ChatRequest, text: str) -> str | None:
        return (
            None
            if "Sentence: The price of the Old Tower" in request.messages[0]["content"]
            else text
        )

    config, run_dir = prepared(generate__kinds={"factoid": 1}, generate__pairs_per_chunk=5)
    use(monkeypatch, Foreteller(fails))
    counts = generate.run(Session(config, run_dir))
    assert counts["rejected_by_check"]["llm_error"] == 1
    assert (
        "HTTP 500" not in run_dir.qa.read_text()
        and "HTTP 500" in run_dir.rejects("generate").read_text()
    )


def test_a_model_that_is_down_is_one_clear_error_and_no_file(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(generate__kinds={"factoid": 1})
    use(monkeypatch, Foreteller(lambda request, text: None))
    with pytest.raises(
        DataError, match=r"failed on 24 of 24 requests .*HTTP 500.*run the stage again"
    ):
        generate.run(Session(config, run_dir))
    assert not run_dir.qa.exists()


def test_a_server_that_dies_half_way_stops_the_stage_and_a_second_run_goes_on(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(generate__kinds={"factoid": 1}, generate__pairs_per_chunk=5)
    early = re.compile(f"Notes on the ({'|'.join(NAMES[:3])})")
    use(
        monkeypatch,
        Foreteller(
            lambda request, text: text if early.search(request.messages[0]["content"]) else None
        ),
    )
    with pytest.raises(DataError, match="run the stage again"):
        generate.run(Session(config, run_dir))
    model = use(monkeypatch, Foreteller())
    counts = generate.run(Session(config, run_dir))
    prompts = [request.messages[0]["content"] for request in model.asked]
    assert not [prompt for prompt in prompts if prompt.startswith("Write") and early.search(prompt)]
    assert counts["accepted"] == len(NAMES) * len(THINGS)


def test_too_few_kept_pairs_name_the_rejects_and_the_main_reason(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(generate__kinds={"factoid": 1})
    use(monkeypatch, Foreteller(lambda request, text: "no JSON"))
    # No share that is lower would let 0 pairs through.
    remedy = r"0 of 24 .*'bad_json'.*rejects/generate\.jsonl.* generate\.advanced\.checks$"
    with pytest.raises(DataError, match=remedy):
        generate.run(Session(config, run_dir))
    assert not run_dir.qa.exists() and len(rejects_of(run_dir)) == 24


def test_a_killed_run_continues_to_equal_bytes_and_asks_nothing_twice(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(
        generate__kinds={"factoid": 0.8, "unanswerable": 0.2}, generate__pairs_per_chunk=5
    )
    whole = use(monkeypatch, Foreteller())
    generate.run(Session(config, run_dir))
    files = (run_dir.qa, run_dir.rejects("generate"))
    expected = [file.read_bytes() for file in files]
    assert not run_dir.checkpoints("generate").exists()
    run_dir.replies("generate").unlink()

    for stop_after in (3, 17, 40):

        def killed(request: ChatRequest, text: str, left: list[int] = [stop_after]) -> str:  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return text

        use(monkeypatch, Foreteller(killed))
        with pytest.raises(KeyboardInterrupt):
            generate.run(Session(config, run_dir))
    last = use(monkeypatch, Foreteller())
    generate.run(Session(config, run_dir))
    assert [file.read_bytes() for file in files] == expected
    assert 0 < len(last.asked) < len(whole.asked)


def test_nothing_to_do_and_unwritable_kinds_are_refused_before_any_model_is_loaded(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        language_model, "open_language_model", lambda *_, **__: pytest.fail("a model was opened")
    )
    with pytest.raises(ConfigError, match=r"generate\.pairs_per_chunk"):
        generate.run(Session(*make_run(documents(), generate__pairs_per_chunk=0)))
    with pytest.raises(ConfigError, match=r"summary.*compact"):
        generate.run(Session(*make_run(documents(), generate__kinds={"summary": 1})))


def test_a_chunk_too_long_for_the_model_is_a_reject_with_its_reason_and_the_others_are_asked(
    prepared: Any,
) -> None:
    long = {
        "id": "long",
        "title": "Long",
        "text": "The tower of the " + "very " * 110 + "old quay is high.",
    }
    config, run_dir = prepared(
        [long],
        generate__pairs_per_chunk=1,
        generate__advanced__max_tokens=16,
        llm__max_model_tokens=512,
    )
    with pytest.raises(
        DataError, match=r"0 of 7 generated pairs passed"
    ):  # the tiny model writes nothing of use
        run_stage("generate", config)
    refused = [reject for reject in rejects_of(run_dir) if reject.reason == "llm_error"]
    assert [reject.item for reject in refused] == ["long#0/0"]
    assert re.fullmatch(
        r"prompt has \d+ tokens and the reply up to 16, the model takes 512", refused[0].detail
    )


def test_the_stage_runs_with_a_tiny_real_model_and_its_done_file_explains_what_was_lost(
    prepared: Any,
) -> None:
    config, run_dir = prepared(
        generate__pairs_per_chunk=1,
        generate__advanced__max_tokens=16,
        generate__max_chunks=3,
        generate__advanced__min_kept_share=0,
    )
    with pytest.raises(DataError, match=r"only 0 of 3 generated pairs passed"):
        run_stage("generate", config)
    assert {reject.reason for reject in rejects_of(run_dir)} <= {
        "cut_off",
        "bad_json",
        "nothing_to_ask",
    }
    first = run_dir.replies("generate").read_bytes()
    with pytest.raises(DataError):
        run_stage("generate", config)
    assert run_dir.replies("generate").read_bytes() == first


def test_pairs_lost_to_errors_are_asked_again_alone(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run_dir = prepared(generate__kinds={"factoid": 1}, generate__pairs_per_chunk=5)
    fail = [True]

    def fails(request: ChatRequest, text: str) -> str | None:
        lost = "Sentence: The price of the Old Tower" in request.messages[0]["content"]
        return None if lost and fail[0] else text

    model = Foreteller(fails)
    use(monkeypatch, model)
    for stage in ("ingest", "index", "generate"):
        run_stage(stage, config)
    before, num_pairs = num_without_reply(run_dir), len(run_dir.qa.read_text().splitlines())
    path = run_dir.path.parent / "again.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    fail[0], asked = False, len(model.asked)
    arguments = ["generate", str(path), "--retry-rejected"]
    assert before == 1 and main(arguments) == 0
    assert num_without_reply(run_dir) == 0 and "1 pairs were rejected" in capsys.readouterr().err
    assert len(run_dir.qa.read_text().splitlines()) == num_pairs + 1
    assert 0 < len(model.asked) - asked < 5
    assert main(arguments) == 0 and "nothing is asked again" in capsys.readouterr().err
