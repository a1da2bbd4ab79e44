"""Every objective and every model of `conf/` keeps every law, and every law finds a mistake."""

import functools
import importlib
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.config.typed import parameters
from elbo_bench.conformance import (
    MODEL_LAWS,
    OBJECTIVE_LAWS,
    Law,
    LawBroken,
    LawSkipped,
    ModelSubject,
    ObjectiveSubject,
    Verdict,
)
from elbo_bench.conformance.cases import discrete_case, gaussian_case
from elbo_bench.conformance.data_kinds import KINDS, DataKind
from elbo_bench.conformance.grid import Grid
from elbo_bench.conformance.law import judge, require_close
from elbo_bench.conformance.mean_test import require_mean, require_mean_at_most
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise

PLUGIN = Path(__file__).resolve().parents[1] / "plugin"
OWN = Catalogue.of()
# A statistical law draws so many log-weights here; ten times as many with `-m slow`, as `elbo-bench check` does.
LOG_WEIGHTS, SAMPLES = 60_000, 8_000
# What makes a component small, where it has such a key: no two sizes are alike.
SMALL: dict[str, Any] = {
    "num_estimates": 2,
    "latent_dim": 3,
    "latent_dims": [3, 2],
    "hidden": [7],
    "hidden_between": [6],
    "channels": [3, 5],
    "num_blocks": 1,
    "num_variables": 2,
    "num_categories": 5,
}


def small(group: str, name: str) -> dict[str, Any]:
    keys = OWN.read(group, name)[0]
    return {key: value for key, value in SMALL.items() if key in keys}


def injected(group: str, name: str) -> dict[str, Any]:
    accepted = parameters(OWN.target(group, name))
    return {"num_train": 100} if "num_train" in accepted and group == "objective" else {}


@functools.cache
def objective(name: str, num_samples: int, log_weights: int = LOG_WEIGHTS) -> ObjectiveSubject:
    given = {**small("objective", name), **injected("objective", name)}
    return ObjectiveSubject(config.build("objective", name, num_samples=num_samples, **given), log_weights)


def objectives() -> list[tuple[str, int]]:
    """Return every objective of `conf/`, with each number of samples out of 3 and 1 that it accepts."""
    found = []
    for name, num_samples in itertools.product(OWN.names("objective"), (3, 1)):
        try:
            objective(name, num_samples)
        except UsageError:
            continue
        found.append((name, num_samples))
    return found


@functools.cache
def model(name: str, samples: int = SAMPLES, **parts: str) -> ModelSubject:
    given = {**small("model", name), **parts}

    def build(info: Any, **more: Any) -> nn.Module:
        built: nn.Module = config.build("model", name, info=info, **{**given, **more})
        return built

    return ModelSubject(build, set(OWN.read("model", name)[0]), samples)


def hold(law: Law[Any], subject: Any) -> None:
    verdict = judge(law, subject)
    if verdict.status == "skipped":
        assert verdict.seen
        pytest.skip(verdict.seen)
    assert verdict.status == "holds", verdict.seen


def by_name(law: Law[Any]) -> str:
    return law.name.replace(" ", "-")


OBJECTIVES = objectives()
each_objective = pytest.mark.parametrize(("name", "num_samples"), OBJECTIVES, ids=lambda value: str(value))
each_model = pytest.mark.parametrize("name", OWN.names("model"))
each_part = pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in ("posterior", "prior", "likelihood") for name in OWN.names(group)],
)


@pytest.mark.parametrize("law", OBJECTIVE_LAWS, ids=by_name)
@each_objective
def test_an_objective_keeps_the_law(name: str, num_samples: int, law: Law[ObjectiveSubject]) -> None:
    hold(law, objective(name, num_samples))


@pytest.mark.parametrize("law", MODEL_LAWS, ids=by_name)
@each_model
def test_a_model_keeps_the_law(name: str, law: Law[ModelSubject]) -> None:
    hold(law, model(name))


@pytest.mark.parametrize("law", MODEL_LAWS, ids=by_name)
@each_part
def test_a_part_of_a_model_keeps_the_law(group: str, name: str, law: Law[ModelSubject]) -> None:
    hold(law, model("mlp", **{group: name}))


STATISTICAL = [law for law in OBJECTIVE_LAWS if "mean" in law.name or "expectation" in law.name]


