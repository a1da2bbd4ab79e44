"""Examples read ahead of training by processes of their own, in the order of the batches."""

import os
import threading
import time
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from elbo_bench.data.examples import Examples
from elbo_bench.errors import ElboBenchError


class _Reader(Dataset[Tensor | ElboBenchError]):
    """What a worker is given: the rows of a batch, by their numbers.

    What is wrong with them is handed over as a value: raised in a worker it would arrive as pages of its traceback.
    """

    def __init__(self, rows: Examples) -> None:
        self._rows = rows

    def __getitem__(self, ids: Tensor) -> Tensor | ElboBenchError:
        try:
            return self._rows[ids]
        except ElboBenchError as error:
            return error


class _DiesWithItsParent:
    """Ends a reader soon after the process that it reads for has ended. A killed process sends no message.

    torch's own watch is on the parent, which is the server that readers are forked from, and that lives on.
    """

    def __init__(self) -> None:
        self._reads_for = os.getpid()

    def __call__(self, _: int) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                os.kill(self._reads_for, 0)
            except OSError:
                os._exit(1)
            time.sleep(1)


class _Batches(Sampler[Tensor]):
    """The numbers of the examples of each batch."""

    def __init__(self) -> None:
        self.batches: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class ReadAhead:
    """Reads batches of rows ahead; the processes that do live as long as it.

    Args:
        rows: Examples that are read from a file.
        workers: How many processes; 0 reads in this one. Their number changes no bit.
    """

    def __init__(self, rows: Examples, workers: int) -> None:
        self._sampler = _Batches()
        self._loader = DataLoader(
            _Reader(rows),
            batch_size=None,  # a batch is one item of the sampler
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_DiesWithItsParent() if workers else None,
            # A fork would copy the locks of threads that it does not copy, W&B's among them.
            multiprocessing_context="forkserver" if workers else None,
        )

    def __call__(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the rows of each batch, in order.

        Args:
            batches: Numbers of rows, int64 `[B]`; the last batch may be smaller.

        Raises:
            RunFailedError: A row cannot be read, or is not what it should be; the line names it.
        """
        self._sampler.batches = batches
        for rows in self._loader:
            if isinstance(rows, ElboBenchError):
                raise rows
            yield rows
