"""How many latents a training decodes for its objective: a function of the number of batches, known beforehand."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class DecoderEvaluations:
    """Counts the latents that a training decodes.

    Attributes:
        num_train: Training examples.
        batch_size: Of a global batch; the last one of an epoch may be smaller.
        each: Latents decoded for an example of a batch.
        warming: The same at so many epochs since training began, while the objective is warmed up.
        warm: Epochs after which it is `each`.
        accumulate: Batches of an optimiser step; the last step of an epoch may have fewer.
    """

    num_train: int
    batch_size: int
    each: int
    warming: Callable[[float], int] | None = None
    warm: float = 0.0
    accumulate: int = 1

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_train // self.batch_size)

    def batches_of(self, steps: int) -> int:
        """Return how many batches so many optimiser steps take."""
        whole, rest = divmod(steps, -(-self.batches_per_epoch // self.accumulate))
        return whole * self.batches_per_epoch + rest * self.accumulate

    def after(self, batches: int) -> int:
        """Return how many latents are decoded in the first batches of a training."""
        if batches < len(self._while_warming):
            return self._while_warming[batches]
        warm = len(self._while_warming) - 1
        return self._while_warming[warm] + self.each * (self._examples(batches) - self._examples(warm))

    def steps_within(self, limit: int | float) -> int:
        """Return the most optimiser steps that decode no more than `limit` latents.

        Raises:
            ValueError: There is none.
        """
        first = self.after(self.batches_of(1))
        if first > limit:
            raise ValueError(f"budget.decoder_evaluations={limit:g}: the first step decodes {first} latents")
        most = 1
        while self.after(self.batches_of(most)) <= limit:
            most *= 2
        return bisect.bisect_right(range(most), limit, key=lambda steps: self.after(self.batches_of(steps))) - 1

    def _examples(self, batches: int) -> int:
        whole, rest = divmod(batches, self.batches_per_epoch)
        return whole * self.num_train + rest * self.batch_size

    @functools.cached_property
    def _while_warming(self) -> list[int]:
        """Latents decoded after 0, 1, 2, ... batches, as long as the objective is not what it will be."""
        if self.warming is None:
            return [0]
        counts, per_epoch = [0], self.batches_per_epoch
        for batch in itertools.takewhile(lambda batch: batch / per_epoch < self.warm, itertools.count()):
            rows = min(self.batch_size, self.num_train - batch % per_epoch * self.batch_size)
            counts.append(counts[-1] + rows * self.warming(batch / per_epoch))
        return counts
