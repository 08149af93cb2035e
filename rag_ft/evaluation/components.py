"""The components that are trained. Systems, comparisons, verdict and report are derived from this
table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_ft.config import EvaluateConfig, RerankerConfig


@dataclass(frozen=True)
class Component:
    """`stage` trains it. `setting`, in the section `evaluate`, names a tuned one from elsewhere by
    path, where there is such a setting. `ranks`: it takes part in which chunks are shown.
    `optional`: few runs have one, so the others do not show a row for it."""

    name: str
    stage: str
    setting: str | None
    ranks: bool
    optional: bool = False


COMPONENTS: Mapping[str, Component] = {
    component.name: component
    for component in (
        Component("generator", "train_generator", "adapter", ranks=False),
        Component("retriever", "train_retriever", "encoder", ranks=True),
        Component("reranker", "train_reranker", None, ranks=True, optional=True),
    )
}
EVERY = frozenset(COMPONENTS)
RANKING = frozenset(name for name, component in COMPONENTS.items() if component.ranks)
# Why a training stage is left out.
EXTERNAL = "the section evaluate names its result by path"
NO_RERANKER = "reranker.model is none"
# Sets that have a word of their own: the components that every run can tune, and all of them.
WORDS = {
    frozenset(name for name, c in COMPONENTS.items() if not c.optional): "both",
    EVERY: "all",
}


def in_order(components: Collection[str]) -> list[str]:
    """The components in the order of the table."""
    return [name for name in COMPONENTS if name in components]


def set_name(components: Collection[str]) -> str:
    """A set of tuned components in one word, as in the verdict's `ship`: "generator", "both"."""
    return WORDS.get(frozenset(components)) or "_".join(in_order(components))


def named_set(name: str) -> frozenset[str]:
    """The components that `set_name` gave this name."""
    sets = {word: components for components, word in WORDS.items()}
    return sets.get(name, EVERY & frozenset(name.split("_")))


def set_words(components: Collection[str]) -> str:
    """A set of tuned components in a sentence: "the tuned generator", "both components tuned"."""
    if word := WORDS.get(frozenset(components)):
        return f"{word} components tuned"
    return f"the tuned {' and '.join(in_order(components))}"


def left_out_stages(evaluate: EvaluateConfig, reranker: RerankerConfig) -> dict[str, str]:
    """{stage: why} of the training stages that nothing builds on: `evaluate` names the tuned
    component by path, or there is no reranker."""
    external = (c for c in COMPONENTS.values() if c.setting and getattr(evaluate, c.setting))
    left_out = {component.stage: EXTERNAL for component in external}
    return left_out if reranker.model else {**left_out, "train_reranker": NO_RERANKER}