@pytest.mark.slow
@pytest.mark.parametrize("law", STATISTICAL, ids=by_name)
@each_objective
def test_an_objective_keeps_the_law_in_ten_times_as_many_values(
    name: str, num_samples: int, law: Law[ObjectiveSubject]
) -> None:
    hold(law, objective(name, num_samples, 10 * LOG_WEIGHTS))


@each_objective
def test_an_objective_by_name_is_what_its_code_makes_of_no_arguments(name: str, num_samples: int) -> None:
    given = injected("objective", name)
    assert config.build("objective", name, **given) == OWN.target("objective", name)(**given)


def test_every_objective_and_model_is_here() -> None:
    assert {name for name, _ in OBJECTIVES} == set(OWN.names("objective"))
    assert {"iwae", "elbo_mc"} <= set(OWN.names("objective"))
    assert (len(OF_OBJECTIVES), len(OF_MODELS)) == (len(OBJECTIVE_LAWS), len(MODEL_LAWS)) == (22, 17)
    assert all(law.source for law in (*OBJECTIVE_LAWS, *MODEL_LAWS))


@each_objective
def test_no_two_axes_are_alike(name: str, num_samples: int) -> None:
    subject = objective(name, num_samples)
    draws = subject.draws()
    sizes = [len(draws.z), *draws.z.shape[1:], subject.case.x.shape[1]]
    assert draws.log_w.shape == (sizes[0], sizes[1])
    assert len(set(sizes)) == 4
    assert {subject.objective.num_samples, subject.num_estimates} & {*sizes[1:]} == set()


# ---------------------------------------------------------------- each law finds its mistake

OF_OBJECTIVES, OF_MODELS = ({law.name: law for law in laws} for laws in (OBJECTIVE_LAWS, MODEL_LAWS))
AT_POSTERIOR = "where q(z|x) is the posterior, the value is log p(x) for every draw"
MEAN = "the mean agrees with the declared direction"
DECODER = "the decoder and prior gradient is the gradient of the value"
ENCODER = "the encoder gradient is the gradient of the value"
MISTAKES = {
    "NoLogK": [AT_POSTERIOR, MEAN],
    "WrongSign": ["adding c to log p(x|z) adds c to the value", AT_POSTERIOR, MEAN],
    "Surrogate": [MEAN, DECODER, ENCODER],
    "OneForAll": ["one finite value for each example"],
    "SumOverTheBatch": ["the value of an example does not depend on the other examples"],
    "Naive": ["gradients are finite for extreme log-weights"],
    "NoDecoderGradient": [DECODER],
    "PathOnly": [ENCODER],
    "ClipsGradient": [ENCODER, DECODER],
    "NotSquared": ["the encoder gradient is the gradient of the value in expectation"],
    "Filtered": ["NaN in a log-density gives NaN"],
    "LastCountsTwice": ["the order of the samples does not matter"],
    "OftenTheFirst": ["the order of the samples does not matter"],
    "Random": ["the global random state is not used", "the same draws give the same value"],
    "Remembers": ["the same draws give the same value"],
    "InPlace": ["the draws are not modified"],
    "Widened": ["float32 and float64 give the same value"],
    "TwoFaced": ["the value is the same with and without a gradient"],
    "ZeroTimesInfinity": ["a weight of zero gives the limit of small weights"],
    "Truncated": ["adding c to log p(x|z) adds c to the value"],
    "NoNumberWithGradient": ["a weight of zero gives the limit of small weights"],
    "ProductOfAxes": ["a wrong number of samples is rejected"],
    "Sideways": ["its class attributes have valid values"],
    "Careless": ["a field outside its range is rejected"],
    "AnyAlpha": ["a field outside its range is rejected"],
    "Unlike": ["it is a frozen dataclass, equal to a copy made from its fields"],
    "Largest": [MEAN],
    "Generous": [AT_POSTERIOR, MEAN],
    "NotUnbiased": [MEAN],
    "UpsideDown": [MEAN],
    "RaisesAtOnce": ["one finite value for each example"],
}
MODEL_MISTAKES = {
    "OffPosterior": [
        "the density of q(z|x) is that of its transported noise",
        "samples of q(z|x) and p(z) follow their densities",
    ],
    "UnnormalisedPrior": ["q(z|x) and p(z) integrate to one"],
    "OtherPrior": ["samples of q(z|x) and p(z) follow their densities"],
    "OverstatedPosterior": ["no bound lies above log p(x)"],
    "ReconstructionLoss": ["p(x|z) sums to one, and its samples follow it"],
    "OtherObservations": ["p(x|z) sums to one, and its samples follow it"],
    "OneNatTooMuch": ["p(x|z) of many values is normalised"],
    "Normalises": [
        "q(z|x) of an example does not depend on the other examples",
        "train() and eval() give the same densities",
    ],
    "DropsOut": ["the densities are a function of x and z", "train() and eval() give the same densities"],
    "Idle": ["every parameter has a gradient"],
    "Muted": ["every parameter has a gradient"],
    "NoEvent": ["its distributions have the right shapes"],
    "HiddenState": ["its state_dict restores it"],
    "Wide": ["float32 and float64 give the same densities"],
    "Narrow": ["log-densities are finite, [K, B]"],
    "Infinite": ["log-densities are finite, [K, B]"],
    "Grey": ["samples of p(x|z) are valid data"],
    "Crowd": ["the densities of a latent do not depend on the other latents"],
    "Restless": ["transport is a function of the noise"],
    "NoLikelihood": ["its distributions have the right shapes"],
}


