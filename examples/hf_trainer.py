"""Hugging Face's `Trainer` over a master and 3 workers: a small language model, untrained, on made-up text.

    pip install 'gcdist[hf]'
    gcdist launch local -n 3 -- python examples/hf_trainer.py

The loop, its schedule, clipping, evaluation, logging and checkpoints are the Trainer's, at the master: docs/trainers.md.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import gcdist
from gcdist import integrations
from gcdist.integrations import hf

WORDS, LENGTH = 32, 16


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts that count on by a step of their own: what comes next can be learned."""
    draw = torch.Generator().manual_seed(seed)
    first, by = torch.randint(WORDS, (2, count, 1), generator=draw)
    rows = (first + (1 + by % 4) * torch.arange(LENGTH)) % WORDS
    return [{"input_ids": row, "labels": row} for row in rows]


def make_task() -> gcdist.Task:
    """Model, data and batch size: the same on every rank."""
    torch.manual_seed(0)
    size = GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return hf.task(GPT2LMHeadModel(size), texts(512, seed=1), batch_size=8)


def settings(sync: bool) -> gcdist.Config:
    """4-bit coded gradients; with ``sync`` every step waits for everybody, and nothing is rounded."""
    exact: dict[str, Any] = {
        "code": {"scheme": "sync", "partitions": 6},
        "quantizer": {"name": "float32", "bits": 32, "downlink": "float32"},
    }
    coded: dict[str, Any] = {"code": {"partitions": 6}, "quantizer": {"bits": 4}}
    usual: dict[str, Any] = {"data": {"sampling": "epochs"}, "checkpoint": {"keep": 0}}  # the trainer keeps its own
    return gcdist.Config(**usual, **(exact if sync else coded))


def main() -> None:
    """Train, evaluate, say what was learned."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--out", default="runs/hf")
    given = parser.parse_args()
    with integrations.connect(make_task(), settings(given.sync)) as cluster:  # workers serve in here
        args = TrainingArguments(
            given.out,
            max_steps=given.steps,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=5,
            max_grad_norm=1.0,
            eval_strategy="steps",
            eval_steps=given.steps // 2,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
        )
        trainer = hf.CodedTrainer(cluster, args, eval_dataset=texts(64, seed=2))
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        evaluations = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    print("losses", *(f"{loss:.6f}" for loss in losses))
    print(f"held out: {evaluations[0]:.3f} halfway, {evaluations[-1]:.3f} at the end")


if __name__ == "__main__":
    main()
