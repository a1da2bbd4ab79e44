"""A model, built for the first kind of data that it accepts, with observations of that kind."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.conformance.data_kinds import KINDS, DataKind
from elbo_bench.conformance.law import one_line
from elbo_bench.data_info import DataInfo
from elbo_bench.draws import Draws, LatentVariableModel, NotReparameterisableError, draw, sample
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise

NOISE = Noise(0, "conformance/latent")
# What makes the latent so small that it can be integrated over.
_SMALL: tuple[dict[str, object], ...] = ({"latent_dim": 2}, {"latent_dims": [1, 1]})


@dataclasses.dataclass(frozen=True)
class ModelSubject:
    """A model that is held against the laws.

    Attributes:
        build: Returns the model for some data, with values for some of its keys.
        keys: The keys that `build` takes.
        draws: How many samples a statistical law may draw.
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
                refusals.setdefault(one_line(error), kind)
                continue
            return kind
        reasons = [f"{kind}: {reason}" for reason, kind in refusals.items()]
        raise UsageError(f"it accepts no kind of data: {'; '.join(reasons)}")

    def _built(self, info: DataInfo, given: dict[str, object], seed: int = 0) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = self.build(info, **given)
        # A layer that begins with zeros would hide what depends on it.
        numbers = Noise(seed, "conformance/parameters").stream()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * numbers.normal(parameter.shape, dtype=parameter.dtype))
        return model

    def model(self, kind: DataKind | None = None, *, small: bool = False, seed: int = 0) -> LatentVariableModel:
        """Return the model in float64, a new one each time.

        Args:
            kind: The data; the first kind that it accepts, if None.
            small: Whether its latent is to be so small that it can be integrated over.
            seed: Seed of its parameters.
        """
        given = (self.shrunk or {}) if small else {}
        return self._built((kind or self.kind).info, given, seed).double()  # type: ignore[return-value]

    @functools.cached_property
    def shrunk(self) -> dict[str, object] | None:
        """What gives the model a latent of at most two dimensions; None if nothing is known to do so."""
        if _num_latents(self._built(self.kind.info, {}).prior()) <= 2:  # type: ignore[operator]
            return {}
        keys = set(self.keys)
        return next((given for given in _SMALL if set(given) <= keys), None)

    @functools.cached_property
    def num_samples(self) -> int:
        """K, which is neither B nor the size of any axis of the latent or of the data."""
        return self._sizes[0]

    @functools.cached_property
    def x(self) -> Tensor:
        """Observations in float64, `[B, *data]`."""
        return self.kind.examples(self._sizes[1])

    @functools.cached_property
    def _sizes(self) -> tuple[int, int]:
        event = self._built(self.kind.info, {}).prior().event_shape  # type: ignore[operator]
        taken = {1, 2, *event, *self.kind.shape}
        first, second = itertools.islice((n for n in itertools.count(3) if n not in taken), 2)
        return first, second

    def drawn(self, model: LatentVariableModel, x: Tensor | None = None) -> Draws:
        """Return K samples for each example, with a gradient through them if they have one."""
        x = self.x if x is None else x
        try:
            return draw(model, x, self.num_samples, NOISE)
        except NotReparameterisableError:
            return draw(model, x, self.num_samples, NOISE, reparameterised=False)


def sampled(distribution: Distribution, count: int, purpose: str) -> Tensor:
    """Return samples of a distribution, `[count, *batch, *event]`, in float64, and leave global numbers alone."""
    like = torch.zeros((), dtype=torch.float64)
    return sample(distribution, count, Noise(8, f"conformance/{purpose}"), like=like, reparameterised=False)


def _num_latents(prior: Distribution) -> int:
    return prior.event_shape.numel()
