"""Inverse autoregressive flow posterior."""

import dataclasses

from elbo_bench.models.posteriors.flow_head import FlowPosterior


@dataclasses.dataclass(frozen=True, kw_only=True)
class IAF(FlowPosterior):
    r"""Inverse autoregressive flow around a diagonal normal distribution.

    .. math:: u_j = m_j(\epsilon_{<j}, x) + s_j(\epsilon_{<j}, x)\, \epsilon_j, \quad
        z = \mu(x) + \sigma(x) \odot u

    This is one transformation; `num_transforms` of them are composed. Drawing a sample takes one pass through each
    network. Computing a density takes `passes` passes, also for a sample that the flow has just drawn.

    Source: Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow".
    """

    inverse = True
