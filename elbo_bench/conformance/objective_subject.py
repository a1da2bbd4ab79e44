"""An objective together with the known model that the laws test it on."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.conformance.cases import Case, Part, discrete_case, gaussian_case
from elbo_bench.draws import Draws, draw_for, score
from elbo_bench.noise import Noise, NormalSource
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Noise that is drawn in float64 and rounded, so that it is the same in every precision."""

    noise: Noise

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return standard normal numbers of `shape`."""
        return self.noise.normal(shape, dtype=torch.float64, device=device).to(dtype)

    def torch_seed(self) -> int:
        """Return a seed for torch's own generators."""
        return self.noise.torch_seed()

    def child(self, purpose: str) -> "Rounded":
        """Return independent noise for another purpose."""
        return Rounded(self.noise.child(purpose))


NOISE: NormalSource = Rounded(Noise(0, "conformance/latent"))


@dataclasses.dataclass(frozen=True)
class ObjectiveSubject:
    """An objective that the laws are tested on.

    Attributes:
        objective: The objective.
        log_weights: Number of log-weights that a statistical law may draw.
    """

    objective: Objective
    log_weights: int = 300_000

    @property
    def num_estimates(self) -> int:
        """Number of groups of samples, M."""
        return int(getattr(self.objective, "num_estimates", 1))

    @property
    def grouped(self) -> bool:
        """Whether the samples come in groups."""
        return self.objective.samples_required != self.objective.num_samples

    @property
    def enumerates(self) -> bool:
        """Whether the objective takes every value of a discrete latent instead of samples."""
        return self.objective.latents == "enumerated"

    @functools.cached_property
    def of_log_w(self) -> bool:
        """Whether the value is a function of the log-weights alone.

        It is one if it does not change when the terms of each log-weight change and their sum does not, and if it
        does not need z, q(z|x) or p(z).
        """
        draws, expected = self.draws(), self.value()
        a, b = Noise(4, "conformance/split").normal((2, *draws.log_w.shape), dtype=torch.float64)
        split = dataclasses.replace(
            draws,
            z=torch.zeros_like(draws.z),
            posterior=None,
            prior=None,
            log_p_x_given_z=draws.log_p_x_given_z + 3 * a,
            log_p_z=draws.log_p_z - b,
            log_q_z_given_x=draws.log_q_z_given_x + 3 * a - b,
        )
        try:
            return torch.allclose(self.value(split), expected, rtol=0.0, atol=1e-9)
        except Exception:  # code that needs q(z|x) may raise anything without it
            return False

    @functools.cached_property
    def randomised(self) -> bool:
        """Whether an example's value depends on random numbers in addition to the samples."""
        if self.objective.scope == "batch":
            return False
        draws, expected = self.draws(), self.value()
        return any(
            not torch.equal(self.value(dataclasses.replace(draws, noise=NOISE.child(f"other {i}"))), expected)
            for i in range(8)
        )

    @functools.cached_property
    def case(self) -> Case:
        """The known model. B, L and D differ from each other, from K and M, and from their product."""
        different = {1, self.objective.num_samples, self.num_estimates, self.objective.samples_required}
        if self.enumerates:
            different |= {2**power for power in range(5)}
        sizes = itertools.islice((n for n in itertools.count(2) if n not in different), 3)
        return (discrete_case if self.enumerates else gaussian_case)(*sizes)

    def replicated(self, case: Case) -> tuple[Case, Tensor]:
        """Return a case with as many examples as a statistical law draws, and the index of each in `case`."""
        count = max(2000, self.log_weights // self.objective.samples_required)
        index = torch.arange(count) % len(case.x)
        return case.select(index), index

    def draws(self, case: Case | None = None) -> Draws:
        """Return the draws that the objective takes. The noise is always the same."""
        case = self.case if case is None else case
        return draw_for(self.objective, case, case.x, NOISE)

    def draws_at(self, case: Case, held: Draws) -> Draws:
        """Return the samples of `held` with the log-densities of another case."""
        return dataclasses.replace(score(case, case.posterior(case.x), case.x, held.z.detach()), noise=held.noise)

    def value(self, draws: Draws | None = None) -> Float[Tensor, " B"]:
        """Return the value of the objective without a gradient."""
        with torch.no_grad():
            return self.objective(self.draws() if draws is None else draws)

    def gradients(self, case: Case, part: Part, weights: Tensor) -> dict[str, Tensor]:
        """Return the gradient of the weighted sum of the values in the parameters of one part."""
        leaves = case.leaves()
        parameters = leaves.parameters[part]
        values = self.objective(self.draws(leaves))
        gradients = torch.autograd.grad(
            (weights * values).sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(parameters, gradients, strict=True))
