"""The one-stochastic-layer VAE of Burda et al. (2016), for any kind of data."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.models.autoencoder import Autoencoder, Encoder, Inputs
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.networks import Activation, linear, perceptron
from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.diagonal import Diagonal
from elbo_bench.models.priors.base import Prior
from elbo_bench.models.priors.standard_normal import StandardNormal


class MLP(Autoencoder):
    r"""Creates a VAE of multilayer perceptrons.

    The encoder is data - hidden - q(z|x), the decoder mirrors it. Weights are Glorot-uniform, biases zero, and the
    decoder's last bias is where the likelihood suits the training mean. With its defaults it is the one-layer
    architecture of Burda et al., 2016, "Importance weighted autoencoders", and of its authors' code.

    Binary data enter the encoder as they are, other levels scaled to [-1, 1], continuous values less the training mean.

    Args:
        info: Facts of the data.
        latent_dim: Dimensions of z.
        hidden: Widths of the encoder's hidden layers, from the data inwards.
        activation: Nonlinearity after each hidden layer.
        posterior: Family of q(z|x).
        prior: p(z).
        likelihood: p(x|z).

    Raises:
        ValueError: The likelihood is not one for this kind of data.
    """

    def __init__(
        self,
        info: DataInfo,
        latent_dim: PositiveInt = 50,
        hidden: tuple[PositiveInt, ...] = (200, 200),
        activation: Activation = "tanh",
        posterior: Posterior = Diagonal(),  # noqa: B008 - frozen
        prior: Prior = StandardNormal(),  # noqa: B008
        likelihood: Likelihood = Bernoulli(),  # noqa: B008
    ) -> None:
        observation = likelihood.module(info)
        body, width = perceptron(info.num_dims, hidden, activation)
        encoder = Encoder(Inputs(info, (info.num_dims,)), body, posterior.head(width, latent_dim))
        decoder = Decoder(latent_dim, tuple(reversed(hidden)), info.shape, activation, observation)
        super().__init__(encoder, decoder, prior.module(latent_dim, info), observation)
        self.latent_dim = latent_dim


class Decoder(nn.Module):
    """Maps a latent to what a likelihood takes, by a perceptron."""

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        shape: tuple[int, ...],
        activation: Activation,
        likelihood: LikelihoodModule,
    ) -> None:
        super().__init__()
        self.shape = (*shape, likelihood.num_outputs)
        self.body, width = perceptron(latent_dim, hidden, activation)
        self.outputs = linear(width, torch.Size(self.shape).numel())
        with torch.no_grad():
            self.outputs.bias.copy_(likelihood.bias.flatten())

    def forward(self, z: Float[Tensor, "*lead D"]) -> Float[Tensor, "*outputs"]:
        """Return `[*lead, *data, num_outputs]`."""
        outputs: Tensor = self.outputs(self.body(z)).unflatten(-1, self.shape)
        return outputs
