"""Every likelihood of `conf/likelihood/`: the data it is for, where it begins, and that it is one."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.linear_gaussian_case import trials
from torch import Tensor

from elbo_bench import config
from elbo_bench.config.catalogue import conf_root
from elbo_bench.data_info import DataInfo
from elbo_bench.errors import UsageError
from elbo_bench.models.likelihoods.base import LikelihoodModule
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.likelihoods.bisection import solve_increasing
from elbo_bench.models.likelihoods.categorical import Categorical
from elbo_bench.models.likelihoods.continuous_bernoulli import ContinuousBernoulli
from elbo_bench.models.likelihoods.discretised_logistic import DiscretisedLogistic
from elbo_bench.models.likelihoods.discretised_logistic_mixture import DiscretisedLogisticMixture
from elbo_bench.models.likelihoods.gaussian import Gaussian

K, B, SHAPE = 5, 4, (2, 3)
NAMES = sorted(place.stem for place in conf_root().glob("likelihood/*.yaml"))
each_likelihood = pytest.mark.parametrize("name", NAMES)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def info(num_levels: int | None, train_mean: Tensor | None = None) -> DataInfo:
    """Return facts of data of so many levels, or of continuous data in [0, 1]."""
    if train_mean is None:
        train_mean = torch.tensor([[0.1, 0.25, 0.4], [0.5, 0.6, 0.8]], dtype=torch.float64) * ((num_levels or 2) - 1)
    observation = "continuous" if num_levels is None else "discrete"
    bounds = (0.0, 1.0) if num_levels is None else None
    return DataInfo(tuple(train_mean.shape), train_mean, 10, observation, num_levels, bounds)


def fitting(name: str) -> DataInfo:
    """Return the facts of data that a likelihood takes."""
    for num_levels in (2, 17, None):
        try:
            config.build("likelihood", name).module(info(num_levels))
        except ValueError:
            continue
        if name != "bernoulli" and num_levels == 2:  # two levels are a case of their own
            continue
        return info(num_levels)
    raise AssertionError(f"{name} takes no data")


def module(name: str, facts: DataInfo | None = None, **keys: Any) -> LikelihoodModule:
    return config.build("likelihood", name, **keys).module(facts or fitting(name)).double()


def begun(likelihood: LikelihoodModule) -> Any:
    """Return the distribution with which a decoder of zero weights begins."""
    return likelihood(likelihood.bias)


@each_likelihood
def test_a_module_maps_a_decoder_s_outputs_to_arrays_of_the_data_s_shape(name: str) -> None:
    likelihood = module(name)
    assert likelihood.bias.shape == (*SHAPE, likelihood.num_outputs)
    for lead in [(), (B,), (K, B)]:
        parameters = likelihood.bias + 0.1 * numbers(*lead, *SHAPE, likelihood.num_outputs)
        p = likelihood(parameters)
        assert (p.batch_shape, p.event_shape) == (lead, SHAPE)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = p.sample((7,))
        assert x.shape == (7, *lead, *SHAPE)
        assert p.support.check(x).all()
        assert p.mean.shape == (*lead, *SHAPE)
        assert p.log_prob(x[0]).shape == lead
        assert p.log_prob(x[0]).isfinite().all()


@each_likelihood
def test_each_output_of_a_decoder_reaches_the_value_at_its_place_and_no_other(name: str) -> None:
    likelihood = module(name)
    parameters = (likelihood.bias + 0.3 * numbers(K, B, *SHAPE, likelihood.num_outputs)).requires_grad_()
    p = likelihood(parameters)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, other = p.sample()[0], p.sample()[1]
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), parameters, retain_graph=True)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()
    changed = x.clone()
    changed[2, 0, 1] = other[2, 0, 1] if other[2, 0, 1] != x[2, 0, 1] else x[2, 0, 1].sub(1).abs()
    (again,) = torch.autograd.grad(p.log_prob(changed).sum(), parameters)
    differs = (again != gradient).any(-1).any(0)
    assert differs.nonzero().tolist() == [[2, 0, 1]]


@each_likelihood
def test_every_parameter_that_is_learned_gets_a_gradient(name: str) -> None:
    for keys in [{"variance": each} for each in ("fixed", "learned", "per_pixel")] if name == "gaussian" else [{}]:
        likelihood = module(name, **keys)
        p = likelihood(likelihood.bias.expand(K, B, -1, -1, -1))
        x = p.mean[0] if fitting(name).num_levels is None else torch.zeros(B, *SHAPE, dtype=torch.float64)
        p.log_prob(x + 0).sum().add(0 * likelihood.bias.requires_grad_().sum()).backward()
        learned = [each for each in likelihood.parameters() if each.requires_grad]
        assert bool(learned) == (name == "gaussian" and keys["variance"] != "fixed")
        for parameter in learned:
            np.testing.assert_allclose(parameter.grad, -K * B * 6 / parameter.numel(), rtol=1e-12)


@each_likelihood
def test_the_precision_is_that_of_the_parameters(name: str) -> None:
    facts = fitting(name)
    facts = info(facts.num_levels, facts.train_mean.float())
    likelihood = config.build("likelihood", name).module(facts)
    p = begun(likelihood)
    assert likelihood.bias.dtype is p.mean.dtype is p.sample().dtype is torch.float32
    assert p.log_prob(p.sample()).dtype is torch.float32


@pytest.mark.parametrize("num_levels", [2, 3, 17, 256])
@pytest.mark.parametrize("likelihood", [DiscretisedLogistic(), DiscretisedLogisticMixture(), Categorical()])
def test_a_likelihood_of_any_number_of_levels_sums_to_one(likelihood, num_levels: int) -> None:
    made = likelihood.module(info(num_levels, torch.tensor([0.3 * (num_levels - 1)], dtype=torch.float64)))
    p = made(made.bias + numbers(B, 1, made.num_outputs))
    log_p = p.log_prob(torch.arange(num_levels, dtype=torch.float64)[:, None, None])
    np.testing.assert_allclose(scipy.special.logsumexp(log_p, axis=0), 0, rtol=0, atol=1e-12)


# Where it begins.


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "gaussian", "categorical"])
def test_its_mean_begins_at_the_training_mean_exactly(name: str) -> None:
    facts = fitting(name)
    np.testing.assert_allclose(begun(module(name)).mean, facts.train_mean, rtol=1e-12)


@pytest.mark.parametrize(
    ("likelihood", "num_levels", "share"),
    [
        (Bernoulli(), 2, 0.001),
        (Categorical(), 2, 0.001),
        (Categorical(), 17, 0.001),
        (ContinuousBernoulli(), None, 0.01),
    ],
)
def test_a_training_mean_at_an_end_is_clipped(likelihood, num_levels: int | None, share: float) -> None:
    top = (num_levels or 2) - 1
    made = likelihood.module(info(num_levels, torch.tensor([0, 0.5 * share, 0.3, 1], dtype=torch.float64) * top))
    expected = np.array([share, share, 0.3, 1 - share]) * top
    np.testing.assert_allclose(begun(made).mean, expected, rtol=1e-10)
    assert made.bias.abs().max() < 101


def test_the_bernoulli_begins_as_that_of_burda_s_code() -> None:
    mean = torch.tensor([0.0, 0.25, 1.0])
    expected = torch.logit(mean.clamp(0.001, 0.999))
    assert torch.equal(Bernoulli().module(info(2, mean)).bias, expected[:, None])


@pytest.mark.parametrize("num_levels", [17, 256])
def test_the_logistics_begin_around_the_training_mean_in_the_data_s_units(num_levels: int) -> None:
    facts, top = info(num_levels), num_levels - 1
    one = begun(DiscretisedLogistic().module(facts))
    np.testing.assert_allclose(one.loc, facts.train_mean, rtol=1e-14)
    np.testing.assert_allclose(one.log_scale.exp(), 0.1 * top, rtol=1e-14)
    np.testing.assert_allclose(one.mean, facts.train_mean, atol=0.06 * top)
    for count in (1, 5):
        mixture = begun(DiscretisedLogisticMixture(num_components=count).module(facts))
        np.testing.assert_allclose(mixture.logits.softmax(-1), 1 / count, rtol=1e-14)
        np.testing.assert_allclose(mixture.loc.mean(-1), facts.train_mean, rtol=1e-6)
        assert len(mixture.loc[0, 0].unique()) == count
        np.testing.assert_allclose(mixture.loc[..., -1] - mixture.loc[..., 0], 0.4 * top * (count > 1), rtol=1e-6)
        np.testing.assert_allclose(mixture.log_scale.exp(), 0.1 * top, rtol=1e-14)
        np.testing.assert_allclose(mixture.mean, facts.train_mean, atol=0.1 * top)


def test_a_mixture_of_one_is_a_discretised_logistic() -> None:
    facts = info(17)
    one, mixture = DiscretisedLogistic().module(facts), DiscretisedLogisticMixture(num_components=1).module(facts)
    parameters = one.bias + numbers(K, B, *SHAPE, 2)
    x = one(parameters).sample()[0]
    padded = torch.cat([numbers(K, B, *SHAPE, 1), parameters], -1)
    np.testing.assert_allclose(mixture(padded).log_prob(x), one(parameters).log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(mixture(padded).mean, one(parameters).mean, rtol=1e-12)


def test_a_categorical_begins_with_every_level_within_reach_and_falling_from_the_end_that_is_near() -> None:
    p = begun(Categorical().module(info(256, torch.tensor([0.0, 20.0, 127.5, 255.0], dtype=torch.float64))))
    log_p = p.logits.log_softmax(-1)
    assert log_p.min() > math.log(0.001 / 256) - 1e-9
    assert (log_p[1].diff() < 0).all()
    np.testing.assert_allclose(log_p[2], -math.log(256), atol=1e-12)
    np.testing.assert_allclose(log_p[3], log_p[0].flip(-1), atol=1e-9)


@given(st.floats(-9.0, 9.0))
@trials(20)
def test_bisection_finds_the_argument(argument: float) -> None:
    target = torch.tensor([argument, 0.0], dtype=torch.float64).sinh()
    found = solve_increasing(torch.sinh, target, -10.0, 10.0)
    np.testing.assert_allclose(found, [argument, 0.0], rtol=1e-14, atol=1e-15)


# The Gaussian's standard deviation.


@pytest.mark.parametrize(
    ("variance", "outputs", "learned"),
    [("fixed", 1, None), ("learned", 1, (1, 1)), ("per_pixel", 1, SHAPE), ("predicted", 2, None)],
)
def test_a_gaussian_s_standard_deviation_is_what_its_key_says(variance, outputs: int, learned) -> None:
    made = Gaussian(variance=variance, std=0.3).module(info(None))
    assert made.num_outputs == outputs
    assert [each.shape for each in made.parameters() if each.requires_grad] == ([] if learned is None else [learned])
    made.requires_grad_(False)
    p = made(made.bias.expand(K, B, -1, -1, -1))
    np.testing.assert_allclose(p.log_scale.exp().expand(K, B, *SHAPE), 0.3, rtol=1e-14)
    x = numbers(B, *SHAPE)
    expected = scipy.stats.norm.logpdf(x, info(None).train_mean, 0.3).sum((-1, -2))
    np.testing.assert_allclose(p.log_prob(x), np.broadcast_to(expected, (K, B)), rtol=1e-12)
    assert p.log_prob(x).shape == (K, B)


def test_the_best_standard_deviation_of_each_kind_is_where_its_gradient_vanishes() -> None:
    x = numbers(50, *SHAPE) * torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.0, 0.1]]) + info(None).train_mean
    square = (x - info(None).train_mean).square()
    for variance, best in [("learned", square.mean().view(1, 1)), ("per_pixel", square.mean(0))]:
        made = Gaussian(variance=variance).module(info(None))
        with torch.no_grad():
            made.log_std.copy_(0.5 * best.log())
        begun(made).log_prob(x).sum().backward()
        np.testing.assert_allclose(made.log_std.grad, 0, atol=1e-11)


def test_a_predicted_standard_deviation_is_the_second_output() -> None:
    made = Gaussian(variance="predicted", std=0.3).module(info(None))
    parameters = numbers(K, B, *SHAPE, 2)
    p = made(parameters)
    assert torch.equal(p.mean, parameters[..., 0])
    assert torch.equal(p.log_scale, parameters[..., 1])


# What is refused.

BINARY, GREY, CONTINUOUS = info(2), info(17), info(None)
UNKNOWN = DataInfo(SHAPE, torch.zeros(SHAPE), 10, "discrete")
OF_LEVELS = "take discretised_logistic, discretised_logistic_mixture or categorical, or dequantise the data"
IN_RANGE = "a continuous Bernoulli likelihood needs values in [0, 1]"
OF_NUMBERS = "take gaussian, or continuous_bernoulli if all of it lies in [0, 1]"


@pytest.mark.parametrize(
    ("likelihood", "facts", "said"),
    [
        (Bernoulli(), GREY, f"a Bernoulli likelihood needs binary data, and this data is of 17 levels: {OF_LEVELS}"),
        (
            Bernoulli(),
            CONTINUOUS,
            f"a Bernoulli likelihood needs binary data, and this data is continuous: {OF_NUMBERS}",
        ),
        (
            Bernoulli(),
            UNKNOWN,
            f"a Bernoulli likelihood needs binary data, and this data is discrete with levels unknown: {OF_LEVELS}",
        ),
        (
            Gaussian(),
            GREY,
            f"a Gaussian likelihood needs continuous data, and this data is of 17 levels: {OF_LEVELS}",
        ),
        (
            Gaussian(),
            BINARY,
            "a Gaussian likelihood needs continuous data, and this data is of 2 levels: take bernoulli",
        ),
        (
            ContinuousBernoulli(),
            GREY,
            f"a continuous Bernoulli likelihood needs continuous data, and this data is of 17 levels: {OF_LEVELS}",
        ),
        (
            ContinuousBernoulli(),
            dataclasses.replace(CONTINUOUS, bounds=None),
            f"{IN_RANGE}, and this data may be any real number: take gaussian",
        ),
        (
            ContinuousBernoulli(),
            dataclasses.replace(CONTINUOUS, bounds=(0.0, 1.5)),
            f"{IN_RANGE}, and this data lies in [0.0, 1.5]: take gaussian",
        ),
        (
            ContinuousBernoulli(),
            dataclasses.replace(CONTINUOUS, bounds=(-1.0, 1.0)),
            f"{IN_RANGE}, and this data lies in [-1.0, 1.0]: take gaussian",
        ),
        (
            DiscretisedLogistic(),
            CONTINUOUS,
            f"a discretised logistic likelihood needs discrete data, and this data is continuous: {OF_NUMBERS}",
        ),
        (
            DiscretisedLogisticMixture(),
            CONTINUOUS,
            f"a discretised logistic mixture likelihood needs discrete data, and this data is continuous: {OF_NUMBERS}",
        ),
        (
            Categorical(),
            CONTINUOUS,
            f"a categorical likelihood needs discrete data, and this data is continuous: {OF_NUMBERS}",
        ),
        (
            Categorical(),
            UNKNOWN,
            f"a categorical likelihood needs discrete data, and this data is discrete with levels unknown: {OF_LEVELS}",
        ),
    ],
)
def test_data_of_another_kind_is_refused_in_one_line_that_says_what_suits_it(likelihood, facts, said: str) -> None:
    with pytest.raises(ValueError, match="likelihood needs") as raised:
        likelihood.module(facts)
    assert str(raised.value) == said


def test_what_a_refusal_proposes_is_there_and_takes_the_data() -> None:
    for facts, line in [(GREY, OF_LEVELS), (CONTINUOUS, OF_NUMBERS), (BINARY, "take bernoulli")]:
        proposed = [word for word in NAMES if word in line.replace(",", " ").split()]
        assert proposed
        for name in proposed:
            config.build("likelihood", name).module(facts)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gaussian(std=0.0), r"Gaussian.std=0.0: should be greater than 0"),
        (
            lambda: config.build("likelihood", "gaussian", variance="free"),
            "likelihood.variance=free: should be 'fixed', 'learned', 'per_pixel' or 'predicted'",
        ),
        (lambda: DiscretisedLogisticMixture(num_components=0), r"num_components=0: should be greater than 0"),
    ],
)
def test_keys_out_of_range_are_refused(make, said: str) -> None:
    with pytest.raises((ValueError, UsageError), match=said):
        make()
