"""Laws of learning rates and optimisers: the published schedule, the ends of a cosine, the textbook's steps."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elbo_bench.config import build
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.training.optimizers import SGD, Adam, Optimizer
from elbo_bench.training.schedules import Burda, Constant, Cosine, Schedule, Steps

# --- schedules ---


@pytest.mark.parametrize("name", Catalogue.of().names("schedule"))
def test_a_factor_lies_between_0_and_1_in_every_epoch(name: str) -> None:
    schedule = build("schedule", name)
    factors = [schedule.factor(epoch) for epoch in range(3500)]
    assert all(isinstance(factor, float) and 0 <= factor <= 1 for factor in factors)
    assert max(factors) == 1


def test_a_constant_rate_is_constant() -> None:
    assert {Constant().factor(epoch) for epoch in (0, 1, 17, 10_000)} == {1.0}


@pytest.mark.parametrize(
    ("stage", "first", "last"),
    [(0, 0, 0), (1, 1, 3), (2, 4, 12), (3, 13, 39), (4, 40, 120), (5, 121, 363), (6, 364, 1092), (7, 1093, 3279)],
)
def test_burda_s_stage_i_lasts_3_to_the_i_epochs_at_10_to_the_minus_i_sevenths(
    stage: int, first: int, last: int
) -> None:
    assert last - first + 1 == 3**stage
    for epoch in {first, (first + last) // 2, last}:
        assert Burda().factor(epoch) == pytest.approx(10 ** (-stage / 7), rel=1e-14)


def test_burda_s_schedule_makes_3280_epochs_and_ends_at_a_tenth() -> None:
    factors = [Burda().factor(epoch) for epoch in range(3280)]
    assert len(set(factors)) == 8
    assert factors == sorted(factors, reverse=True)
    assert Burda().factor(3279) == pytest.approx(0.1, rel=1e-14)
    assert Burda().factor(3280) == Burda().factor(10_000) == factors[-1]


def test_fewer_stages_end_earlier_and_the_last_one_stays() -> None:
    schedule = Burda(stages=3)
    assert [schedule.factor(epoch) for epoch in range(13)] == [Burda().factor(epoch) for epoch in range(13)]
    assert schedule.factor(13) == schedule.factor(500) == pytest.approx(10 ** (-2 / 7), rel=1e-14)
    assert {Burda(stages=1).factor(epoch) for epoch in range(50)} == {1.0}


@pytest.mark.parametrize("final", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("warmup", [0, 2, 8])
def test_a_cosine_goes_from_1_to_its_final_factor_and_stays(final: float, warmup: int) -> None:
    schedule = Cosine(epochs=40, warmup_epochs=warmup, final=final)
    assert schedule.factor(warmup) == 1
    assert schedule.factor((40 + warmup) // 2) == pytest.approx((1 + final) / 2)
    for epoch in (40, 41, 1000):
        assert schedule.factor(epoch) == pytest.approx(final, abs=1e-15)
    # Half a cosine: by the half-angle formula, the square of a quarter's.
    for epoch in range(warmup, 40):
        quarter = math.cos(math.pi / 2 * (epoch - warmup) / (40 - warmup)) ** 2
        assert schedule.factor(epoch) == pytest.approx(final * (1 - quarter) + quarter, rel=1e-12)


def test_a_warm_up_rises_in_equal_steps_to_1() -> None:
    schedule = Cosine(epochs=40, warmup_epochs=5)
    rise = [schedule.factor(epoch) for epoch in range(5)]
    assert rise == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule.factor(6) < 1


@pytest.mark.parametrize("milestones", [(3, 7, 7), (7, 3, 7)], ids=str)
def test_each_milestone_multiplies_by_gamma_from_its_epoch_on(milestones: tuple[int, ...]) -> None:
    schedule = Steps(milestones=milestones, gamma=0.5)
    assert [schedule.factor(epoch) for epoch in range(9)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.125, 0.125]
    assert Steps(milestones=()).factor(99) == 1
    assert Steps(milestones=(0,), gamma=0.1).factor(0) == pytest.approx(0.1)


# Another type is refused by the configuration; what has the right type and makes no sense is refused here.
BAD_SCHEDULES: list[tuple[type[Schedule], dict[str, Any], str]] = [
    (Burda, {"stages": 0}, "Burda.stages=0"),
    (Cosine, {"epochs": 0}, "Cosine.epochs=0"),
    (Cosine, {"final": -0.1}, "Cosine.final=-0.1"),
    (Cosine, {"final": 1.1}, "Cosine.final=1.1"),
    (Cosine, {"final": math.nan}, "Cosine.final=nan"),
    (Cosine, {"warmup_epochs": -1}, "Cosine.warmup_epochs=-1"),
    (Cosine, {"epochs": 5, "warmup_epochs": 5}, "warmup_epochs=5 must be less than epochs=5"),
    (Steps, {"gamma": 0.0}, "Steps.gamma=0.0"),
    (Steps, {"gamma": math.inf}, "Steps.gamma=inf"),
    (Steps, {"milestones": (3, -1)}, "Steps.milestones"),
]


@pytest.mark.parametrize(("schedule", "fields", "line"), BAD_SCHEDULES, ids=str)
def test_a_schedule_that_makes_no_sense_is_refused(schedule: type[Schedule], fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line.replace("(", r"\(")):
        schedule(**fields)


# --- optimisers ---


def descend(optimizer: Optimizer, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Follow given gradients by the schedule's rate, one epoch a step; return where it leads."""
    parameter = nn.Parameter(torch.tensor(start))
    over = optimizer.over([parameter])
    schedule = torch.optim.lr_scheduler.LambdaLR(over, optimizer.schedule.factor)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        over.step()
        schedule.step()
    return parameter.detach().numpy()


