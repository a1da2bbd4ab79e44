"""Masked autoregressive flow posterior."""

import dataclasses

from elbo_bench.models.posteriors.flow_head import FlowPosterior


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAF(FlowPosterior):
    r"""Masked autoregressive flow around a diagonal normal distribution.

    .. math:: \epsilon_j = (u_j - m_j(u_{<j}, x)) / s_j(u_{<j}, x), \quad z = \mu(x) + \sigma(x) \odot u

    This is one transformation; `num_transforms` of them are composed. Computing a density takes one pass through each
    network. Drawing a sample takes `passes` passes.

    Source: Papamakarios et al., 2017, "Masked autoregressive flow for density estimation".
    """
