"""The keys of `evaluation=importance`."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from elbo_bench.evaluation.evaluator import Evaluator

_MOST_PILOT = 1000  # samples of a pilot are held at once, and memory must not grow with K


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceKeys(Evaluator):
    """The keys of `evaluation=importance`.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
        proposal: Distribution whose samples estimate log p(x): `encoder` is the encoder's q(z|x); `widened` is q
            widened; `mixture` is that mixed with the prior; `refined` is normal distributions fitted to each example's
            posterior; `auto` is the best of these for each example by a pilot. The bounds and the curve L_1 ... L_K are
            always those of q(z|x).
        widening: Scale of a widened proposal over that of q; None is 1 + 2 sqrt(2/D) for D latent dimensions.
        prior_share: Share of the prior in a mixture.
        pilot_share: Samples of the pilot as a share of K. The pilot chooses the proposal, starts the fit, and checks
            the estimate. No estimate uses its samples. 0 is no pilot.
        target_se: Standard error of log p(x), in nats, at which an example has enough samples; None draws K.
        max_samples: Most samples of an example with `target_se`; None is 100 K.
        truth: `auto` computes log p(x) exactly where that is possible; `importance` never does.
        chunk_size: Samples decoded at once for a block. Memory grows with it and not with `num_samples`.
    """

    num_samples: Annotated[int, Field(ge=2)] = 5000
    proposal: Literal["encoder", "widened", "mixture", "refined", "auto"] = "auto"
    widening: Annotated[float, Field(gt=0)] | None = None
    prior_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    pilot_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    target_se: Annotated[float, Field(gt=0)] | None = None
    max_samples: PositiveInt | None = None
    truth: Literal["auto", "importance"] = "auto"
    chunk_size: PositiveInt = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proposal in ("auto", "refined") and not self.pilot_share:
            raise ValueError(f"pilot_share=0: proposal={self.proposal} needs a pilot; did you mean proposal=encoder?")
        if self.max_samples is not None and self.target_se is None:
            raise ValueError(f"max_samples={self.max_samples}: it limits target_se, which is not set")

    @property
    def samples(self) -> int:
        """K."""
        return self.num_samples

    @property
    def most_samples(self) -> int:
        """Most samples that an example may get."""
        if self.target_se is None:
            return self.num_samples
        return 100 * self.num_samples if self.max_samples is None else max(self.max_samples, self.num_samples)

    @property
    def num_pilot(self) -> int:
        """Samples of the pilot: 0 without one, else at least the two that an error needs."""
        return max(2, min(_MOST_PILOT, round(self.pilot_share * self.num_samples))) if self.pilot_share else 0
