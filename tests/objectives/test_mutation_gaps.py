"""Laws of evaluation and training that a planted mistake would break and no other test would notice."""

import math
import threading

import numpy as np
import pytest
import torch
from support.linear_gaussian_case import B, linear_gaussian, observations
from torch import Tensor, nn

from elbo_bench.data.batches import Batch
from elbo_bench.draws import Draws, draw
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation import blocks, evaluate
from elbo_bench.evaluation.blocks import ScoredBlock, compute_blocks, refuse_non_finite, score_examples
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.importance_sampling.streaming import NonFinite
from elbo_bench.evaluation.latents import Latents
from elbo_bench.evaluation.metrics import exact_mean, mean_over_examples
from elbo_bench.noise import Noise
from elbo_bench.objectives.iwae import IWAE
from elbo_bench.training.module import BoundModule
from elbo_bench.training.optimizers import Adam


def rows_of(x: Tensor) -> ScoredBlock:
    return ScoredBlock(Scores({}, {"total": x.sum(1).numpy()}))


@pytest.mark.parametrize("block_size", [1, 4, 5, 11, 20])
def test_every_example_is_scored_once_and_in_order_whatever_the_blocks(block_size: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(11, 3)))
    sizes = []

    def score(_: None, part: Tensor, block: int) -> ScoredBlock:
        sizes.append(len(part))
        return rows_of(part)

    keys = Latents(block_size=block_size, workers=1)
    found = score_examples(keys, None, x, Request(seed=0), score=score).flat()
    assert found["id"].tolist() == list(range(11))
    assert np.array_equal(found["total"], x.sum(1).numpy())
    assert sizes == [block_size] * math.ceil(11 / block_size)


def test_the_numbers_of_the_examples_are_kept() -> None:
    request = Request(seed=0, ids=torch.tensor([7, 3, 9]))
    x = torch.tensor([[0.0], [1.0], [math.nan]])
    keys = Latents(block_size=2, workers=1)
    kept = score_examples(keys, None, x[:2], Request(seed=0), score=lambda _, x, __: rows_of(x)).flat()
    assert kept["total"].tolist() == [0, 1]
    with pytest.raises(RunFailedError, match="example 9: total is nan"):
        score_examples(keys, None, x, request, score=lambda _, x, __: rows_of(x))


def test_only_minus_infinity_that_a_weight_of_zero_explains_passes() -> None:
    def refuse(log_px: list[float], zero: list[bool], **flags: list[bool]) -> None:
        met = NonFinite(2)
        met.zero = torch.tensor(zero)
        for flag, values in flags.items():
            setattr(met, flag, torch.tensor(values))
        columns = {"log_px": np.array(log_px), "elbo_mc": np.array([-3.0, -math.inf])}
        refuse_non_finite(ScoredBlock(Scores({}, columns), met), np.array([4, 5]))

    refuse([-1.0, -2.0], [False, True])
    with pytest.raises(RunFailedError, match="example 5: elbo_mc is -inf"):
        refuse([-1.0, -2.0], [True, False])
    with pytest.raises(RunFailedError, match="example 4: every log-weight is -inf"):
        refuse([-math.inf, -2.0], [True, True])
    for flag, what in (("nan", "NaN"), ("infinite", r"\+inf")):
        with pytest.raises(RunFailedError, match=f"example 5: a log-weight is {what}"):
            refuse([-1.0, -2.0], [False, True], **{flag: [False, True]})


def test_dropout_is_off_while_examples_are_scored_and_on_again_after() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1))
    model[1].eval()
    seen = []

    def score(_: nn.Module, x: Tensor, block: int) -> ScoredBlock:
        seen.extend([model.training, model[0].training])
        return ScoredBlock(Scores({}, {"value": np.zeros(len(x))}))

    score_examples(Latents(block_size=2, workers=1), model, torch.zeros(2, 1), Request(seed=0), score=score)
    assert seen == [False, False]
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_blocks_come_in_order_whichever_ends_first() -> None:
    last_is_done = threading.Event()

    def compute(block: int) -> dict[str, np.ndarray]:
        if block == 1:
            last_is_done.set()
        else:
            assert last_is_done.wait(20)
        return {"block": np.array([block])}

    found = compute_blocks(compute, 2, workers=2)
    assert [int(rows["block"][0]) for rows in found] == [0, 1]


