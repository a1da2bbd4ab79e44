"""Neural spline flow posterior."""

import dataclasses
from typing import Annotated

from pydantic import Field

from elbo_bench.models.posteriors.flow_head import FlowPosterior


@dataclasses.dataclass(frozen=True, kw_only=True)
class NSF(FlowPosterior):
    r"""Neural spline flow around a diagonal normal distribution.

    Each dimension of (z - mu) / sigma is transformed by a monotonic rational-quadratic spline on [-5, 5]. Outside of
    this interval it is not changed. The bins of a spline depend on x and on the dimensions before. Computing a density
    takes one pass through each network, and drawing a sample takes `passes` passes.

    Source: Durkan et al., 2019, "Neural spline flows".

    Attributes:
        num_bins: Number of bins of each spline.
    """

    num_transforms: Annotated[int, Field(ge=1, le=100)] = 3
    passes: Annotated[int, Field(ge=2)] | None = 2
    num_bins: Annotated[int, Field(ge=2)] = 8
