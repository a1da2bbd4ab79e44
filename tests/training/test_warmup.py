"""Laws of warm-ups: they end at the configured objective, depend on the position alone, and touch no evaluation."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from support.command_line import training
from support.linear_gaussian_case import X, linear_gaussian
from torch import Tensor

from elbo_bench.cli import main
from elbo_bench.config import build
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.config.typed import parameters
from elbo_bench.data.batches import Batch, TrainingBatches
from elbo_bench.draws import Draws, draw_for
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.beta import BetaELBO
from elbo_bench.objectives.iwae import IWAE
from elbo_bench.results.record import read_examples, read_result
from elbo_bench.runs.fit import Trained, fit
from elbo_bench.runs.run import Run
from elbo_bench.training import module as module_file
from elbo_bench.training.log_loss import LogLoss
from elbo_bench.training.module import BoundModule
from elbo_bench.training.optimizers import SGD
from elbo_bench.training.warmup import Cyclic, Linear, NoWarmup, Warmup

TINY = ["model.hidden=[16]", "model.latent_dim=4", "evaluation.num_samples=40", "evaluation.num_examples=70"]
OBJECTIVES = Catalogue.of().names("objective")
WARMUPS = [
    Linear(field="beta", start=0.25, epochs=3.0),
    Cyclic(field="beta", start=0.25, epochs=7.0, cycles=3, ratio=0.6),
]


train = training(*TINY)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# --- what is ascended ---


def test_linear_goes_in_a_straight_line_and_stays() -> None:
    objective = BetaELBO(beta=3.0)
    warmup = Linear(field="beta", start=1.0, epochs=4.0)
    assert [warmup.at(objective, epoch).beta for epoch in (0.0, 1.0, 2.5, 3.0)] == [1.0, 1.5, 2.25, 2.5]
    assert warmup.at(objective, 4.0) is warmup.at(objective, 1000.0) is objective
    down = Linear(field="beta", start=5.0, epochs=0.5)
    assert [down.at(objective, epoch).beta for epoch in (0.0, 0.125, 0.25, 0.5)] == [5.0, 4.5, 4.0, 3.0]


def test_cyclic_rises_stays_and_begins_again() -> None:
    objective = BetaELBO(beta=2.0)
    warmup = Cyclic(field="beta", start=0.0, epochs=16.0, cycles=4, ratio=0.5)
    cycle = [0.0, 1.0, 2.0, 2.0]  # beta at epochs 0, 1, 2, 3 of four
    assert [warmup.at(objective, float(epoch)).beta for epoch in range(20)] == [*cycle * 4, 2.0, 2.0, 2.0, 2.0]
    assert warmup.at(objective, 2.0) is warmup.at(objective, 16.0) is objective
    whole = Cyclic(field="beta", epochs=16.0, cycles=2, ratio=1.0)
    assert [whole.at(objective, float(epoch)).beta for epoch in (0, 2, 7, 8, 12, 16)] == [0, 0.5, 1.75, 0, 1, 2]


@pytest.mark.parametrize("warmup", WARMUPS, ids=lambda each: type(each).__name__)
def test_after_its_end_and_no_earlier_the_objective_is_itself_for_good(warmup: Warmup) -> None:
    objective = BetaELBO(beta=2.0)
    assert all(warmup.at(objective, warmup.end + after) is objective for after in (1e-9, 0.1, 1.0, 7.0))
    assert warmup.at(objective, warmup.end - 0.01) != objective
    assert NoWarmup().end == 0
    assert NoWarmup().at(objective, 0.0) is objective


@pytest.mark.parametrize("start", [0.0, 1.0, 9.0])
def test_a_number_of_samples_is_whole_and_at_least_1(start: float) -> None:
    warmup = Linear(field="num_samples", start=start, epochs=8.0)
    sizes = [warmup.at(IWAE(num_samples=5), epoch / 4).num_samples for epoch in range(40)]
    assert all(type(size) is int and size >= 1 for size in sizes)
    assert sizes == sorted(sizes, reverse=start > 5)
    assert set(sizes) == set(range(5, 10) if start > 5 else range(1, 6))
    assert sizes[0] == max(1, round(start))
    between = [warmup.at(IWAE(num_samples=5), 8 * share).num_samples for share in (0.1, 0.2, 0.9)]
    assert between == {0.0: [1, 1, 4], 1.0: [1, 2, 5], 9.0: [9, 8, 5]}[start]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_number_of_every_objective_can_be_warmed_up(name: str) -> None:
    accepted = parameters(Catalogue.of().target("objective", name))
    objective = build("objective", name, **({"num_train": 50} if "num_train" in accepted else {}))
    tried = 0
    for field in dataclasses.fields(objective):
        own = getattr(objective, field.name)
        if type(own) not in (int, float) or field.name == "num_train":
            continue
        for warmup in (Linear(field=field.name, start=float(own)), Cyclic(field=field.name, start=float(own))):
            warmup.check(objective)
            begun = warmup.at(objective, 0.0)
            assert begun == objective
            tried += 1
    assert tried


# --- what is trained ---


def module(warmup: Warmup = NoWarmup(), objective: Objective = BetaELBO(beta=2.0)) -> BoundModule:  # noqa: B008
    return BoundModule(linear_gaussian(), objective, SGD(lr=1e-3), seed=4, warmup=warmup)


def batches(**keys: Any) -> TrainingBatches:
    x = torch.from_numpy(np.concatenate([X, X[:3] + 0.5]))  # 7 rows in batches of 3: three an epoch
    return TrainingBatches(x, **{"batch_size": 3, "shuffle": True, "seed": 4, **keys})


def epochs(loader: TrainingBatches, count: int) -> Iterator[Batch]:
    for epoch in range(count):
        loader.set_epoch(epoch)
        yield from loader


@pytest.mark.parametrize("warmup", WARMUPS, ids=lambda each: type(each).__name__)
@torch.no_grad()
def test_a_step_ascends_the_objective_of_its_position(warmup: Warmup) -> None:
    trained = module(warmup)
    seen = []
    for batch in epochs(batches(), 8):
        draws = draw_for(trained.objective, trained.model, batch.x, Noise(4, "latent", batch.position))
        value, rate = -trained.training_step(batch, 0), draws.analytic_kl().mean()
        seen.append(float((draws.log_p_x_given_z.mean() - value) / rate))  # the beta that was used
    expected = [warmup.at(BetaELBO(beta=2.0), position / 3).beta for position in range(24)]
    assert seen == pytest.approx(expected, abs=1e-9)
    assert seen[0] == pytest.approx(0.25)
    assert len({round(beta, 9) for beta in seen[:9]}) > 3  # batch by batch, not epoch by epoch


@pytest.mark.parametrize("ranks", [2, 3, 5])
@torch.no_grad()
def test_ranks_ascend_the_same_objective(ranks: int) -> None:
    trained = module(WARMUPS[0])
    parts = [epochs(batches(rank=rank, world_size=ranks), 4) for rank in range(ranks)]
    for batch, *shares in zip(epochs(batches(), 4), *parts, strict=True):
        losses = [float(trained.training_step(share, 0)) for share in shares]
        assert np.mean(losses) == pytest.approx(float(trained.training_step(batch, 0)), rel=1e-12)


def fitted(folder: Path, accumulate: int, resume: Path | None = None) -> tuple[list[tuple[int, float]], list[Tensor]]:
    """Train four epochs, saving after each batch; return each position with the beta it was trained with."""
    seen: list[tuple[int, float]] = []

    class Watched(BoundModule):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            seen.append((batch.position, self.ascended(batch.epoch).beta))  # type: ignore[attr-defined]
            return super().training_step(batch, batch_idx)

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(folder / f"{seen[-1][0]}.ckpt")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own advice
        trainer = pl.Trainer(
            max_epochs=4,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accumulate_grad_batches=accumulate,
            callbacks=[Save()],
        )
        trained = Watched(linear_gaussian(), BetaELBO(beta=2.0), SGD(lr=1e-3), 4, WARMUPS[0])
        trainer.fit(trained, batches(), ckpt_path=None if resume is None else str(resume), weights_only=True)
    return seen, [parameter.detach().clone() for parameter in trained.parameters()]


def test_a_resumed_warm_up_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, parameters = fitted(tmp_path, 1)
    assert [position for position, _ in whole] == list(range(12))
    assert [beta for _, beta in whole] == pytest.approx([min(2.0, 0.25 + 1.75 * each / 9) for each in range(12)])
    for stop in (1, 3, 7):
        again, resumed = fitted(tmp_path / "again", 1, tmp_path / f"{stop}.ckpt")
        assert again == whole[stop + 1 :]
        assert all(torch.equal(a, b) for a, b in zip(parameters, resumed, strict=True))


def test_accumulated_batches_count_as_batches(tmp_path: Path) -> None:
    assert fitted(tmp_path, 2)[0] == fitted(tmp_path, 1)[0]


def test_a_warm_up_from_a_value_to_itself_changes_no_byte_and_another_one_does() -> None:
    words = ["objective=beta", "objective.beta=2", "trainer.max_epochs=2"]
    plain = train(*words, runs="plain")
    linear = ["module.warmup=linear", "module.warmup.epochs=9"]
    same = train(*words, *linear, "module.warmup.start=2", runs="same")
    other = train(*words, *linear, "module.warmup.start=0.5", runs="other")
    assert plain
    assert same
    assert other
    assert weights(plain) == weights(same) != weights(other)


@pytest.mark.parametrize("limit", ["trainer.max_epochs=3", "trainer.max_steps=21"])
def test_decoder_evaluations_are_those_of_the_growing_k(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0

    def counting(*arguments: Any) -> Draws:
        nonlocal decoded
        draws = draw_for(*arguments)
        decoded += draws.log_w.numel()
        return draws

    monkeypatch.setattr(module_file, "draw_for", counting)
    words = ["module.warmup=linear", "module.warmup.field=num_samples", "module.warmup.epochs=1.5"]
    folder = train(
        "objective=iwae",
        "objective.num_samples=6",
        limit,
    )
    assert folder
    assert read_result(folder)["compute"]["train_decoder_evaluations"] == decoded
    decoded = 0
    folder = train("objective=iwae", "objective.num_samples=6", limit, *words, runs="warm")
    assert folder
    result = read_result(folder)
    assert result["compute"]["train_decoder_evaluations"] == decoded < 6 * 1297 * 3
    assert result["objective"]["samples_required"] == 6


# --- what is logged and evaluated ---


def test_a_loss_is_called_a_bound_only_where_it_is_the_configured_one() -> None:
    logged: list[dict[str, Any]] = []
    callback = LogLoss(lambda metrics: logged.append(dict(metrics)), seconds=0.0)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    facts = {"is_global_zero": True, "global_step": 1, "current_epoch": 0, "optimizers": [optimizer]}
    trainer = Mock(spec=pl.Trainer, **facts)
    for batch in epochs(batches(), 4):
        callback.on_train_batch_end(trainer, module(WARMUPS[0]), {"loss": torch.tensor(7.0)}, batch, 0)
    names = [next(name for name in metrics if name in ("train/bound", "train/loss")) for metrics in logged]
    assert names == ["train/loss"] * 9 + ["train/bound"] * 3  # three epochs of three batches
    assert (logged[0]["train/loss"], logged[-1]["train/bound"]) == (7.0, -7.0)


def assert_the_configured_objective_was_evaluated(folder: Path, beta: float) -> None:
    """The bound is distortion and rate weighted by the beta of the configuration: on test and over training."""
    result, examples = read_result(folder), read_examples(folder)
    expected = -examples["distortion"] - beta * examples["rate"]
    assert examples["bound"] == pytest.approx(expected, abs=1e-3)
    assert examples["bound_gap"] == pytest.approx(examples["log_px"] - expected, abs=1e-3)
    history = result["checkpoint"]["validation"]
    assert len(history) == 2
    for metrics in (entry["metrics"] for entry in history):
        assert metrics["bound"] == pytest.approx(-metrics["distortion"] - beta * metrics["rate"], abs=1e-3)
    assert result["objective"]["beta"] == beta


def leaks_into_the_test(run: Run, *arguments: Any, **keys: Any) -> Trained:
    trained = fit(run, *arguments, **keys)
    object.__setattr__(run, "bound", run.module.ascended(2.0))
    return trained


def leaks_into_validation(run: Run, *arguments: Any, **keys: Any) -> Trained:
    warmed: Any = dataclasses.replace(run, bound=run.module.ascended(2.0))
    return fit(warmed, *arguments, **keys)


@pytest.mark.parametrize("leak", [None, leaks_into_the_test, leaks_into_validation])
def test_a_warm_up_never_touches_what_is_evaluated(
    leak: Callable[..., Trained] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if leak is not None:
        monkeypatch.setattr("elbo_bench.runs.train.fit", leak)
    words = ["objective=beta", "objective.beta=3", "module.warmup=linear", "module.warmup.epochs=50"]
    folder = train(*words, "trainer.max_epochs=2", "trainer.validate_every=1")
    assert folder
    said = "the warm-up takes 50 epochs, and training ends after 2 at most, still on its way to the objective"
    assert capsys.readouterr().err.count(f"elbo-bench: {said}\n") == 1
    if leak is None:
        assert_the_configured_objective_was_evaluated(folder, 3.0)
    else:
        with pytest.raises(AssertionError):
            assert_the_configured_objective_was_evaluated(folder, 3.0)


def test_a_warm_up_that_ends_in_time_is_not_remarked_upon(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["objective=beta", "module.warmup=cyclic", "module.warmup.epochs=2", "trainer.max_epochs=2"]
    assert train(*words)
    assert "warm-up" not in capsys.readouterr().err


# --- what is refused ---


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["objective=beta", "field=bta"], "warmup.field=bta: BetaELBO has no such number; did you mean 'beta'?"),
        (["objective=beta", "field=kl"], "warmup.field=kl: BetaELBO has no such number; valid: beta, num_samples"),
        (["objective=elbo_mc"], "warmup.field=beta: ELBOMC has no such number; valid: num_samples"),
        (
            ["objective=beta_tc", "field=num_train"],
            "warmup.field=num_train: BetaTC has no such number; valid: beta, num_samples",
        ),
        (
            ["objective=beta", "start=-1"],
            "warmup.start=-1: on the way to beta=4, BetaELBO.beta=-1.0: should be greater than or equal to 0",
        ),
        (
            ["objective=vimco", "field=num_samples", "start=1"],
            "warmup.start=1: on the way to num_samples=5, VIMCO.num_samples=1: should be greater than or equal to 2",
        ),
        (
            ["objective=iwae", "field=num_samples", "start=-2"],
            "warmup.start=-2: num_samples counts, and is never negative",
        ),
    ],
)
def test_what_cannot_be_warmed_up_is_one_line_and_nothing_is_written(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [word if word.startswith("objective") else f"module.warmup.{word}" for word in words]
    train("module.warmup=linear", *keys, code=2)
    assert capsys.readouterr().err == f"elbo-bench: module=bound: {line}\n"
    assert not Path("runs").exists()


def test_a_value_on_the_way_is_tried_too() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class NotTwo(IWAE):
        def __post_init__(self) -> None:
            super().__post_init__()
            if self.num_samples == 2:
                raise ValueError("not 2")

    for start in (1.0, 5.0):
        if start < 2:
            with pytest.raises(ValueError, match=r"^warmup.start=1: on the way to num_samples=4, not 2$"):
                Linear(field="num_samples", start=start).check(NotTwo(num_samples=4))
        else:
            Linear(field="num_samples", start=start).check(NotTwo(num_samples=4))


@pytest.mark.parametrize("name", ["none", "linear", "cyclic"])
def test_a_warm_up_is_part_of_the_printed_configuration(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"module.warmup={name}", "--print-config"]) == 0
    assert f"module:\n  name: bound\n  warmup:\n    name: {name}\n" in capsys.readouterr().out
