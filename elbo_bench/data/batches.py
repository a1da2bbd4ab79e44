"""The order in which training examples are visited, as a function of (seed, epoch) and of nothing else."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbo_bench.errors import RunFailedError
from elbo_bench.noise import Noise


def binarize(probability: Float[Tensor, "B *shape"], uniform: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *shape"]:
    """Binary observations, 0 or 1, of pixels that are 1 with the given probability.

    A probability of 0 never gives a 1 and a probability of 1 always does: `uniform` lies in [0, 1).
    """
    return (uniform < probability).float()


class Batch(NamedTuple):
    """One rank's part of a global batch, or all of it.

    Attributes:
        x: Observations, already binarised, `[B, *shape]`; empty if the global batch has fewer rows than there
            are ranks.
        position: Number of the global batch since training began, `epoch * batches_per_epoch + index`; it keys
            the noise of the step.
        start: Row of the global batch that `x` begins with.
        total: Rows of the global batch, over all ranks.
        ranks: Over how many ranks these rows are spread; 1 if every rank has them all.
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
    """The batches of an epoch, cut from a tensor on the device that it lies on; every example exactly once.

    Every rank computes the same order and the same noise and takes a contiguous part of each global batch, so
    what is trained on depends neither on the number of ranks nor on where the run was resumed.

    An objective that sees its whole batch (`scope = "batch"`) gets all of each global batch on every rank, `whole`: the
    ranks compute the same loss and the same gradient, so their mean is that of one process, without any collective
    within the objective. The price is that more ranks make such a training no faster.

    Args:
        train: Training examples, `[N, *shape]`; with `binarize`, the probabilities that a pixel is 1.
        batch_size: Examples in a global batch; the last one of an epoch may have fewer.
        shuffle: Whether every epoch has an order of its own; False keeps the order of the rows.
        binarize: Whether observations are drawn anew at every access.
        seed: The run's seed.
        rank: Number of this process.
        world_size: Number of processes.
        whole: Whether every rank gets all rows of each global batch.

    Raises:
        ValueError: There is no example, no batch size or no such rank.
    """

    def __init__(
        self,
        train: Float[Tensor, "N *shape"],
        *,
        batch_size: int,
        shuffle: bool,
        binarize: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        whole: bool = False,
    ) -> None:
        if len(train) == 0 or batch_size < 1:
            raise ValueError(f"cannot cut {len(train)} examples into batches of {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is none of {world_size}")
        self._train = train
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._binarize = binarize
        self._seed = seed
        self._rank, self._world_size = (0, 1) if whole else (rank, world_size)
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
        if first == len(self):  # that epoch was over: it is not begun again
            epoch, first = epoch + 1, 0
        order = self._order(epoch)
        for index in range(first, len(self)):
            batch = self._batch(order, epoch, index)
            self._epoch, self._handed_out = epoch, index + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches were handed out: all that a checkpoint must keep."""
        return {"epoch": self._epoch, "batch": self._handed_out}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next iteration go on where the state's epoch stopped; other epochs start at their first batch.

        A state that was saved after the last batch of an epoch leads to the next epoch.

        Raises:
            RunFailedError: The state is not one of these batches.
        """
        epoch, batch = state_dict["epoch"], state_dict["batch"]
        if not 0 <= batch <= len(self) or epoch < 0:
            raise RunFailedError(
                f"the checkpoint stopped after batch {batch} of epoch {epoch}, but an epoch has {len(self)} batches"
            )
        self._epoch, self._handed_out, self._resumes = epoch, batch, True

    def _order(self, epoch: int) -> Int64[Tensor, " N"]:
        num_train, device = len(self._train), self._train.device
        if self._shuffle:
            return Noise(self._seed, "shuffle", epoch).permutation(num_train).to(device)
        return torch.arange(num_train, device=device)

    def _batch(self, order: Int64[Tensor, " N"], epoch: int, index: int) -> Batch:
        rows = order[index * self._batch_size : (index + 1) * self._batch_size]
        total = len(rows)
        start, stop = (total * rank // self._world_size for rank in (self._rank, self._rank + 1))
        position = epoch * len(self) + index
        x = self._train.index_select(0, rows[start:stop])
        if self._binarize:
            whole = Noise(self._seed, "binarize", position).uniform((total, *x.shape[1:]))
            x = binarize(x, whole[start:stop].to(x.device))
        return Batch(x, position, start, total, ranks=self._world_size, per_epoch=len(self))
