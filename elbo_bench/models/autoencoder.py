"""A VAE that is composed of an encoder, a decoder, a prior and a likelihood."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.models.likelihoods.base import LikelihoodModule


class Autoencoder(nn.Module):
    """Creates a model with one latent vector from four modules. A subclass chooses the networks.

    Args:
        encoder: Maps examples `[B, *data]` to q(z|x).
        decoder: Maps latents `[*lead, D]` to parameters of the likelihood, `[*lead, *data, num_outputs]`.
        prior: Maps the encoder to p(z).
        likelihood: Maps the outputs of the decoder to p(x|z).
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
    """Maps examples to q(z|x) in three steps: scaled inputs, features, posterior.

    Args:
        inputs: Scales and reshapes the examples.
        body: Maps the scaled examples to features `[B, num_features]`.
        head: Maps the features to q(z|x).
    """

    def __init__(self, inputs: "Inputs", body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.inputs, self.body, self.head = inputs, body, head

    def forward(self, x: Float[Tensor, "B *data"]) -> Distribution:
        """Return q(z|x)."""
        posterior: Distribution = self.head(self.body(self.inputs(x)))
        return posterior


class Inputs(nn.Module):
    """Scales and reshapes examples for a network.

    Binary values stay 0 and 1. Other levels 0 .. n - 1 are mapped to [-1, 1]. From continuous values the training mean
    is subtracted, and the difference is divided by one number, the spread of the training data about their mean.

    Args:
        info: Facts of the data.
        shape: Shape of one example for the network.
    """

    train_mean: Tensor

    def __init__(self, info: DataInfo, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.num_levels, self.scale = shape, info.num_levels, info.scale
        # Not saved in checkpoints: it comes from the data.
        self.register_buffer("train_mean", info.train_mean.clone(), persistent=False)

    def forward(self, x: Float[Tensor, "B *data"]) -> Float[Tensor, "B *shape"]:
        """Return the input of the network."""
        if self.num_levels is None:
            x = (x - self.train_mean) / self.scale
        elif self.num_levels > 2:
            x = x * (2 / (self.num_levels - 1)) - 1
        return x.reshape(len(x), *self.shape)