@pytest.fixture(scope="module")
def lab() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGIN)
        bounds, models = (importlib.import_module(f"my_lab.broken_{kind}") for kind in ("bounds", "models"))
        yield {**vars(bounds), **vars(models)}
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


def model_of(lab: Any, name: str) -> ModelSubject:
    return ModelSubject(lambda info, **given: lab[name](info, **given), {"latent_dim"}, SAMPLES)


@pytest.mark.parametrize(("name", "law"), [(name, law) for name, laws in MISTAKES.items() for law in laws])
def test_a_law_finds_a_broken_bound(lab: Any, name: str, law: str) -> None:
    verdict = judge(OF_OBJECTIVES[law], ObjectiveSubject(lab[name](), 300_000))
    assert verdict.status == "broken", verdict.seen


@pytest.mark.parametrize(("name", "law"), [(name, law) for name, laws in MODEL_MISTAKES.items() for law in laws])
def test_a_law_finds_a_broken_model(lab: Any, name: str, law: str) -> None:
    verdict = judge(OF_MODELS[law], model_of(lab, name))
    assert verdict.status == "broken", verdict.seen


@pytest.mark.parametrize("laws", [OBJECTIVE_LAWS, MODEL_LAWS], ids=["objective", "model"])
def test_what_the_mistakes_are_made_in_is_right(lab: Any, laws: tuple[Law[Any], ...]) -> None:
    subject = ObjectiveSubject(lab["Bound"](), LOG_WEIGHTS) if laws is OBJECTIVE_LAWS else model_of(lab, "Factors")
    broken = [law.name for law in laws if judge(law, subject).status == "broken"]
    assert broken == []


def test_for_every_law_there_is_a_mistake_that_it_finds() -> None:
    # An objective cannot break the one that is left: it is the draws that refuse.
    assert set(OF_OBJECTIVES) - set(itertools.chain(*MISTAKES.values())) == {"swapped axes are rejected"}
    assert set(OF_MODELS) - set(itertools.chain(*MODEL_MISTAKES.values())) == set()


# ---------------------------------------------------------------- what the laws rest on


def test_the_normal_case_is_known_exactly() -> None:
    case = gaussian_case(3, 4, 5)
    exact = case.at_posterior()
    z = Noise(0, "test").normal((7, 4, 3), dtype=torch.float64)
    joint = case.prior().log_prob(z) + case.likelihood(z).log_prob(case.x)
    found = joint - exact.posterior(case.x).log_prob(z)
    torch.testing.assert_close(found, case.log_p_x().expand(7, 4), rtol=1e-12, atol=1e-12)
    full = MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    assert not torch.allclose(full.log_prob(case.x), case.log_p_x(), atol=0.1)
    rate = kl_divergence(case.posterior(case.x).base_dist, exact.posterior(case.x).base_dist).sum(-1)
    assert (rate > 0.05).all()