@pytest.mark.parametrize(("num_blocks", "ranks"), [(7, 3), (2, 3), (6, 2), (5, 1)])
def test_ranks_share_out_every_block_once(num_blocks: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    monkeypatch.setattr(blocks, "_gather", lambda done, *_: computed.extend(done) or [])
    for rank in range(ranks):
        monkeypatch.setattr(blocks, "rank_and_world_size", lambda rank=rank: (rank, ranks))
        compute_blocks(lambda block: {"block": np.array([block])}, num_blocks, workers=1)
    assert sorted(computed) == list(range(num_blocks))


def test_a_mean_over_examples_has_the_textbook_s_errors() -> None:
    values, errors = np.array([1.0, 4.0, -2.0, 3.0, 5.5]), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    found = mean_over_examples(Estimate(values, errors), "a mean")
    assert found["value"] == pytest.approx(values.mean(), rel=1e-15)
    assert found["se_test"] == pytest.approx(values.std(ddof=1) / math.sqrt(5), rel=1e-14)
    assert found["se_mc"] == pytest.approx(math.sqrt(0.01 + 0.04 + 0.09 + 0.16 + 0.25) / 5, rel=1e-14)
    assert (found["n"], found["unit"]) == (5, "nats")


def test_a_mean_is_exact_whatever_the_order() -> None:
    values = np.array([1e16, 1.0, -1e16, 2.0, 3.0])
    assert {exact_mean(values[list(order)]) for order in ([0, 1, 2, 3, 4], [4, 0, 3, 2, 1], [2, 3, 0, 4, 1])} == {1.2}


OPTIONS = {"proposal": "encoder", "pilot_share": 0.0, "truth": "importance", "workers": 1}


def test_a_gap_is_log_p_x_less_the_bound() -> None:
    rows = evaluate(linear_gaussian(), observations(), num_samples=9, bounds={"third": IWAE(num_samples=3)}, **OPTIONS)
    found = rows.examples
    assert np.array_equal(found["elbo_gap"], found["log_px"] - found["elbo_mc"])
    assert np.array_equal(found["gaps/third"], found["log_px"] - found["bounds/third"])
    assert found["elbo_gap"].min() > 0


def test_each_block_and_each_seed_has_numbers_of_its_own_and_none_are_training_s() -> None:
    model, x = linear_gaussian(), observations()[:1].expand(4, -1)
    found = evaluate(model, x, num_samples=6, seed=3, block_size=2, **OPTIONS).examples["elbo_mc"]
    other = evaluate(model, x, num_samples=6, seed=4, block_size=2, **OPTIONS).examples["elbo_mc"]
    assert len({*found.tolist(), *other.tolist()}) == 8
    with torch.no_grad():
        posterior = model.posterior(x[:2])
        for noise in (Noise(3, "latent", 0), Noise(3, "latent", 1)):
            trained = draw(model, x[:2], 6, noise.stream(), posterior=posterior).log_w.mean(0).numpy()
            assert np.abs(found[:, None] - trained).min() > 1e-6


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 100])
def test_the_chunks_in_which_samples_are_decoded_change_nothing(chunk_size: int) -> None:
    bounds = {"third": IWAE(num_samples=3)}
    whole = evaluate(linear_gaussian(), observations(), num_samples=11, chunk_size=11, bounds=bounds, **OPTIONS)
    parts = evaluate(linear_gaussian(), observations(), num_samples=11, chunk_size=chunk_size, bounds=bounds, **OPTIONS)
    assert (parts.examples["decoded"] == 11).all()
    for name, column in whole.examples.items():
        np.testing.assert_allclose(parts.examples[name], column, rtol=1e-9, atol=1e-12, err_msg=name)


def test_densities_in_float32_are_subtracted_and_summed_in_float64() -> None:
    model, x = linear_gaussian().float(), observations().float()
    found = evaluate(model, x, num_samples=11, seed=3, block_size=B, **OPTIONS).examples
    with torch.no_grad():
        draws = draw(model, x, 11, Noise(3, "evaluate", 0).stream())
    log_w = draws.log_p_x_given_z.double() - (draws.log_q_z_given_x.double() - draws.log_p_z.double())
    np.testing.assert_allclose(found["elbo_mc"], log_w.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found["log_px"], torch.logsumexp(log_w, 0) - math.log(11), rtol=1e-13)


@pytest.mark.parametrize("name", ["log_p_x_given_z", "log_p_z", "log_q_z_given_x"])
def test_draws_of_swapped_axes_are_refused_without_jaxtyping_too(name: str) -> None:
    columns = {each: torch.zeros(7, 4) for each in ("log_p_x_given_z", "log_p_z", "log_q_z_given_x")}
    draws = Draws(z=torch.zeros(7, 4, 3), **columns)
    object.__setattr__(draws, name, torch.zeros(4, 7))  # under pytest the annotations refuse it first
    with pytest.raises(ValueError, match=rf"{name} has the shape \(4, 7\), not \[K, B\] = \(7, 4\)"):
        draws.__post_init__()


def loss(batch: Batch) -> float:
    module = BoundModule(linear_gaussian(), IWAE(num_samples=3), Adam(), seed=5)
    return module.training_step(batch, 0).item()


def batch(start: int, stop: int, ranks: int, position: int = 2) -> Batch:
    return Batch(observations()[start:stop], position=position, start=start, total=B, ranks=ranks, per_epoch=10)


def test_a_training_step_descends_minus_the_mean_of_the_bound() -> None:
    expected = IWAE(num_samples=3)(draw(linear_gaussian(), observations(), 3, Noise(5, "latent", 2)))
    assert loss(batch(0, B, 1)) == pytest.approx(-expected.mean().item(), rel=1e-12)


def test_the_ranks_losses_average_to_that_of_one_process() -> None:
    whole = loss(batch(0, B, 1))
    shares = [loss(batch(start, stop, 2)) for start, stop in ((0, 1), (1, B))]
    assert sum(shares) / 2 == pytest.approx(whole, rel=1e-12)


def test_every_step_has_noise_of_its_own_and_so_has_every_row() -> None:
    losses = {loss(batch(0, B, 1, position)) for position in range(5)}
    assert len(losses) == 5
    same = Batch(observations()[:1], position=2, start=0, total=B, ranks=B, per_epoch=10)
    by_row = {loss(same._replace(start=start)) for start in range(B)}
    assert len(by_row) == B
