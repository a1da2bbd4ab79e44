"""Laws of the noise: a pure function of (seed, purpose, position), and standard normal."""

import itertools
from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import strategies as st
from support.linear_gaussian_case import assert_mean, trials
from torch import Tensor

from elbo_bench.noise import Noise

DRAWERS: dict[str, Callable[[Noise], Tensor]] = {
    "normal32": lambda noise: noise.normal((9, 4, 3)),
    "normal64": lambda noise: noise.normal((9, 4, 3), dtype=torch.float64),
    "uniform": lambda noise: noise.uniform((9, 4, 3)),
    "permutation": lambda noise: noise.permutation(50),
    "seed": lambda noise: torch.tensor(noise.torch_seed()),
    "stream": lambda noise: noise.stream().normal((9, 4, 3)),
}
drawers = pytest.mark.parametrize("drawer", DRAWERS.values(), ids=DRAWERS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
HOME = Noise(3, "latent", 5)
ELSEWHERE = {
    "seed": Noise(4, "latent", 5),
    "negative seed": Noise(-3, "latent", 5),
    "seed + 2**32": Noise(3 + 2**32, "latent", 5),
    "seed + 2**64": Noise(3 + 2**64, "latent", 5),
    "seed + 2**100": Noise(3 + 2**100, "latent", 5),
    "purpose": Noise(3, "evaluate", 5),
    "position": Noise(3, "latent", 6),
    "first position": Noise(3, "latent", 0),
    "seed and position swapped": Noise(5, "latent", 3),
}


@drawers
def test_the_same_place_gives_the_same_numbers_whatever_was_drawn_before(drawer: Callable[[Noise], Tensor]) -> None:
    first = drawer(HOME)
    for other in DRAWERS.values():
        other(HOME)
        other(Noise(8, "shuffle"))
    torch.manual_seed(11)
    assert torch.equal(drawer(HOME), first)
    assert torch.equal(drawer(Noise(3, "latent", 5)), first)


@drawers
@pytest.mark.parametrize("elsewhere", ELSEWHERE.values(), ids=ELSEWHERE)
def test_another_seed_purpose_or_position_gives_other_numbers(
    elsewhere: Noise, drawer: Callable[[Noise], Tensor]
) -> None:
    assert not torch.equal(drawer(HOME), drawer(elsewhere))


@pytest.mark.parametrize("elsewhere", ELSEWHERE.values(), ids=ELSEWHERE)
def test_two_places_share_no_number_and_do_not_correlate(elsewhere: Noise) -> None:
    here = HOME.normal((20_000,), dtype=torch.float64).numpy()
    there = elsewhere.normal((20_000,), dtype=torch.float64).numpy()
    # A counter that starts at the position itself, and not at a multiple of a great stride, overlaps.
    assert not set(here) & set(there)
    assert_mean(here * there, 0, detects=0.07)


def test_a_recorded_number_stays_what_it_was() -> None:
    # Another key or counter would silently give every recorded run other numbers.
    assert HOME.torch_seed() == 273799915188964661
    numbers = [0.3311495011041091, 0.5496032554751372, 1.119503689520195]
    np.testing.assert_allclose(HOME.normal((3,), dtype=torch.float64), numbers, rtol=1e-15)


@dtypes
@pytest.mark.parametrize("cuts", [(7,), (4, 3), (3, 3, 1), (0, 7)], ids=str)
def test_ranks_draw_the_rows_of_one_global_batch(cuts: tuple[int, ...], dtype: torch.dtype) -> None:
    total, event = sum(cuts), (2, 5)
    whole = Noise(3, "latent", 5).normal((3, total, *event), dtype=dtype)
    starts = [0, *itertools.accumulate(cuts)]
    pieces = [
        Noise(3, "latent", 5, rows=(start, total)).normal((3, size, *event), dtype=dtype)
        for start, size in zip(starts, cuts, strict=False)
    ]
    assert [piece.shape for piece in pieces] == [(3, size, *event) for size in cuts]
    assert torch.equal(torch.cat(pieces, 1), whole)


@dtypes
@hypothesis.given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), width=st.integers(1, 3))
@trials(40)
def test_a_stream_cut_anywhere_concatenates_to_the_same_numbers(
    dtype: torch.dtype, sizes: list[int], width: int
) -> None:
    # Odd sizes matter: float32 takes half a word of the generator.
    stream = HOME.stream()
    pieces = [stream.normal((size, width), dtype=dtype) for size in sizes]
    assert torch.equal(torch.cat(pieces), HOME.normal((sum(sizes), width), dtype=dtype))


