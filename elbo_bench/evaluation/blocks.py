"""Blocks of examples, shared out among processes and threads. A block's result does not depend on who computed it.

Every block has the same shape: the last one is padded, and the padding is dropped. Every block is computed on one core
with its own random numbers. Any number of processes and threads therefore gives the same bytes. No collective runs
while blocks are computed: the results are gathered once, at the end.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor, nn

from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import ElboBenchError, RunFailedError
from elbo_bench.evaluation.estimate import Columns, Scores
from elbo_bench.evaluation.evaluator import Evaluator, Request, UnsuitableModelError
from elbo_bench.evaluation.finished_blocks import FinishedBlocks
from elbo_bench.evaluation.importance_sampling.streaming import NonFinite
from elbo_bench.evaluation.observations import refuse_off_support, takes_integers
from elbo_bench.evaluation.scored_model import FixedPrior

_MAY_BE_NAN = ("pareto_k", "encoder_pareto_k")
"""Columns in which NaN is no error: k-hat does not exist where the tail of the weights has no shape."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ScoredBlock:
    """What an evaluator computed for a block of examples.

    Attributes:
        scores: Estimates and columns.
        weights: Which examples met a log-weight that is NaN or infinite; None if there are no weights.
        always_finite: Estimates that must be finite. Others may be infinite where a weight is zero.
    """

    scores: Scores
    weights: NonFinite | None = None
    always_finite: Collection[str] = ("log_px",)


def score_examples(
    keys: Evaluator,
    model: object,
    x: Shaped[Tensor, "N *data"],
    request: Request,
    *,
    score: Callable[[Any, Shaped[Tensor, "B *data"], int], ScoredBlock],
) -> Scores:
    """Return the scores of all examples, in order, on every process; the column `id` is the number of an example.

    Args:
        keys: The evaluator's keys, of which `block_size` and `workers` are used.
        model: The model. It is put into evaluation mode meanwhile.
        x: The examples.
        request: What the evaluation is given.
        score: Scores a block. It gets the model, whose prior is computed once, the `block_size` examples and the
            number of the block.

    Raises:
        ValueError: There are no examples, or one is off the support of the model's likelihood.
        RunFailedError: A number is not finite. The message names the example.
    """
    if not len(x):
        raise ValueError("there is no example to score")
    device, dtype = placement(model, x)
    size, ids = keys.block_size, np.arange(len(x)) if request.ids is None else request.ids.cpu().numpy()
    finished = FinishedBlocks(request.folder)

    def compute(block: int) -> Columns:
        first = block * size
        inside = torch.arange(first, first + size).clamp(max=len(x) - 1)  # padding repeats the last example
        mine = ids[first : first + size]
        rows = finished.load(block)
        if rows is None:
            try:
                scored = score(fixed, x[inside.to(x.device)].to(device, dtype), block)
            except UnsuitableModelError:
                raise
            except ValueError as error:  # a distribution of the model that refuses its own parameters
                raise RunFailedError(f"examples {mine[0]} to {mine[-1]}: {error}") from error
            refuse_non_finite(scored, mine)
            rows = {name: column[: len(mine)] for name, column in scored.scores.packed().items()}
            finished.save(block, rows)
        return rows

    with evaluating(model):
        refuse_off_support(model, x.to(device, dtype), request.ids)
        with torch.no_grad():
            fixed = FixedPrior(model, model.prior()) if isinstance(model, LatentVariableModel) else model
        threads = default_workers(device) if keys.workers == "auto" else keys.workers
        blocks = compute_blocks(compute, math.ceil(len(x) / size), workers=threads, progress=request.progress)
    scores = Scores.unpacked(blocks)
    return Scores(scores.estimates, {"id": ids.astype(np.int64), **scores.columns})


