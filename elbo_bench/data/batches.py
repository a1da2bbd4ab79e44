"""The order in which training examples are visited, as a function of (seed, epoch) and of nothing else."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from elbo_bench.data.access import Access, AsIs
from elbo_bench.data.examples import Examples
from elbo_bench.data.lazy import ReadAhead
from elbo_bench.errors import RunFailedError
from elbo_bench.noise import Noise


class Batch(NamedTuple):
    """One rank's part of a global batch, or all of it.

    Attributes:
        x: Observations, `[B, *shape]`; empty if the global batch has fewer rows than there
            are ranks.
        position: Number of the global batch since training began, `epoch * batches_per_epoch + index`; it seeds
            the noise of the step.
        start: Row of the global batch that `x` begins with.
        total: Examples of the global batch, over all ranks.
        ranks: Number of ranks that share the global batch; 1 if every rank has the complete batch.
        per_epoch: Batches in an epoch.
    """

    x: Float[Tensor, "B *shape"]
    position: int
    start: int
    total: int
    ranks: int
    per_epoch: int

    @property
    def epoch(self) -> float:
        """Epochs, and the part of one, that lie before this batch."""
        return self.position / self.per_epoch


class TrainingBatches:
    """The batches of an epoch, cut from rows on the device that they lie on or read from a file; every example once.

    Every rank computes the same order and the same noise and takes a contiguous part of each global batch, so
    what is trained on depends neither on the number of ranks nor on where the run was resumed.

    An objective with `scope = "batch"` gets all of each global batch on every rank (`full_batches`): the
    ranks compute the same loss and the same gradient, so their mean is that of one process, without any collective
    within the objective. The price is that more ranks make such a training no faster.

    Args:
        train: Training rows, `[N, *shape]`.
        batch_size: Examples in a global batch; the last one of an epoch may have fewer.
        shuffle: Whether every epoch has an order of its own; False keeps the order of the rows.
        access: How rows become observations, at every access.
        seed: The run's seed.
        rank: Number of this process.
        world_size: Number of processes.
        full_batches: Whether every rank gets all examples of each global batch.
        device: Where rows that are read from a file are brought.
        dtype: Of the observations; None leaves it to the access.
        workers: Processes that read rows ahead from a file; 0 reads them in this one. They change no bit.

    Raises:
        ValueError: There is no example, no batch size or no such rank.
    """

    def __init__(  # noqa: PLR0913 - its parameters are its configuration
        self,
        train: Examples,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        access: Access = AsIs(),  # noqa: B008 - frozen
        rank: int = 0,
        world_size: int = 1,
        full_batches: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        workers: int = 0,
    ) -> None:
        if len(train) == 0 or batch_size < 1:
            raise ValueError(f"cannot cut {len(train)} examples into batches of {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is none of {world_size}")
        self._train = train
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._access = access
        self._seed = seed
        self._rank, self._world_size = (0, 1) if full_batches else (rank, world_size)
        self._device = train.device if isinstance(train, Tensor) else device or torch.device("cpu")
        self._dtype = dtype
        self._read = None if isinstance(train, Tensor) else ReadAhead(train, workers)
        self._epoch = 0
        self._handed_out = 0
        self._resumes = False

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self._train) // self._batch_size)

    @property
    def sampler(self) -> "TrainingBatches":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        if epoch != self._epoch:
            self._epoch, self._handed_out = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch, from its first or, once after a state was loaded, from where it stopped."""
        # As a generator this runs at the first next(): Lightning creates the iterator before it sets the epoch.
        epoch, first = self._epoch, self._handed_out if self._resumes else 0
        self._resumes = False
        order = self._order(epoch)
        for index, rows in enumerate(self._rows(order, first), first):
            batch = self._batch(rows, epoch, index)
            self._epoch, self._handed_out = epoch, index + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were handed out: all that a checkpoint must keep."""
        return {"epoch": self._epoch, "batch": self._handed_out}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration go on where the state's epoch stopped; other epochs start at their first batch.

        Raises:
            RunFailedError: The state is not one of these batches.
        """
        epoch, batch = state_dict["epoch"], state_dict["batch"]
        if not 0 <= batch < len(self) or epoch < 0:
            raise RunFailedError(
                f"the checkpoint stopped after batch {batch} of epoch {epoch}, but an epoch has {len(self)} batches"
            )
        self._epoch, self._handed_out, self._resumes = epoch, batch, True

    def _order(self, epoch: int) -> Int64[Tensor, " N"]:
        num_train = len(self._train)
        order = Noise(self._seed, "shuffle", epoch).permutation(num_train) if self._shuffle else torch.arange(num_train)
        return order.to(self._train.device) if isinstance(self._train, Tensor) else order

    def _rows(self, order: Int64[Tensor, " N"], first: int) -> Iterable[Shaped[Tensor, "B *shape"]]:
        """Return this rank's rows of each global batch, from the batch `first` on."""
        ids = (order[slice(*self._own(index))] for index in range(first, len(self)))
        if isinstance(self._train, Tensor):
            return (self._train.index_select(0, some) for some in ids)  # a tenth of what indexing costs
        assert self._read is not None
        return (rows.to(self._device) for rows in self._read(list(ids)))

    def _total(self, index: int) -> int:
        """Return how many rows a global batch has, over all ranks."""
        return min(self._batch_size, len(self._train) - index * self._batch_size)

    def _own(self, index: int) -> tuple[int, int]:
        """Return which positions in an epoch's order belong to this rank's part of a global batch."""
        first, total = index * self._batch_size, self._total(index)
        return first + total * self._rank // self._world_size, first + total * (self._rank + 1) // self._world_size

    def _batch(self, rows: Shaped[Tensor, "B *shape"], epoch: int, index: int) -> Batch:
        position, total = epoch * len(self) + index, self._total(index)
        start = self._own(index)[0] - index * self._batch_size
        x = self._access(rows, Noise(self._seed, "binarize", position, rows=(start, total)))
        return Batch(
            x if self._dtype is None else x.to(self._dtype),
            position,
            start,
            total,
            ranks=self._world_size,
            per_epoch=len(self),
        )