@dtypes
def test_more_samples_leave_the_first_ones_as_they_are(dtype: torch.dtype) -> None:
    assert torch.equal(HOME.normal((2, 4, 3), dtype=dtype), HOME.normal((9, 4, 3), dtype=dtype)[:2])


def test_a_stream_gives_a_new_seed_at_each_call() -> None:
    stream = HOME.stream()
    seeds = [stream.torch_seed() for _ in range(100)]
    assert len(set(seeds)) == 100
    assert seeds[0] == HOME.torch_seed()


def test_seeds_for_torch_fill_63_bits() -> None:
    seeds = np.array([Noise(3, "latent", position).torch_seed() for position in range(4000)], dtype=object)
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(int(max(seeds)))
    assert_mean(np.array([seed / 2**63 for seed in seeds]), 0.5, detects=0.05)
    low_bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds], dtype=float)
    assert_mean(low_bits, 0.5, detects=0.1)


@dtypes
def test_numbers_are_standard_normal(dtype: torch.dtype) -> None:
    # False-fail 5e-8 in all; the four moments are seen to 0.013, 0.018, 0.05 and 0.13.
    x = HOME.normal((1000, 50, 10), dtype=dtype).double().flatten().numpy()
    for power, moment, detects in [(1, 0, 0.013), (2, 1, 0.018), (3, 0, 0.05), (4, 3, 0.13)]:
        assert_mean(x**power, moment, detects=detects)
    assert scipy.stats.kstest(x, "norm").pvalue > 1e-8


@dtypes
def test_numbers_of_successive_positions_are_independent_and_standard_normal(dtype: torch.dtype) -> None:
    # What a run consumes: a few numbers at each of many positions.
    x = torch.stack([Noise(3, "latent", position).normal((3,), dtype=dtype) for position in range(10_000)])
    x = x.double().numpy()
    assert_mean(x, 0, detects=0.1)
    assert_mean(x**2, 1, detects=0.15)
    assert_mean(x[1:] * x[:-1], 0, detects=0.1)
    assert_mean(x[:, 0] * x[:, 1], 0, detects=0.1)


def test_uniform_numbers_are_uniform_on_0_to_1() -> None:
    x = HOME.uniform((300, 400)).numpy()
    assert x.dtype == np.float32
    assert x.min() >= 0
    assert x.max() < 1
    assert scipy.stats.kstest(x.flatten(), "uniform").pvalue > 1e-8


def test_permutations_are_uniform() -> None:
    orders = torch.stack([Noise(3, "shuffle", epoch).permutation(4) for epoch in range(4800)])
    assert orders.dtype == torch.int64
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(4800, 4))
    counts = np.unique((orders @ torch.tensor([64, 16, 4, 1])).numpy(), return_counts=True)[1]
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-8


@drawers
def test_torch_s_own_generator_is_neither_read_nor_moved(drawer: Callable[[Noise], Tensor]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = drawer(HOME)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(drawer(HOME), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_numbers_come_in_the_dtype_that_is_asked_for(dtype: torch.dtype) -> None:
    for source in (HOME, HOME.stream(), Noise(3, "latent", 5, rows=(1, 6))):
        assert source.normal((2, 3, 4), dtype=dtype).dtype is dtype
    # Half precision is a rounding of single, so that mixed precision trains on the same samples.
    if dtype.itemsize == 2:
        assert torch.equal(HOME.normal((5, 3), dtype=dtype), HOME.normal((5, 3)).to(dtype))


def test_double_precision_is_not_single_precision_in_disguise() -> None:
    x = HOME.normal((100,), dtype=torch.float64)
    assert not torch.equal(x, x.float().double())
