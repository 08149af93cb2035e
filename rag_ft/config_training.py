"""The settings of the `advanced` part of both trainings: good defaults, rarely changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from rag_ft.config_section import Section


class TrainRetrieverAdvanced(Section):
    method: Literal["lora", "full"] = Field(
        "lora", description="What is trained: a LoRA adapter, merged afterwards, or all weights."
    )
    loss: str = Field(
        "contrastive",
        description="Loss of the contrastive stage: a name in LOSSES of "
        "rag_ft/training/retriever/losses.py. contrastive: InfoNCE over mined and other chunks.",
    )
    sides: Literal["both", "query"] = Field(
        "both",
        description="What the tuned encoder encodes. query: questions alone, the index stays.",
    )
    self_supervised: bool = Field(
        False,
        description="First trains on the chunks alone (inverse cloze task), which needs no "
        "questions.",
    )
    num_negatives: int = Field(1, ge=0, le=1000, description="Mined hard negatives of each pair.")
    negative_margin: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="A negative scores at most (1 - margin) times the gold chunk's score.",
    )
    temperature: float = Field(
        0.05, gt=0, le=10, description="Of the softmax over chunks, in both training stages."
    )
    rank: int = Field(16, ge=1, le=4096, description="LoRA rank.")
    lsr_steps: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="Optimiser steps of LM-supervised retrieval after the contrastive stage. 0: "
        "none.",
    )
    lsr_top_k: int = Field(
        10, ge=2, le=1000, description="Chunks that the LM scores for each question."
    )
    lsr_learning_rate: float = Field(
        2e-4, gt=0, le=1, description="Peak learning rate of LM-supervised retrieval."
    )
    lsr_temperature: float = Field(
        0,
        ge=0,
        le=100,
        description="Of the softmax over the LM's scores. 0: chosen by target entropy.",
    )
    start: Path | None = Field(
        None,
        description="A tuned encoder of the same base, method and rank whose weights the training "
        "starts from, as `improve --start parent` sets it. None: the base encoder.",
    )
    rounds: int = Field(
        1, ge=1, le=100, description="Mines negatives and trains up to this many times."
    )
    gate: bool = Field(
        True, description="Keeps the base encoder where the tuned one is worse on dev documents."
    )
    crossfit: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Also tunes an encoder on each half of the train documents, so that questions "
        "about the others choose the share of BM25 and train the ranker, which is better for it. "
        "Takes about as long again. auto: with fewer than 60 dev questions, or about fewer than "
        "20 documents. always: dev pairs train too, as each pair is judged by the encoder that "
        "did not see it (with rounds 1, and without LSR and inverse cloze).",
    )


class TrainRerankerAdvanced(Section):
    enabled: bool = Field(
        True, description="false: the model of reranker.model is not tuned. Its own score may rank."
    )
    method: Literal["full", "lora"] = Field(
        "full", description="What is trained: all weights, or a LoRA adapter, merged afterwards."
    )
    labels: Literal["evidence", "lm", "both"] = Field(
        "evidence",
        description="Which of a question's chunks should score high. evidence: the gold chunk. lm: "
        "those that make the answer likely to the LM. both: half of each.",
    )
    epochs: float = Field(3, gt=0, le=1000, description="Passes over the pairs.")
    batch_size: int = Field(
        4,
        ge=1,
        le=65_536,
        description="Questions per step over all processes, each with all its chunks.",
    )
    learning_rate: float = Field(
        1e-4,
        gt=0,
        le=1,
        description="Peak learning rate. A model that is a good reranker already wants 2e-5, lora "
        "ten times as much.",
    )
    num_negatives: int = Field(
        5,
        ge=1,
        le=1000,
        description="Chunks of each question that the base or the tuned retriever ranks high and "
        "that do not contain the answer.",
    )
    rank: int = Field(16, ge=1, le=4096, description="LoRA rank.")
    start: Path | None = Field(
        None,
        description="A tuned reranker that the training starts from, as `improve --start parent` "
        "sets it. None: the model of reranker.model.",
    )


class TrainGeneratorAdvanced(Section):
    layout: Literal["raft", "radit", "concat"] = Field(
        "raft",
        description="Chunks in a training example. raft: the gold chunk among hard distractors; "
        "radit: one chunk an example; concat: the chunks as served.",
    )
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of examples (0-1) whose chunks contain the answer; the others teach "
        "to abstain. Layout concat only limits the number of unanswerable pairs by it.",
    )
    counterfactual_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share (0-1) of the examples with an answer that get another one: the answer "
        "of another pair replaces it in the chunks and as the target, where it has the same form. "
        "The model cannot recite these answers, so it learns to read.",
    )
    human_weight: int = Field(
        2,
        ge=1,
        le=100,
        description="How often a pass uses a pair that people wrote or reviewed, for once that it "
        "uses a generated one; each time it is drawn anew whether the gold chunk is withheld.",
    )
    cite: bool | None = Field(
        None,
        description="Answers end with the numbers of the chunks that prove them. None: with prompt "
        "set full, which asks for them.",
    )
    quote: bool = Field(
        False,
        description="Answers begin with the evidence, which evaluation and `ask` remove. "
        "evaluate.advanced.max_tokens must have room for it.",
    )
    replay_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of examples (0-1) that are the base model's own replies, at most one "
        "a pair.",
    )
    max_steps: int = Field(
        0, ge=0, le=100_000_000, description="Stops after this many steps. 0: by epochs."
    )
    device_batch_size: int = Field(
        0, ge=0, le=65_536, description="Examples per forward pass. 0: as many as fit."
    )
    rank: int = Field(
        32, ge=1, le=4096, description="LoRA rank, on all linear layers; alpha is twice the rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout (0-1).")
    start: Path | None = Field(
        None,
        description="An adapter of the same base and rank, or a whole model where all weights are "
        "tuned, that the training starts from, as `improve --start parent` sets it. None: the base "
        "model.",
    )
    max_tokens: int = Field(
        2048,
        ge=64,
        le=1_000_000,
        description="Longest example, in tokens; whole chunks are left out to fit.",
    )
    packing: bool = Field(
        True, description="Puts several examples in a row of tokens, where the model supports it."
    )
    gradient_checkpointing: bool = Field(
        False, description="Takes less memory and is about 30 % slower."
    )
    select_by: Literal["loss", "f1"] = Field(
        "loss",
        description="What chooses the best weights: dev loss, or the F1 of up to 64 answered dev "
        "questions, which takes longer.",
    )
    patience: int = Field(
        3,
        ge=0,
        le=10_000,
        description="Evaluations without better weights before it stops. 0: never stops.",
    )
    cross_validation_folds: int = Field(
        0,
        ge=0,
        le=100,
        description="Cross-validation before the training: number of parts of the train "
        "documents. Reports mean and spread of the gain for as many times the time. 0: off.",
    )
    evaluations: int = Field(
        6,
        ge=1,
        le=10_000,
        description="Dev evaluations (and checkpoints) spread over the training; the best weights "
        "are kept. 1: the last ones, as few dev documents choose earlier ones by luck.",
    )
    preference_questions: int = Field(
        400,
        ge=1,
        le=10_000_000,
        description="preference=dpo: at most so many train pairs are asked about, first those of "
        "people.",
    )
    preference_samples: int = Field(
        4, ge=1, le=1000, description="preference=dpo: random replies to each prompt."
    )
    preference_learning_rate: float = Field(
        5e-5, gt=0, le=1, description="preference=dpo: its peak learning rate."
    )
    preference_beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="preference=dpo: how much it costs to move away from the fine-tuned weights.",
    )
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list,
        description="Trackers; tensorboard writes to training/tensorboard of the run folder.",
    )
