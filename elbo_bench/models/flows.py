"""Normalising flows: zuko's autoregressive transformations around a normal distribution, with noise passed in."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint, real_vector

from elbo_bench.distributions import LOG_2_PI


@contextlib.contextmanager
def _untouched(owner: type, *names: str) -> Iterator[None]:
    """Put attributes of a class back to what they were."""
    before = {name: owner.__dict__[name] for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# zuko switches torch's checks of arguments off, for every distribution of the process.
with _untouched(Distribution, "_validate_args", "arg_constraints"):
    from zuko.flows import MaskedAutoregressiveTransform  # type: ignore[import-untyped]
    from zuko.lazy import LazyComposedTransform  # type: ignore[import-untyped]
    from zuko.transforms import MonotonicRQSTransform  # type: ignore[import-untyped]

_START = 0.1
"""Of torch's weights in the last layer of each transformation: the whole is near the identity to begin with."""


class Flow(Distribution):
    r"""Creates a distribution that is normal after a change of variables.

    .. math:: z = \mu + \sigma \odot T(\epsilon), \quad
        \log q(z) = \log N(\epsilon; 0, I) - \log \left|\det \frac{\partial z}{\partial \epsilon}\right|

    Its mean, its entropy and its KL from another distribution have no closed form.

    Args:
        loc: The shift mu, `[*batch, D]`.
        scale: The scale sigma, `[*batch, D]`.
        to_noise: The inverse of T, on vectors of the batch's own context.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class
    has_rsample = True

    def __init__(self, loc: Float[Tensor, "*batch D"], scale: Float[Tensor, "*batch D"], to_noise: Transform) -> None:
        self.loc, self.scale, self.to_noise = loc, scale, to_noise
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> Constraint:
        """All vectors."""
        return real_vector

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return z for standard normal noise."""
        z: Tensor = self.loc + self.scale * self.to_noise.inv(noise)
        return z

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*any"]:
        """Return log q(value) in nats."""
        # zuko gives every transformation this method, which computes both in one pass.
        noise, log_det = self.to_noise.call_and_ladj((value - self.loc) / self.scale)  # type: ignore[attr-defined]
        log_q: Tensor = log_det - 0.5 * noise.square().sum(-1) - self.scale.log().sum(-1)
        return log_q - 0.5 * LOG_2_PI * value.shape[-1]

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return samples by torch's global generator, with a gradient."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.transport(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))


def autoregressive(
    num_dims: int,
    num_context: int,
    num_transforms: int,
    hidden: Sequence[int],
    passes: int | None,
    num_bins: int | None = None,
) -> nn.Module:
    """Return a module that maps a context `[*batch, num_context]`, or None, to a transformation of vectors.

    The order of the dimensions is reversed from one transformation to the next. Calling what it gives takes one pass
    through each network, inverting it `passes`.

    Args:
        num_dims: Dimensions of the vectors.
        num_context: Dimensions of the context; 0 is none.
        num_transforms: Autoregressive transformations, one after the other.
        hidden: Widths of the hidden layers of each one's network.
        passes: Groups into which the dimensions are cut; None is one for each dimension.
        num_bins: Bins of the splines by which each value is changed; None is a scale and a shift.
    """
    order = torch.arange(num_dims)
    # SiLU is smooth, so that a density is: curvature and quadrature rest on it.
    kind: dict[str, Any] = {"passes": passes, "hidden_features": tuple(hidden), "activation": nn.SiLU}
    if num_bins is not None:
        kind |= {"univariate": MonotonicRQSTransform, "shapes": [(num_bins,), (num_bins,), (num_bins - 1,)]}
    transforms = [
        MaskedAutoregressiveTransform(num_dims, num_context, order=order if step % 2 == 0 else order.flip(0), **kind)
        for step in range(num_transforms)
    ]
    with torch.no_grad():
        for transform in transforms:
            # Of one dimension without a context there is no network, but its numbers themselves.
            last = transform.hyper[-1] if hasattr(transform, "hyper") else transform.phi
            for parameter in last.parameters():
                parameter.mul_(_START)
    composed: nn.Module = LazyComposedTransform(*transforms)
    return composed
