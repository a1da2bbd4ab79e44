"""Blocks of examples, dealt to ranks and threads; a block's result does not depend on who computed it.

A block always has the same shape (the last one is padded, and the padding's rows are thrown away) and is always
computed on one core with its own random numbers, so 1, 2, 3 or 4 ranks of 1 or 2 threads give the same bytes. No
collective runs inside the loop: the rows are gathered once, at the end, by example.
"""

import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed

from elbo_bench.errors import ElboBenchError, RunFailedError

Rows = dict[str, np.ndarray]


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
    failure: str | None = None
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
            failure = str(error) if isinstance(error, ElboBenchError) else f"{type(error).__name__}: {error}"
    return _gather(done, failure, num_blocks, world_size)


def _gather(done: dict[int, Rows], failure: str | None, num_blocks: int, world_size: int) -> list[Rows]:
    parts: list[tuple[dict[int, Rows], str | None]] = [(done, failure)]
    if world_size > 1:
        parts = [({}, None)] * world_size
        torch.distributed.all_gather_object(parts, (done, failure))
    for _, problem in parts:
        if problem is not None:
            raise RunFailedError(problem)
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
