"""An objective, the case that it is held against, and the draws that it asks for there."""

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
    """A source of noise that hands out the same numbers in every precision."""

    noise: Noise

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return standard normal numbers of `shape`, drawn in float64."""
        return self.noise.normal(shape, dtype=torch.float64, device=device).to(dtype)

    def torch_seed(self) -> int:
        """Return a seed for distributions that only know `rsample`."""
        return self.noise.torch_seed()

    def apart(self, purpose: str) -> "Rounded":
        """Return a source of independent numbers."""
        return Rounded(self.noise.apart(purpose))


NOISE: NormalSource = Rounded(Noise(0, "conformance/latent"))


@dataclasses.dataclass(frozen=True)
class ObjectiveSubject:
    """An objective that is held against the laws.

    Attributes:
        objective: The objective.
        log_weights: How many log-weights a statistical law may draw.
    """

    objective: Objective
    log_weights: int = 300_000

    @property
    def num_estimates(self) -> int:
        """M: into how many groups the samples are dealt."""
        return int(getattr(self.objective, "num_estimates", 1))

    @property
    def grouped(self) -> bool:
        """Whether its samples come in groups."""
        return self.objective.samples_required != self.objective.num_samples

    @property
    def enumerates(self) -> bool:
        """Whether it is given every value of the latent in the place of samples."""
        return self.objective.latents == "enumerated"

    @functools.cached_property
    def case(self) -> Case:
        """The case; its B, L and D differ from each other and from K, M and their product."""
        taken = {1, self.objective.num_samples, self.num_estimates, self.objective.samples_required}
        if self.enumerates:
            taken |= {2**power for power in range(5)}
        num_latents, num_examples, num_dims = itertools.islice((n for n in itertools.count(2) if n not in taken), 3)
        make = discrete_case if self.enumerates else gaussian_case
        return make(num_latents, num_examples, num_dims)

    def replicated(self, case: Case) -> tuple[Case, Tensor]:
        """Return a case with as many rows as a statistical law draws, and which example each row is."""
        count = max(2000, self.log_weights // self.objective.samples_required)
        index = torch.arange(count) % len(case.x)
        return case.rows(index), index

    def draws(self, case: Case | None = None, noise: NormalSource = NOISE) -> Draws:
        """Return what the objective asks for, always from the same noise."""
        case = self.case if case is None else case
        return draw_for(self.objective, case, case.x, noise)

    def draws_at(self, case: Case, held: Draws) -> Draws:
        """Return the same samples, scored by another case."""
        scored = score(case, case.posterior(case.x), case.x, held.z.detach())
        return dataclasses.replace(scored, noise=held.noise)

    def value(self, draws: Draws | None = None) -> Float[Tensor, " B"]:
        """Return the objective's value without a gradient."""
        with torch.no_grad():
            return self.objective(self.draws() if draws is None else draws)

    def gradients(self, case: Case, part: Part, weights: Tensor) -> dict[str, Tensor]:
        """Return the gradient of the weighted sum of the values in the parameters of one part."""
        leaves = case.leaves()
        values = self.objective(self.draws(leaves))
        parameters = leaves.parameters[part]
        found = torch.autograd.grad(
            (weights * values).sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        return dict(zip(parameters, found, strict=True))
