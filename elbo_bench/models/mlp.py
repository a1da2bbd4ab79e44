"""A VAE of multilayer perceptrons with one stochastic layer, for any kind of data (Burda et al., 2016)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.models.autoencoder import Autoencoder, Encoder, Inputs
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.networks.mlp_layers import Activation, linear, perceptron
from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.diagonal import Diagonal
from elbo_bench.models.priors.base import Prior
from elbo_bench.models.priors.standard_normal import StandardNormal


class MLP(Autoencoder):
    r"""Creates a VAE of multilayer perceptrons.

    The encoder maps the data through hidden layers to q(z|x). The decoder mirrors it. Weights are Glorot-uniform and
    biases are zero. The decoder's last bias makes the initial likelihood fit the training mean. The defaults are the
    one-layer architecture of Burda et al., 2016, "Importance weighted autoencoders", and of its authors' code.

    Binary data enter the encoder unchanged. Other levels are scaled to [-1, 1]. Continuous data are centred and scaled.

    Args:
        info: Facts of the data.
        latent_dim: Number of dimensions of z.
        hidden: Widths of the encoder's hidden layers, from the data to the latent.
        activation: Nonlinearity after each hidden layer.
        posterior: Family of q(z|x).
        prior: p(z).
        likelihood: p(x|z).

    Raises:
        ValueError: The likelihood is not defined for this kind of data.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its parameters are its configuration
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
        decoder = Decoder(latent_dim, tuple(reversed(hidden)), activation, observation)
        super().__init__(encoder, decoder, prior.module(latent_dim, info), observation)
        self.latent_dim = latent_dim


class Decoder(nn.Module):
    """Maps a latent to the parameters of a likelihood, by a perceptron."""

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        activation: Activation,
        likelihood: LikelihoodModule,
    ) -> None:
        super().__init__()
        self.shape = tuple(likelihood.bias.shape)
        self.body, width = perceptron(latent_dim, hidden, activation)
        self.outputs = linear(width, torch.Size(self.shape).numel())
        with torch.no_grad():
            self.outputs.bias.copy_(likelihood.bias.flatten())

    def forward(self, z: Float[Tensor, "*lead D"]) -> Float[Tensor, "*outputs"]:
        """Return `[*lead, *data, num_outputs]`."""
        outputs: Tensor = self.outputs(self.body(z)).unflatten(-1, self.shape)
        return outputs
