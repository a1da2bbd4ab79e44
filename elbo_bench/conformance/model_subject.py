"""A model together with the first kind of data that it accepts."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.conformance.data_kinds import KINDS, DataKind
from elbo_bench.data_info import DataInfo
from elbo_bench.draws import Draws, NotReparameterisableError, draw, sample, score
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise

NOISE = Noise(0, "conformance/latent")
_SMALL_LATENTS: tuple[dict[str, object], ...] = ({"latent_dim": 2}, {"latent_dims": [1, 1]})
"""Keys that give a model a latent of two dimensions."""


@dataclasses.dataclass(frozen=True)
class ModelSubject:
    """A model that the laws are tested on.

    Attributes:
        build: Returns the model for some data, given values of some of its keys.
        keys: The keys that `build` accepts.
        draws: Number of samples that a statistical law may draw.
    """

    build: Callable[..., nn.Module]
    keys: Iterable[str] = ()
    draws: int = 20_000

    @functools.cached_property
    def kind(self) -> DataKind:
        """The first kind of data that the model accepts.

        Raises:
            UsageError: It accepts none.
        """
        refusals: dict[str, DataKind] = {}
        for kind in KINDS:
            try:
                self._built(kind.info, {})
            except (ValueError, UsageError) as error:
                refusals.setdefault(" ".join(str(error).split()), kind)
                continue
            return kind
        reasons = [f"{kind}: {reason}" for reason, kind in refusals.items()]
        raise UsageError(f"it accepts no kind of data: {'; '.join(reasons)}")

    def _built(self, info: DataInfo, given: dict[str, object], seed: int = 0) -> Any:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = self.build(info, **given)
        # Parameters that are initialised with zeros would hide dependences.
        numbers = Noise(seed, "conformance/parameters").stream()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * numbers.normal(parameter.shape, dtype=parameter.dtype))
        return model

    def model(self, kind: DataKind | None = None, *, small: bool = False, seed: int = 0) -> Any:
        """Build a new model, a `LatentVariableModel` and `nn.Module` in float64.

        Args:
            kind: The data; None for the first kind that the model accepts.
            small: Whether the latent must be small enough to integrate over.
            seed: Seed of the parameters.
        """
        given = (self.shrunk or {}) if small else {}
        return self._built((kind or self.kind).info, given, seed).double()

    @functools.cached_property
    def shrunk(self) -> dict[str, object] | None:
        """Keys that give the model a latent of at most two dimensions, or None if there are none."""
        if self.latent_shape.numel() <= 2:
            return {}
        keys = set(self.keys)
        return next((given for given in _SMALL_LATENTS if set(given) <= keys), None)

    @functools.cached_property
    def latent_shape(self) -> torch.Size:
        """Shape of one latent."""
        shape: torch.Size = self._built(self.kind.info, {}).prior().event_shape
        return shape

    @functools.cached_property
    def _sizes(self) -> tuple[int, int]:
        """K and B, which differ from each other and from all axes of the latent and of the data."""
        different = {1, 2, *self.latent_shape, *self.kind.shape}
        first, second = itertools.islice((n for n in itertools.count(3) if n not in different), 2)
        return first, second

    @functools.cached_property
    def num_samples(self) -> int:
        """Samples for each example, K."""
        return self._sizes[0]

    @functools.cached_property
    def x(self) -> Tensor:
        """Observations in float64, `[B, *data]`."""
        return self.kind.examples(self._sizes[1])

    def drawn(self, model: Any) -> Draws:
        """Return K samples for each example, with a gradient through the samples if q(z|x) has one."""
        try:
            return draw(model, self.x, self.num_samples, NOISE)
        except NotReparameterisableError:
            return draw(model, self.x, self.num_samples, NOISE, reparameterised=False)

    def latents(self) -> Tensor:
        """Return the samples that a model draws, without a gradient."""
        return self.drawn(self.model()).z.detach()

    def log_w(self, model: Any, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the log-weights of given latents, without a gradient."""
        x = self.x if x is None else x
        with torch.no_grad():
            return score(model, model.posterior(x), x, z).log_w


def sampled(distribution: Distribution, count: int, purpose: str) -> Tensor:
    """Return samples of a distribution in float64, `[count, *batch, *event]`. The global random state is not used."""
    like = torch.zeros((), dtype=torch.float64)
    return sample(distribution, count, Noise(8, f"conformance/{purpose}"), like=like, reparameterised=False)
