"""The state of a run: which stages are done, stale or missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_ft.done_files import config_is_damaged, read_head
from rag_ft.errors import DataError
from rag_ft.evaluation.components import EXTERNAL, left_out_stages
from rag_ft.freshness import how_again, read_done, why_stale
from rag_ft.pipeline import plan_of, upstream_of
from rag_ft.run_dir import RunDir
from rag_ft.stage_table import STAGES

if TYPE_CHECKING:
    from rag_ft.config import Config


def status(config: Config) -> list[tuple[str, str, str]]:
    """(stage, state, why) in pipeline order. The states: done, stale, interrupted, missing,
    external, unused.

    Reads done-files. Of other files it compares size and time, and reads those where these differ;
    of more than 1,000 files in source folders it only compares the times of the folders.
    """
    run_dir, rows = RunDir(config.run_path), list[tuple[str, str, str]]()
    left_out = left_out_stages(config.evaluate, config.reranker)
    for stage in STAGES:
        if why := left_out.get(stage.name, ""):
            rows.append((stage.name, "external" if why == EXTERNAL else "unused", why))
            continue
        # The stage's own files and inputs.
        finished = run_dir.done(stage.name).exists()
        state, why = "missing", ""
        try:
            done = read_head(run_dir.done(stage.name))
            plan = plan_of(stage, config, run_dir, quick=True)
            if done and done["fingerprint"] != plan["fingerprint"]:
                done = read_done(run_dir, stage.name)
            if done and (reason := why_stale(plan, done, run_dir)):
                state, why = "stale", f"{reason}: {how_again(plan, done)}"
            elif done:
                resumed = " (after resume)" if "continued" in done else ""
                state, why = "done", f"{done['seconds']} s{resumed}"
                if plan.get("folders"):
                    why += "; no file was added or removed (`run` also looks at their content)"
            elif run_dir.started(stage.name).exists():
                state, why = "interrupted", "run it again to continue"
        except DataError as error:
            state, why = "stale" if finished else "missing", str(error)

        # Staleness goes down the whole chain.
        earlier = upstream_of(stage, left_out)
        unfinished = [row[0] for row in rows if row[0] in earlier and row[1] != "done"]
        if state == "done" and unfinished:
            state, why = "stale", f"builds on {unfinished[0]}, which is not done"
        rows.append((stage.name, state, why))

    # config.yaml belongs to the stage that ran last.
    up_to_date = [number for number, row in enumerate(rows) if row[1] == "done"]
    if up_to_date and config_is_damaged(run_dir):
        why = f"{run_dir.config.name} is missing or has changed: run it again with --force"
        rows[up_to_date[-1]] = (rows[up_to_date[-1]][0], "stale", why)
    return rows
