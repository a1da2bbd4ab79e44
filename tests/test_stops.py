"""A run that is stopped anywhere, and is started again, ends as if nothing had happened."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from elbo_bench.apps import train as train_app
from elbo_bench.cli import main
from elbo_bench.errors import RunFailedError
from elbo_bench.results.record import read_examples, read_result
from elbo_bench.training.checkpoints import Checkpoints
from elbo_bench.training.finite_loss import FiniteLoss

TINY = [
    "model.hidden=[8]",
    "model.latent_dim=2",
    "evaluation.num_samples=20",
    "evaluation.truth=importance",
    "evaluation.proposal=encoder",
    "evaluation.pilot_share=0",
    "evaluation.num_examples=32",
    "evaluation.workers=1",
    "trainer.validation_samples=4",
    "trainer.validation_examples=32",
    "trainer.validate_every=1",
    "trainer.checkpoint_seconds=0",
    "data.batch_size=400",  # 1,297 examples: 4 batches in an epoch
    "tracking=none",
]
BATCHES = 10

LIMITS = {
    "steps": ["trainer.max_steps=10"],
    "steps of a budget": ["trainer.budget.steps=10"],
    "epochs": ["trainer.max_epochs=3"],
    "decoder evaluations": ["trainer.budget.decoder_evaluations=3400"],
    "steps of two batches": ["trainer.max_steps=5", "trainer.accumulate_grad_batches=2"],
    "steps of three batches": ["trainer.max_steps=5", "trainer.accumulate_grad_batches=3"],
}
WAYS = {
    "best": ["trainer.checkpoint=best"],
    "patience": ["trainer.patience=1", "optimizer=sgd", "optimizer.lr=1e-30", "trainer.max_epochs=300"],
    "schedule": ["optimizer.schedule=steps", "optimizer.schedule.milestones=[1, 2]"],
    "warm-up": ["module.warmup=linear", "module.warmup.epochs=2", "objective=beta", "objective.beta=1.5"],
    "accumulation": ["trainer.accumulate_grad_batches=3", "trainer.max_steps=5"],
}
FAST = {"steps": (4, 9), "best": (4, 9), "patience": (4, 9), "accumulation": (4,)}
"""Batches at which the fast suite kills a run or sends a signal, by case.

With accumulation a step takes three batches; batch 4 is the second of them.
"""
SPENT = ("steps", "batches", "epochs", "train_decoder_evaluations", "ended_by")


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved any more."""


def train(words: list[str], runs: str, code: int = 0) -> Path:
    os.environ["ELBO_BENCH_RUNS"] = runs
    try:
        assert main(["train", *TINY, *words]) == code
    finally:
        del os.environ["ELBO_BENCH_RUNS"]
    (folder,) = Path(runs).iterdir()
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    """All of a run that must not depend on its stops."""
    result = read_result(folder)
    examples = {name: column.tobytes() for name, column in read_examples(folder).items()}
    weights = (folder / "model.safetensors").read_bytes()
    spent = {key: result["compute"][key] for key in SPENT}
    return {"checkpoint": result["checkpoint"], "metrics": result["metrics"], "spent": spent} | {
        "examples": examples,
        "weights": weights,
    }


def train_until_killed(words: list[str], runs: str) -> bool:
    """Train, and return whether it was killed."""
    try:
        train(words, runs)
    except Killed:
        return True
    return False


CALM: dict[tuple[str, ...], dict[str, Any]] = {}


def calm(words: list[str]) -> dict[str, Any]:
    """The outcome of a run that was never stopped."""
    key = tuple(words)
    if key not in CALM:
        CALM[key] = outcome(train(words, runs="calm"))
    return CALM[key]


