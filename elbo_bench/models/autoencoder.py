"""A VAE put together from its parts: encoder, decoder, prior and likelihood, whichever these are."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.models.likelihoods.base import LikelihoodModule


class Autoencoder(nn.Module):
    """Creates a model with one latent vector from four modules; a subclass says only which networks they are.

    Args:
        encoder: Maps examples `[B, *data]` to q(z|x).
        decoder: Maps latents `[*lead, D]` to what the likelihood takes, `[*lead, *data, num_outputs]`.
        prior: Maps the encoder to p(z).
        likelihood: Maps what the decoder gives to p(x|z).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module, likelihood: LikelihoodModule) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.prior_part, self.likelihood_part = prior, likelihood

    def posterior(self, x: Float[Tensor, "B *data"]) -> Distribution:
        """Return q(z|x)."""
        posterior: Distribution = self.encoder(x)
        return posterior

    def prior(self) -> Distribution:
        """Return p(z)."""
        prior: Distribution = self.prior_part(self.posterior)
        return prior

    def likelihood(self, z: Float[Tensor, "*lead D"]) -> Distribution:
        """Return p(x|z)."""
        likelihood: Distribution = self.likelihood_part(self.decoder(z))
        return likelihood


class Encoder(nn.Module):
    """Maps an example to q(z|x): its values scaled, a network's features of them, and the head of a posterior.

    Args:
        inputs: Scales and reshapes the example.
        body: Maps that to features `[B, num_features]`.
        head: Maps these to a distribution.
    """

    def __init__(self, inputs: "Inputs", body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.inputs, self.body, self.head = inputs, body, head

    def forward(self, x: Float[Tensor, "B *data"]) -> Distribution:
        """Return q(z|x)."""
        posterior: Distribution = self.head(self.body(self.inputs(x)))
        return posterior


class Inputs(nn.Module):
    """Brings examples into the range and the shape that a network takes.

    Binary values stay 0 and 1, other levels 0 .. n - 1 are mapped to [-1, 1], and continuous values are centred by
    the training mean and divided by the one number that their spread about it is.

    Args:
        info: Facts of the data.
        shape: What one example is reshaped to.
    """

    train_mean: Tensor

    def __init__(self, info: DataInfo, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.num_levels, self.scale = shape, info.num_levels, info.scale
        # A fact of the data, which a checkpoint need not repeat.
        self.register_buffer("train_mean", info.train_mean.clone(), persistent=False)

    def forward(self, x: Float[Tensor, "B *data"]) -> Float[Tensor, "B *shape"]:
        """Return what the network is given."""
        if self.num_levels is None:
            x = (x - self.train_mean) / self.scale
        elif self.num_levels > 2:
            x = x * (2 / (self.num_levels - 1)) - 1
        return x.reshape(len(x), *self.shape)