def refuse_non_finite(scored: ScoredBlock, ids: np.ndarray) -> None:
    """Raise if a number of an example is not finite. Values are never dropped silently.

    A log-weight of -inf is a weight of zero. The estimate of log p(x) is then still finite. A mean of log-weights, such
    as the ELBO, is truly -inf, and is allowed.

    Args:
        scored: The block.
        ids: Numbers of its examples; what follows them is padding.

    Raises:
        RunFailedError: A log-weight is NaN or +inf, all are -inf, or another number is not finite.
    """
    columns = {name: column[: len(ids)] for name, column in scored.scores.flat().items()}
    what: dict[str, np.ndarray] = {}
    zero = np.zeros(len(ids), dtype=bool)
    if (met := scored.weights) is not None:
        zero = met.zero[: len(ids)].cpu().numpy()
        what = {"a log-weight is NaN": met.nan[: len(ids)].cpu().numpy()}
        what["a log-weight is +inf"] = met.infinite[: len(ids)].cpu().numpy()
        if "log_px" in columns:
            what["every log-weight is -inf"] = columns["log_px"] == -np.inf
    for name, column in columns.items():
        if name not in _MAY_BE_NAN and column.dtype.kind != "U":
            finite = np.isfinite(column).reshape(len(column), -1).all(1)
            what[name] = np.asarray(~finite if name in scored.always_finite else ~(finite | zero))
    broken = np.stack(list(what.values()))
    if broken.any():
        first = int(np.argmax(broken.any(0)))
        name = list(what)[int(np.argmax(broken[:, first]))]
        raise RunFailedError(
            f"example {ids[first]}: {name}" + (f" is {columns[name][first]}" if name in columns else "")
        )


def compute_blocks(
    compute: Callable[[int], T],
    num_blocks: int,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[T]:
    """Return the result of every block, in order, on every process.

    Args:
        compute: Computes a block, given its number.
        num_blocks: Number of blocks.
        workers: Threads of this process.
        progress: Called with (blocks done, blocks of this process) as blocks finish.

    Raises:
        RunFailedError: A block failed, on any process.
    """
    rank, world_size = rank_and_world_size()
    mine = range(rank, num_blocks, world_size)
    done: dict[int, T] = {}
    failure: Exception | None = None
    with single_threaded(), concurrent.futures.ThreadPoolExecutor(workers, initializer=_one_core) as pool:
        futures = {pool.submit(compute, block): block for block in mine}
        try:
            for future in concurrent.futures.as_completed(futures):
                done[futures[future]] = future.result()
                if progress is not None:
                    progress(len(done), len(mine))
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if world_size == 1 or not isinstance(error, Exception):
                raise
            # The other processes wait in `_gather`: send them the error, so that they do not hang.
            known = isinstance(error, ElboBenchError | UnsuitableModelError)
            failure = (
                UnsuitableModelError(str(error))
                if isinstance(error, UnsuitableModelError)
                else RunFailedError(str(error) if known else f"{type(error).__name__}: {error}")
            )
    return _gather(done, failure, num_blocks, world_size)


def _gather(done: dict[int, T], failure: Exception | None, num_blocks: int, world_size: int) -> list[T]:
    parts: list[tuple[dict[int, T], Exception | None]] = [(done, failure)]
    if world_size > 1:
        parts = [({}, None)] * world_size
        torch.distributed.all_gather_object(parts, (done, failure))
    for _, problem in parts:
        if problem is not None:
            raise problem
    merged: dict[int, T] = {}
    for rows, _ in parts:
        if overlap := merged.keys() & rows.keys():
            raise AssertionError(f"block {min(overlap)} was computed twice")
        merged |= rows
    if sorted(merged) != list(range(num_blocks)):
        raise AssertionError(f"{num_blocks - len(merged)} of {num_blocks} blocks are missing")
    return [merged[block] for block in range(num_blocks)]


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def default_workers(device: torch.device) -> int:
    """Return the number of cores that this process may use, or 1 on an accelerator."""
    if device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // rank_and_world_size()[1])


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Run every operator on one core: the number of cores changes the last bits of a matrix product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_core() -> None:
    torch.set_num_threads(1)  # OpenMP keeps the number by thread


def placement(model: object, x: Tensor) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype in which a model takes data: integers stay integers if the model scores them."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device, dtype = (x.device, x.dtype) if parameter is None else (parameter.device, parameter.dtype)
    if x.is_floating_point() or not len(x):
        return device, dtype
    with evaluating(model):
        integers = takes_integers(model, x[:1].to(device))
    return device, x.dtype if integers else torch.get_default_dtype() if parameter is None else dtype


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a model into evaluation mode and matrix products into full precision; restore both at the end."""
    modules = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn
