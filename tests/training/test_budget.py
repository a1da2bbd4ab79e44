"""Budgets: how long a training is by what it spends, counted before it begins."""

import json
import math
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.command_line import start, training

from elbo_bench.cli import main
from elbo_bench.errors import UsageError
from elbo_bench.results.record import read_result
from elbo_bench.training.budget import Budget, Limits
from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.training.options import TrainerOptions

TINY = [
    "model.hidden=[16]",
    "model.latent_dim=4",
    "evaluation.num_examples=70",
    "tracking=none",
]
EACH = 1297  # digits, in 13 batches an epoch, of which the last has 97


train = training(*TINY, "evaluation.num_samples=40")


def one_by_one(counted: DecoderEvaluations, batches: int) -> int:
    """The count that the closed form stands for."""
    total = 0
    for batch in range(batches):
        within, epoch = batch % counted.batches_per_epoch, batch / counted.batches_per_epoch
        rows = min(counted.batch_size, counted.num_train - within * counted.batch_size)
        is_warm = counted.during_warmup is None or epoch >= counted.warmup_epochs
        total += rows * (
            counted.per_example if is_warm or counted.during_warmup is None else counted.during_warmup(epoch)
        )
    return total


CASES = [
    DecoderEvaluations(num_train=1297, batch_size=100, per_example=1),
    DecoderEvaluations(num_train=1297, batch_size=100, per_example=50, accumulate=4),
    DecoderEvaluations(num_train=7, batch_size=3, per_example=5, accumulate=2),
    DecoderEvaluations(num_train=6, batch_size=3, per_example=5),
    DecoderEvaluations(num_train=3, batch_size=100, per_example=2),
    DecoderEvaluations(
        num_train=7, batch_size=3, per_example=8, during_warmup=lambda epoch: 1 + int(2 * epoch), warmup_epochs=3.4
    ),
    DecoderEvaluations(
        num_train=8,
        batch_size=3,
        per_example=8,
        during_warmup=lambda epoch: 9 - int(epoch),
        warmup_epochs=1.0,
        accumulate=2,
    ),
]


@pytest.mark.parametrize("counted", CASES)
def test_the_closed_form_is_the_count_of_batches_one_by_one(counted: DecoderEvaluations) -> None:
    assert [counted.after(batches) for batches in range(60)] == [one_by_one(counted, batches) for batches in range(60)]


@pytest.mark.parametrize("counted", CASES)
def test_a_budget_buys_the_most_steps_that_it_pays_for(counted: DecoderEvaluations) -> None:
    first = counted.after(counted.batches_of(1))
    for limit in [first, first + 1, 2 * first - 1, 1234.5, 98765, 3e6]:
        if limit >= first:
            steps = counted.steps_within(float(limit))
            assert counted.after(counted.batches_of(steps)) <= limit < counted.after(counted.batches_of(steps + 1))
    with pytest.raises(ValueError, match=f"the first step decodes {first} latents"):
        counted.steps_within(float(first - 1))


def test_a_step_is_so_many_batches_and_the_last_one_of_an_epoch_what_is_left() -> None:
    counted = DecoderEvaluations(num_train=1297, batch_size=100, per_example=1, accumulate=4)
    assert [counted.batches_of(steps) for steps in (0, 1, 3, 4, 5, 8)] == [0, 4, 12, 13, 17, 26]


def test_a_huge_budget_is_counted_at_once() -> None:
    counted = DecoderEvaluations(
        num_train=60_000, batch_size=100, per_example=50, during_warmup=lambda epoch: 1, warmup_epochs=100.0
    )
    started = time.monotonic()
    assert counted.steps_within(1e15) > 1e11
    assert time.monotonic() - started < 1.0


