"""Blocks of examples, dealt to ranks and threads; a block's result does not depend on who computed it.

A block always has the same shape (the last one is padded, and the padding's rows are thrown away) and is always
computed on one core with its own random numbers, so 1, 2, 3 or 4 ranks of 1 or 2 threads give the same bytes. No
collective runs inside the loop: the rows are gathered once, at the end, by example.
"""

import concurrent.futures
import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor, nn

from elbo_bench.errors import ElboBenchError, RunFailedError
from elbo_bench.evaluation.evaluator import Request, UnsuitableModelError
from elbo_bench.evaluation.finished_blocks import FinishedBlocks, Rows
from elbo_bench.evaluation.observations import refuse_off_support, takes_integers

FLAGS = ("nan", "infinite", "zero")
"""Columns that say what log-weights an example met: NaN, +inf, -inf. They are checked, and no estimate."""


def score_examples(
    model: object,
    x: Shaped[Tensor, "N *data"],
    score: Callable[[Shaped[Tensor, "B *data"], int], Rows],
    *,
    block_size: int,
    workers: int | Literal["auto"],
    request: Request,
) -> dict[str, np.ndarray]:
    """Return one row an example, in order, on every rank: `id`, and what `score` gives for the blocks.

    Args:
        model: The model that `score` uses; it is put into evaluation mode meanwhile.
        x: The examples.
        score: Returns the rows of a block, from its examples, all `block_size` of them, and its number.
        block_size: Examples in a block.
        workers: Threads, each on one core.
        request: What else was asked.

    Raises:
        ValueError: There are no examples, or one is off the support of the model's likelihood.
        RunFailedError: A number is not finite; the line names the example.
    """
    if not len(x):
        raise ValueError("there is no example to score")
    device, dtype = placement(model, x)
    numbers = np.arange(len(x)) if request.ids is None else request.ids.cpu().numpy()
    with evaluating(model):
        refuse_off_support(model, x.to(device, dtype), request.ids)
    finished = FinishedBlocks(request.folder)

    def compute(block: int) -> Rows:
        first = block * block_size
        inside = torch.arange(first, first + block_size).clamp(max=len(x) - 1)  # padding repeats the last example
        kept = min(block_size, len(x) - first)
        rows = finished.load(block)
        if rows is None:
            try:
                rows = score(x[inside.to(x.device)].to(device, dtype), block)
            except UnsuitableModelError:
                raise
            except ValueError as error:  # a distribution of the model's that refuses its own parameters
                raise RunFailedError(f"examples {numbers[first]} to {numbers[first + kept - 1]}: {error}") from error
            rows = {name: column[:kept] for name, column in rows.items()}
            refuse_non_finite(rows, numbers[first : first + kept])
            finished.save(block, rows)
        return rows

    with evaluating(model):
        threads = default_workers(device) if workers == "auto" else workers
        blocks = compute_blocks(compute, math.ceil(len(x) / block_size), workers=threads, progress=request.progress)
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0] if name not in FLAGS}
    return {"id": numbers.astype(np.int64), **columns}


def refuse_non_finite(rows: Rows, numbers: np.ndarray) -> None:
    """Fail on the first example whose numbers are not numbers: nothing is filtered, so nothing may pass.

    A log-weight of -inf is a weight of zero. It leaves log p(x) finite, and what is a mean of log-weights, such as the
    ELBO, -inf: that is the truth about it, and passes where the column `zero` says why.

    Raises:
        RunFailedError: A log-weight is NaN or +inf, all are -inf, or an estimate is not finite.
    """
    zero = rows.get("zero", np.zeros(len(numbers), dtype=bool))
    broken: dict[str, np.ndarray] = {}
    for name, column in rows.items():
        if name in ("nan", "infinite"):
            broken[name] = column
        # k-hat is NaN where the tail has no shape, and that is no error.
        elif name != "zero" and not name.endswith("pareto_k") and column.dtype.kind != "U":
            finite = np.isfinite(column).reshape(len(column), -1).all(1)
            broken[name] = np.asarray(~finite if name.startswith("log_px") else ~(finite | zero))
    bad = np.asarray(np.stack(list(broken.values())).any(0))
    if not bad.any():
        return
    first = int(np.argmax(bad))
    if "nan" in rows and rows["nan"][first]:
        what = "a log-weight is NaN"
    elif "infinite" in rows and rows["infinite"][first]:
        what = "a log-weight is +inf"
    elif "log_px" in rows and rows["log_px"][first] == -math.inf:
        what = "every log-weight is -inf"
    else:
        name = next(name for name, column in broken.items() if column[first])
        what = f"{name} is {rows[name][first]}"
    raise RunFailedError(f"example {numbers[first]}: {what}")


def compute_blocks(
    compute: Callable[[int], Rows],
    num_blocks: int,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Rows]:
    """Return the rows of every block, in order, on every rank.

    Args:
        compute: Returns the rows of one block, by its number.
        num_blocks: How many there are.
        workers: Threads of this rank.
        progress: Called with (blocks done, blocks of this rank) as this rank's blocks finish.

    Raises:
        RunFailedError: A block failed, on whichever rank.
    """
    rank, world_size = rank_and_world_size()
    mine = range(rank, num_blocks, world_size)
    done: dict[int, Rows] = {}
    failure: Exception | None = None
    with single_threaded(), concurrent.futures.ThreadPoolExecutor(workers, initializer=_pin_thread) as pool:
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
            # The other ranks wait for the gathering below: they are told, not left to hang.
            known = isinstance(error, ElboBenchError | UnsuitableModelError)
            failure = (
                UnsuitableModelError(str(error))
                if isinstance(error, UnsuitableModelError)
                else RunFailedError(str(error) if known else f"{type(error).__name__}: {error}")
            )
    return _gather(done, failure, num_blocks, world_size)


def _gather(done: dict[int, Rows], failure: Exception | None, num_blocks: int, world_size: int) -> list[Rows]:
    parts: list[tuple[dict[int, Rows], Exception | None]] = [(done, failure)]
    if world_size > 1:
        parts = [({}, None)] * world_size
        torch.distributed.all_gather_object(parts, (done, failure))
    for _, problem in parts:
        if problem is not None:
            raise problem
    merged: dict[int, Rows] = {}
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
    """Return a thread for each core that this process may use, or one on an accelerator."""
    if device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // rank_and_world_size()[1])


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Keep every operator on one core: how many share a product of matrices changes its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pin_thread() -> None:
    torch.set_num_threads(1)  # OpenMP keeps the number by thread


def placement(model: object, x: Tensor) -> tuple[torch.device, torch.dtype]:
    """Return the device and the type in which a model takes data: whole numbers as they are, if it can."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device, dtype = (x.device, x.dtype) if parameter is None else (parameter.device, parameter.dtype)
    if x.is_floating_point() or not len(x):
        return device, dtype
    with evaluating(model):
        integers = takes_integers(model, x[:1].to(device))
    return device, x.dtype if integers else torch.get_default_dtype() if parameter is None else dtype


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put the model in evaluation mode and products in full precision; leave both as they were found."""
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
