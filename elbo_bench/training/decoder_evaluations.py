"""How many latents a training decodes for its objective, as a function of the number of batches."""

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
        batch_size: Examples in a global batch. The last batch of an epoch may be smaller.
        per_example: Latents decoded for one example after the warm-up.
        during_warmup: Latents decoded for one example, as a function of the epochs since training began.
        warmup_epochs: Epochs of the warm-up.
        accumulate: Batches in an optimiser step. The last step of an epoch may have fewer.
    """

    num_train: int
    batch_size: int
    per_example: int
    during_warmup: Callable[[float], int] | None = None
    warmup_epochs: float = 0.0
    accumulate: int = 1

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.num_train // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return -(-self.batches_per_epoch // self.accumulate)

    def batches_of(self, steps: int) -> int:
        """Return how many batches the first `steps` optimiser steps take."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.batches_per_epoch + rest * self.accumulate

    def after(self, batches: int) -> int:
        """Return how many latents the first `batches` batches decode."""
        warm = len(self._in_warmup) - 1
        if batches <= warm:
            return self._in_warmup[batches]
        return self._in_warmup[warm] + self.per_example * (self._examples(batches) - self._examples(warm))

    def steps_within(self, limit: float) -> int:
        """Return the largest number of optimiser steps that decode at most `limit` latents.

        Raises:
            ValueError: The first step decodes more.
        """
        first = self.after(self.batches_of(1))
        if first > limit:
            raise ValueError(f"budget.decoder_evaluations={limit:g}: the first step decodes {first} latents")
        most = 1
        while self.after(self.batches_of(most)) <= limit:
            most *= 2
        return bisect.bisect_right(range(most), limit, key=lambda steps: self.after(self.batches_of(steps))) - 1

    def _examples(self, batches: int) -> int:
        epochs, rest = divmod(batches, self.batches_per_epoch)
        return epochs * self.num_train + rest * self.batch_size

    @functools.cached_property
    def _in_warmup(self) -> list[int]:
        """Latents decoded after 0, 1, 2, ... batches of the warm-up."""
        counts, per_epoch = [0], self.batches_per_epoch
        if self.during_warmup is None:
            return counts
        for batch in itertools.takewhile(lambda batch: batch / per_epoch < self.warmup_epochs, itertools.count()):
            examples = min(self.batch_size, self.num_train - batch % per_epoch * self.batch_size)
            counts.append(counts[-1] + examples * self.during_warmup(batch / per_epoch))
        return counts