def test_fifty_samples_get_a_fiftieth_of_the_steps() -> None:
    spent = {}
    for samples in (1, 50):
        words = ["objective=iwae", f"objective.num_samples={samples}", "trainer.budget.decoder_evaluations=26_000"]
        words += ["trainer.validate_every=null", "evaluation.num_samples=100"]
        spent[samples] = read_result(train(*words, runs=str(samples)))["compute"]
    assert (spent[1]["steps"], spent[50]["steps"]) == (260, 5)  # 20 epochs are 25,940; the next step costs 100
    for samples, compute in spent.items():
        assert compute["ended_by"] == "decoder_evaluations"
        assert 26_000 - 100 * samples < compute["train_decoder_evaluations"] <= 26_000
    assert spent[50]["epochs"] == 5 / 13
    assert spent[1]["epochs"] == 20


@pytest.mark.parametrize(
    ("words", "ended_by", "steps", "epochs"),
    [
        (["trainer.max_steps=1400"], "steps", 1400, 1400 / 13),  # more than 100 epochs
        (["trainer.budget.steps=3", "trainer.max_steps=5"], "steps", 3, 3 / 13),
        (["trainer.budget.steps=5", "trainer.max_epochs=1"], "steps", 5, 5 / 13),
        (["trainer.budget={'epochs': 1, 'seconds': 1000}", "trainer.max_epochs=2"], "epochs", 13, 1),
        (["trainer.budget.epochs=2", "trainer.budget.decoder_evaluations=1297"], "decoder_evaluations", 13, 1),
        (["trainer.budget.steps=26", "trainer.budget.epochs=2"], "steps", 26, 2),
        (
            ["trainer.budget.epochs=2", "trainer.accumulate_grad_batches=4", "trainer.budget.decoder_evaluations=1e3"],
            "decoder_evaluations",
            2,
            8 / 13,
        ),
    ],
)
def test_the_first_limit_ends_it_and_is_named(words: list[str], ended_by: str, steps: int, epochs: float) -> None:
    compute = read_result(train(*words, "trainer.validate_every=null"))["compute"]
    assert (compute["ended_by"], compute["steps"], compute["epochs"]) == (ended_by, steps, epochs)


def test_without_any_limit_it_is_100_epochs() -> None:
    counted, clock = CASES[0], Budget(seconds=1.0)
    assert TrainerOptions().limits(counted) == Limits(1300, "epochs", None, 100.0)
    assert TrainerOptions(max_steps=5).limits(counted) == Limits(5, "steps", None, 5 / 13)
    assert TrainerOptions(budget=clock).limits(counted) == Limits(None, "epochs", 1.0, math.inf)
    assert TrainerOptions(max_epochs=7, budget=clock).limits(counted) == Limits(91, "epochs", 1.0, 7.0)


def test_patience_is_named_too() -> None:
    compute = read_result(train("trainer.patience=1", "trainer.max_epochs=300", "optimizer=sgd", "optimizer.lr=1e-30"))[
        "compute"
    ]
    assert compute["ended_by"] == "patience"
    assert compute["epochs"] < 300


def test_seconds_end_it_in_the_midst_of_an_epoch_and_the_record_stands() -> None:
    result = read_result(train("trainer.budget.seconds=1.5", "trainer.validate_every=null", "data.batch_size=1"))
    compute = result["compute"]
    assert compute["ended_by"] == "seconds"
    assert 1.5 <= compute["train_seconds"] < 3.0
    assert compute["batches"] % EACH != 0
    assert compute["epochs"] == compute["batches"] / EACH
    assert compute["train_decoder_evaluations"] == compute["batches"]
    assert result["checkpoint"]["step"] == compute["steps"] == compute["batches"]


def test_validations_over_seconds_are_about_twenty() -> None:
    result = read_result(train("trainer.budget.seconds=3"))
    assert 5 <= len(result["checkpoint"]["validation"]) <= 21


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("trainer.budget.secods=3", "trainer.budget.secods: no such key; did you mean 'seconds'?"),
        ("trainer.budget.seconds=0", "trainer.budget.seconds=0: should be greater than 0"),
        ("trainer.budget.seconds=-1", "trainer.budget.seconds=-1"),
        ("trainer.budget.seconds=.nan", "trainer.budget.seconds=NaN: should be a finite number"),
        ("trainer.budget.seconds=.inf", "trainer.budget.seconds=Infinity: should be a finite number"),
        ("trainer.budget.seconds='60'", "trainer.budget.seconds=60: should be a valid number"),
        ("trainer.budget.steps=1.5", "trainer.budget.steps=1.5"),
        ("trainer.budget.steps=true", "trainer.budget.steps=true"),
        ("trainer.budget=1e6", "trainer.budget=1000000.0"),
        ("trainer.budget=[]", "trainer.budget=[]"),
        ("trainer.budget.decoder_evaluations=99", "trainer.budget.decoder_evaluations=99: the first step decodes 100"),
    ],
)
def test_what_is_no_budget_is_refused_in_a_line(word: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, word]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert named in error
    assert not Path("runs").exists()


def test_a_training_needs_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "trainer.max_epochs=null"]) == 2
    assert "one of max_epochs, max_steps and the keys of budget must be a number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be a number"):
        TrainerOptions(max_epochs=None)
    with pytest.raises(UsageError, match="the first step decodes 100 latents"):
        TrainerOptions(budget=Budget(decoder_evaluations=5.0)).limits(CASES[0])


def test_a_recorded_budget_is_loaded_again(capsys: pytest.CaptureFixture[str]) -> None:
    result = read_result(train("trainer.budget.steps=3"))
    assert result["cfg"]["trainer"]["budget"]["steps"] == 3
    capsys.readouterr()
    assert main(["evaluate", f"runs/{result['run_id']}", "evaluation.num_samples=50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cfg"]["trainer"]["budget"]["steps"] == 3


def process(runs: Path, *words: str) -> subprocess.Popen[str]:
    keys = ["evaluation.num_samples=40", "trainer.validate_every=null", *words]
    return start("train", *TINY, *keys, "--json", runs=runs)


def stop_once(runs: Path, *words: str) -> None:
    """Stop a training by a signal after it has saved for the first time."""
    running = process(runs, *words, "trainer.checkpoint_seconds=0.3")
    deadline = time.monotonic() + 60
    while not list(runs.glob("*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 75, error


@pytest.mark.slow
def test_a_stopped_run_spends_the_rest_and_no_more(tmp_path: Path) -> None:
    words = ["trainer.budget.decoder_evaluations=100_000"]  # 1002 steps: the last ones are no whole epoch
    calm = process(tmp_path / "calm", *words)
    assert calm.communicate(timeout=100)[1] is not None
    stop_once(tmp_path / "stopped", *words)
    out, error = process(tmp_path / "stopped", *words).communicate(timeout=100)
    compute = json.loads(out)["compute"]
    assert (compute["steps"], compute["train_decoder_evaluations"]) == (1002, 99_969), error
    weights = [next((tmp_path / name).glob("*/model.safetensors")).read_bytes() for name in ("calm", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_the_clock_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    words = ["trainer.budget.seconds=4"]
    stop_once(tmp_path, *words)
    started = time.monotonic()
    out, error = process(tmp_path, *words).communicate(timeout=100)
    compute = json.loads(out)["compute"]
    assert compute["ended_by"] == "seconds", error
    assert 4 <= compute["train_seconds"] < 5.5
    assert time.monotonic() - started > 1


@pytest.mark.slow
@pytest.mark.parametrize("word", ["trainer.budget.decoder_evaluations=2e4", "trainer.budget.seconds=3"])
def test_ranks_end_at_the_same_step(word: str, tmp_path: Path) -> None:
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    out, error = process(tmp_path, word, *ranks).communicate(timeout=100)
    compute = json.loads(out)["compute"]
    assert compute["world_size"] == 2, error
    if "seconds" in word:
        assert 3 <= compute["train_seconds"] < 12
    else:
        assert compute["steps"] == 200
        assert compute["train_decoder_evaluations"] <= 20_000
