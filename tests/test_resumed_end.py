"""A run that breaks when its training is over, but its record not yet written, ends as if nothing had happened."""

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from elbo_bench.apps import train as train_app
from elbo_bench.cli import main
from elbo_bench.errors import RunFailedError
from elbo_bench.results.record import read_result
from elbo_bench.training.stop_on_signal import StopOnSignal

TINY = [
    "model.hidden=[16]",
    "model.latent_dim=4",
    "evaluation.num_samples=40",
    "evaluation.num_examples=70",
    "tracking=none",
]
SPENT = ("steps", "batches", "epochs", "train_decoder_evaluations", "ended_by")


def train(*words: str, runs: str, code: int = 0) -> Path:
    os.environ["ELBO_BENCH_RUNS"] = runs
    try:
        assert main(["train", *TINY, *words]) == code
    finally:
        del os.environ["ELBO_BENCH_RUNS"]
    (folder,) = Path(runs).iterdir()
    return folder


def same(calm: Path, resumed: Path) -> None:
    one, two = (read_result(folder)["compute"] for folder in (calm, resumed))
    assert {key: two[key] for key in SPENT} == {key: one[key] for key in SPENT}
    assert (resumed / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.patience=1", "trainer.max_epochs=300", "optimizer=sgd", "optimizer.lr=1e-30"],
        ["trainer.max_steps=30"],
        ["trainer.max_epochs=2"],
        ["trainer.budget.decoder_evaluations=3000"],
    ],
    ids=["patience", "steps", "epochs", "decoder evaluations"],
)
def test_what_breaks_before_its_record_trains_no_further(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calm = train(*words, runs="calm")

    def breaks(*_: Any) -> None:
        raise RunFailedError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(train_app, "_finish", breaks)
        train(*words, runs="broken", code=3)
    same(calm, train(*words, runs="broken"))


@pytest.mark.parametrize("step", [30, 17, 13])
def test_a_signal_in_any_batch_loses_none_from_the_count(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch of the training, one within an epoch, and the last one of an epoch."""
    words = ["trainer.max_steps=30", "trainer.validate_every=null"]
    calm = train(*words, runs="calm")
    look = StopOnSignal.on_train_batch_end

    def signalled(self: StopOnSignal, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_step == step:
            self._received = time.monotonic()
        look(self, trainer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_train_batch_end", signalled)
        train(*words, runs="stopped", code=75)
    same(calm, train(*words, runs="stopped"))