def at_batch(number: int, act: Any, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Do something when a batch begins, once."""
    begin, done = FiniteLoss.on_train_batch_start, []

    def patched(self: FiniteLoss, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if batch.position == number and not done:
            done.append(number)
            act()
        begin(self, trainer, module, batch, index)

    monkeypatch.setattr(FiniteLoss, "on_train_batch_start", patched)
    return monkeypatch


def kill() -> None:
    raise Killed


def every_batch(names: dict[str, list[str]]) -> list[Any]:
    """All cases; the fast suite has those around the end of an epoch and of the training."""
    cases = []
    for name in names:
        for batch in range(BATCHES):
            marks = () if batch in FAST.get(name, ()) else (pytest.mark.slow,)
            cases.append(pytest.param(names[name], batch, id=f"{name}-{batch}", marks=marks))
    return cases


@pytest.mark.parametrize(("words", "batch"), every_batch(LIMITS))
def test_killed_in_any_batch_under_any_limit(words: list[str], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        at_batch(batch, kill, patched)
        assert train_until_killed(words, runs="killed")
    assert outcome(train(words, runs="killed")) == calm(words)


@pytest.mark.parametrize(("words", "batch"), every_batch(WAYS))
def test_a_signal_in_any_batch(words: list[str], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [] if any("max_" in word for word in words) else ["trainer.max_steps=10"]
    expected = calm([*words, *limit])
    with monkeypatch.context() as patched:
        at_batch(batch, lambda: os.kill(os.getpid(), signal.SIGTERM), patched)
        stops = batch < expected["spent"]["batches"]
        folder = train([*words, *limit], runs="stopped", code=75 if stops else 0)
        assert (folder / "result.json").exists() != stops
    assert outcome(train([*words, *limit], runs="stopped")) == expected


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=name, marks=() if name == "steps" else pytest.mark.slow) for name, words in LIMITS.items()],
)
@pytest.mark.parametrize("save", [1, 2, 3, 4])
def test_killed_after_any_save(words: list[str], save: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = calm(words)
    saved = []
    plain = Checkpoints.save

    def patched_save(self: Checkpoints, *arguments: Any) -> None:
        plain(self, *arguments)
        saved.append(arguments)
        if len(saved) == save:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", patched_save)
        train_until_killed(words, runs="killed")
    assert outcome(train(words, runs="killed")) == expected


@pytest.mark.parametrize(
    "words", [LIMITS["steps"], LIMITS["epochs"], WAYS["patience"]], ids=["steps", "epochs", "patience"]
)
def test_broken_before_its_record(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise RunFailedError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(train_app, "_finish", breaks)
        train(words, runs="broken", code=3)
    assert outcome(train(words, runs="broken")) == calm(words)


def test_a_batch_that_is_not_the_next_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        at_batch(6, kill, patched)
        assert train_until_killed(["trainer.max_steps=10"], runs="killed")
    (last,) = Path("killed").glob("*/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["callbacks"]["EndTraining"]["batches"] -= 1
    torch.save(checkpoint, last)
    capsys.readouterr()
    train(["trainer.max_steps=10"], runs="killed", code=3)
    assert "the next batch is number 4 of the training, but 3 batches were trained" in capsys.readouterr().err


def test_best_does_not_keep_last_from_being_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file has a clock of its own: a run whose every validation is the best one saves `last.ckpt` all the same."""
    clock = [0.0]
    monkeypatch.setattr("elbo_bench.training.checkpoints.time.monotonic", lambda: clock[0])
    saved: list[str] = []
    check, save = FiniteLoss.on_train_epoch_end, Checkpoints.save

    def epoch_end(self: FiniteLoss, *arguments: Any) -> None:
        clock[0] += 7.0
        check(self, *arguments)

    def noted(self: Checkpoints, trainer: Any, path: Path) -> None:
        saved.append(path.name)
        save(self, trainer, path)

    monkeypatch.setattr(FiniteLoss, "on_train_epoch_end", epoch_end)
    monkeypatch.setattr(Checkpoints, "save", noted)
    monkeypatch.setitem(globals(), "TINY", [word for word in TINY if "checkpoint_seconds" not in word])
    words = ["trainer.checkpoint=best", "trainer.max_epochs=12", "trainer.checkpoint_seconds=10", "optimizer.lr=1e-4"]
    train(words, runs="runs")
    assert saved[:2] == ["best.ckpt", "best.ckpt"]
    assert saved[2] == "last.ckpt"
    assert saved.count("last.ckpt") == 7  # every second epoch, and at the end


@pytest.mark.parametrize("place", ["batch", "save", "evaluation", "record"])
def test_force_keeps_the_old_record_until_the_new_one_is_done(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = LIMITS["steps"]
    folder = train(words, runs="runs")
    expected = outcome(folder)
    stamp = (folder / "result.json").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        if place == "batch":
            at_batch(6, kill, patched)
        else:
            name = {"save": "fit", "evaluation": "_save_weights", "record": "write_result"}[place]
            plain = getattr(train_app, name)

            def then_killed(*arguments: Any, **keys: Any) -> Any:
                plain(*arguments, **keys)
                raise Killed

            patched.setattr(train_app, name, then_killed)
        assert train_until_killed([*words, "--force"], runs="runs")
    assert outcome(folder) == expected
    assert (folder / "result.json").stat().st_mtime_ns == stamp
    train(words, runs="runs")  # what is recorded is shown
    assert outcome(folder) == expected
    train([*words, "--force"], runs="runs")  # goes on
    assert outcome(folder) == expected
    assert (folder / "result.json").stat().st_mtime_ns != stamp
    assert not (folder / ".forced").exists()


@pytest.mark.parametrize("moves", range(8))
def test_killed_while_the_new_record_replaces_the_old_one(moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = LIMITS["steps"]
    folder = train(words, runs="runs")
    expected, left = outcome(folder), [moves]
    plain = Path.replace

    def counted(self: Path, target: Any) -> Path:
        if self.parent.name == ".forced" and self.parent == folder / ".forced":
            if not left[0]:
                raise Killed
            left[0] -= 1
        return plain(self, target)

    files = len([path for path in folder.iterdir() if not path.name.startswith(".")])
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", counted)
        assert train_until_killed([*words, "--force"], runs="runs") == (moves < files)
    train(words, runs="runs")
    assert outcome(folder) == expected
    assert not (folder / ".forced").exists()


def test_force_on_a_full_disk_leaves_the_old_record(monkeypatch: pytest.MonkeyPatch) -> None:
    words = LIMITS["steps"]
    folder = train(words, runs="runs")
    expected = outcome(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for target in ("torch.save", "elbo_bench.results.record.np.savez"):
        with monkeypatch.context() as patched:
            patched.setattr(target, full)
            train([*words, "--force"], runs="runs", code=3)
        assert outcome(folder) == expected


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_of_another_run_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["trainer.checkpoint=best", "trainer.max_epochs=2", "objective.num_samples=2"]
    other = train(["objective=dreg", *words], runs="other")
    with monkeypatch.context() as patched:
        at_batch(6, kill, patched)
        assert train_until_killed(["objective=stl", *words], runs="runs")
    (folder,) = Path("runs").iterdir()
    checkpoint = folder / "checkpoints" / name
    checkpoint.write_bytes((other / "checkpoints" / name).read_bytes())
    if name == "best.ckpt":  # the only one that is left: nothing better comes after it
        (folder / "checkpoints" / "last.ckpt").write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
        monkeypatch.setattr("elbo_bench.training.validation.Validation.on_train_epoch_end", lambda *_: None)
    capsys.readouterr()
    train(["objective=stl", *words], runs="runs", code=2)
    error = capsys.readouterr().err
    assert f"checkpoint {checkpoint} was written by the run {other.name}, not by {folder.name}" in error.replace(
        "\n", " "
    )
    assert not (folder / "result.json").exists()