def test_the_discrete_case_is_known_exactly() -> None:
    case = discrete_case(3, 5, 6)
    every = torch.cartesian_prod(*[torch.arange(2.0).double()] * 3)[:, None]
    joint = case.prior().log_prob(every) + case.likelihood(every).log_prob(case.x)
    exact = case.at_posterior()
    q = exact.posterior(case.x).log_prob(every.expand(8, 5, 3))
    torch.testing.assert_close(joint - q, case.log_p_x().expand(8, 5), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(case.posterior(case.x).log_prob(every.expand(8, 5, 3)), q, atol=0.05)


def test_a_mean_test_sees_what_it_says_and_passes_what_is_right() -> None:
    samples = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0)).double() * 2
    smallest = require_mean(samples, 0.0, "zero")
    assert 0.05 < smallest < 0.2
    assert require_mean_at_most(samples, 0.0, "above") == pytest.approx(smallest, rel=0.2)
    one = torch.tensor([0.0, 1.0, 0.0]).double()
    for sign in (-1, 1):
        with pytest.raises(LawBroken, match=r"off by -?0\.\d+ \+- 0\.01"):
            require_mean(samples + sign * smallest * one, 0.0, "moved")
    with pytest.raises(LawBroken, match="above"):
        require_mean_at_most(samples + smallest * one, 0.0, "above")
    assert require_mean_at_most(samples - 5, 0.0, "above") > 0
    for bad in (math.nan, math.inf):
        spoilt = samples.clone()
        spoilt[3, 1] = bad
        with pytest.raises(LawBroken):
            require_mean(spoilt, 0.0, "spoilt")
        with pytest.raises(LawBroken):
            require_mean_at_most(spoilt, 0.0, "spoilt")


def test_closeness_is_a_matter_of_shape_and_of_every_number() -> None:
    one = torch.tensor([1.0, math.inf])
    assert require_close(one, one.clone(), "equal", atol=0.0) == 0
    assert require_close(torch.tensor([1.5]), torch.tensor([1.0]), "near", atol=0.6) == 0.5
    for found, expected in [
        (torch.tensor([1.0]), torch.tensor(1.0)),
        (torch.tensor([math.nan]), torch.tensor([math.nan])),
        (torch.tensor([1.0]), torch.tensor([math.nan])),
        (torch.tensor([math.inf]), torch.tensor([-math.inf])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])),
    ]:
        with pytest.raises(LawBroken):
            require_close(found, expected, "far", atol=0.05)


def test_whatever_a_component_raises_is_a_breach_with_its_name() -> None:
    def raises(error: Exception) -> Law[object]:
        def check(_: object) -> None:
            raise error

        return Law("a", "b", check)

    assert judge(raises(ZeroDivisionError("by\nzero")), None) == Verdict(
        "a", "b", "broken", "raises ZeroDivisionError: by zero"
    )
    assert judge(raises(LawBroken("found")), None) == Verdict("a", "b", "broken", "found")
    assert judge(raises(LawSkipped("why")), None) == Verdict("a", "b", "skipped", "why")
    assert judge(Law("a", "b", lambda _: None), None) == Verdict("a", "b", "holds", "")


@pytest.mark.parametrize("num_dims", [1, 2])
def test_a_grid_integrates(num_dims: int) -> None:
    normal = MultivariateNormal(torch.ones(num_dims).double(), 0.49 * torch.eye(num_dims).double())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        grid = Grid(normal.sample((500,)), 101)
    values = grid.log_values(normal.log_prob)
    assert values.exp().sum() == pytest.approx(1, abs=1e-9)
    assert grid.coarse(values).exp().sum() == pytest.approx(1, abs=1e-6)
    assert len(grid.coarse(values)) == 51**num_dims


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_kind_of_data_is_what_it_says(kind: DataKind) -> None:
    x = kind.examples(50)
    assert x.shape == (50, *kind.shape)
    assert x.dtype is torch.float64
    assert kind.info.train_mean.shape == kind.shape
    if kind.num_levels is None:
        assert ((x > 0) & (x < 1)).all()
    else:
        assert set(x.flatten().tolist()) <= set(range(kind.num_levels))
        pairs = kind.of_shape((2,)).every_example()
        assert pairs is not None
        assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == kind.num_levels**2
    assert (kind.every_example() is None) == (kind.num_levels != 2 or kind.shape == (8, 8))


def test_a_model_is_made_anew_and_leaves_global_numbers_alone(lab: Any) -> None:
    before = torch.get_rng_state()
    subject = model_of(lab, "Factors")
    first, second = subject.model(), subject.model()
    assert isinstance(first, LatentVariableModel)
    assert first is not second
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.dtype is torch.float64
    assert torch.equal(torch.get_rng_state(), before)
    assert subject.model(small=True).prior().event_shape == (2,)
    assert subject.num_samples not in (len(subject.x), 3, 6)