START = np.array([0.5, -1.0, 2.0])
GRADIENTS = np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.99, 0.5), 1e-1)])
def test_adam_is_algorithm_1_of_its_paper(betas: tuple[float, float], eps: float, decay: float) -> None:
    optimizer = Adam(lr=0.05, betas=betas, eps=eps, weight_decay=decay, schedule=Steps(milestones=(2,), gamma=0.1))
    theta, first, second = START.copy(), np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(GRADIENTS, start=1):
        rate = 0.05 * (1 if step <= 2 else 0.1)
        slope = gradient + decay * theta
        first = betas[0] * first + (1 - betas[0]) * slope
        second = betas[1] * second + (1 - betas[1]) * slope**2
        theta = theta - rate * (first / (1 - betas[0] ** step)) / (np.sqrt(second / (1 - betas[1] ** step)) + eps)
    np.testing.assert_allclose(descend(optimizer, START, GRADIENTS), theta, rtol=1e-12)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd_steps_against_the_gradient_with_momentum(momentum: float, nesterov: bool, decay: float) -> None:
    optimizer = SGD(lr=0.05, momentum=momentum, nesterov=nesterov, weight_decay=decay)
    theta, velocity = START.copy(), np.zeros(3)
    for gradient in GRADIENTS:
        slope = gradient + decay * theta
        velocity = momentum * velocity + slope
        theta = theta - 0.05 * (slope + momentum * velocity if nesterov else velocity)
    np.testing.assert_allclose(descend(optimizer, START, GRADIENTS), theta, rtol=1e-12)


@pytest.mark.parametrize("name", Catalogue.of().names("optimizer"))
def test_an_optimiser_goes_down_at_its_rate_times_the_factor_of_the_epoch(name: str) -> None:
    optimizer = build("optimizer", name, lr=0.25, schedule={"name": "burda"})
    parameter = nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    over = optimizer.over([parameter])
    schedule = torch.optim.lr_scheduler.LambdaLR(over, optimizer.schedule.factor)
    rates = []
    for _ in range(6):
        rates.append(over.param_groups[0]["lr"])
        before = parameter.detach().clone()
        parameter.grad = parameter.detach().sign()
        over.step()
        assert ((parameter - before) * parameter.grad < 0).all()
        schedule.step()
    assert rates == pytest.approx([0.25] + 3 * [0.25 * 10 ** (-1 / 7)] + 2 * [0.25 * 10 ** (-2 / 7)])


@pytest.mark.parametrize(
    ("optimizer", "fields", "line"),
    [
        (Adam, {"lr": 0.0}, "Adam.lr=0.0"),
        (Adam, {"lr": math.nan}, "Adam.lr=nan"),
        (Adam, {"betas": (0.9, 1.0)}, "Adam.betas"),
        (Adam, {"betas": (-0.1, 0.9)}, "Adam.betas"),
        (Adam, {"eps": 0.0}, "Adam.eps=0.0"),
        (SGD, {"momentum": 1.0}, "SGD.momentum=1.0"),
        (SGD, {"weight_decay": -1.0}, "SGD.weight_decay=-1.0"),
        (SGD, {"nesterov": True}, "momentum"),
    ],
    ids=str,
)
def test_an_optimiser_that_makes_no_sense_is_refused(
    optimizer: type[Optimizer], fields: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        optimizer(**fields)
