"""Normalising flows: zuko's autoregressive transformations of a normal distribution."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from elbo_bench.distributions import LOG_2_PI
from elbo_bench.distributions.transported_vector import TransportedVector


@contextlib.contextmanager
def _restored(owner: type, *names: str) -> Iterator[None]:
    """Restore attributes of a class on exit."""
    before = {name: owner.__dict__[name] for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# On import, zuko disables torch's argument checks for all distributions of the process. Undo this.
with _restored(Distribution, "_validate_args", "arg_constraints"):
    from zuko.flows import MaskedAutoregressiveTransform  # type: ignore[import-untyped]
    from zuko.lazy import LazyComposedTransform  # type: ignore[import-untyped]
    from zuko.transforms import MonotonicRQSTransform  # type: ignore[import-untyped]

_START = 0.1
"""Factor on the initial weights of the last layer of each network, so that the flow starts near the identity."""


class FlowDistribution(TransportedVector):
    r"""Creates a distribution as a transformation of normal noise.

    .. math:: z = \mu + \sigma \odot T(\epsilon), \quad
        \log q(z) = \log N(\epsilon; 0, I) - \log \left|\det \frac{\partial z}{\partial \epsilon}\right|

    Mean, entropy and KL divergences have no closed form.

    Args:
        loc: The shift mu, `[*batch, D]`.
        scale: The scale sigma, `[*batch, D]`.
        to_noise: The inverse of T.
    """

    def __init__(self, loc: Float[Tensor, "*batch D"], scale: Float[Tensor, "*batch D"], to_noise: Transform) -> None:
        self.loc, self.scale, self.to_noise = loc, scale, to_noise
        super().__init__(loc.shape[:-1], loc.shape[-1], like=loc)

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return z for standard normal noise."""
        z: Tensor = self.loc + self.scale * self.to_noise.inv(noise)
        return z

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*any"]:
        """Return log q(value) in nats."""
        # A method of all zuko transformations. It computes both in one pass.
        noise, log_det = self.to_noise.call_and_ladj((value - self.loc) / self.scale)  # type: ignore[attr-defined]
        log_q: Tensor = log_det - 0.5 * noise.square().sum(-1) - self.scale.log().sum(-1)
        return log_q - 0.5 * LOG_2_PI * value.shape[-1]


def autoregressive(
    num_dims: int,
    num_context: int,
    *,
    num_transforms: int,
    hidden: Sequence[int],
    passes: int | None,
    num_bins: int | None = None,
) -> nn.Module:
    """Return a module that maps a context `[*batch, num_context]`, or None, to a transformation of vectors.

    The transformation takes one pass through each network. Its inverse takes `passes` passes.

    Args:
        num_dims: Number of dimensions of the vectors.
        num_context: Number of dimensions of the context, 0 for none.
        num_transforms: Number of transformations. The order of the dimensions is reversed between two of them.
        hidden: Widths of the hidden layers of the network of each transformation.
        passes: Number of groups of dimensions, None for one group for each dimension.
        num_bins: Number of bins of each spline, None for an affine transformation.
    """
    order = torch.arange(num_dims)
    # SiLU is smooth, so the density is smooth. Curvature and quadrature need this.
    kind: dict[str, Any] = {"passes": passes, "hidden_features": tuple(hidden), "activation": nn.SiLU}
    if num_bins is not None:
        kind |= {"univariate": MonotonicRQSTransform, "shapes": [(num_bins,), (num_bins,), (num_bins - 1,)]}
    transforms = [
        MaskedAutoregressiveTransform(num_dims, num_context, order=order if step % 2 == 0 else order.flip(0), **kind)
        for step in range(num_transforms)
    ]
    with torch.no_grad():
        for transform in transforms:
            # For one dimension without a context there is no network, only parameters.
            last = transform.hyper[-1] if hasattr(transform, "hyper") else transform.phi
            for parameter in last.parameters():
                parameter.mul_(_START)
    composed: nn.Module = LazyComposedTransform(*transforms)
    return composed
