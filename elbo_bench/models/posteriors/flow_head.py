"""The head of every posterior that is a flow."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from elbo_bench.models.flows import Flow, autoregressive
from elbo_bench.models.networks import linear


class FlowHead(nn.Module):
    """Maps features to a flow around the diagonal normal that `diagonal` gives, near which it begins.

    Args:
        num_features: Features, which are the context of every transformation too.
        latent_dim: Dimensions of z.
        inverse: Whether the transformation that takes one pass makes samples of noise (IAF), or noise of samples (MAF).
        num_transforms: Transformations, one after the other.
        hidden: Widths of the hidden layers of each one's network.
        passes: Groups into which the dimensions are cut; None is one for each dimension.
        num_bins: Bins of the splines by which each value is changed; None is a scale and a shift.
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        *,
        inverse: bool,
        num_transforms: int,
        hidden: Sequence[int],
        passes: int | None,
        num_bins: int | None = None,
    ) -> None:
        super().__init__()
        self.loc = linear(num_features, latent_dim)
        self.log_scale = linear(num_features, latent_dim)
        self.inverse = inverse
        self.transform = autoregressive(latent_dim, num_features, num_transforms, hidden, passes, num_bins)

    def forward(self, features: Float[Tensor, "B F"]) -> Flow:
        """Return q(z|x)."""
        transform = self.transform(features)
        to_noise = transform.inv if self.inverse else transform
        return Flow(self.loc(features), self.log_scale(features).exp(), to_noise)
