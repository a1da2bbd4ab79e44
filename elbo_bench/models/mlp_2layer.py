"""A VAE of multilayer perceptrons with two stochastic layers, for any kind of data (Burda et al., 2016)."""

from collections.abc import Sequence

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions.chained_normal import ChainedNormal
from elbo_bench.distributions.diagonal_normal import DiagonalNormal, standard_normal
from elbo_bench.models.autoencoder import Autoencoder, Encoder, Inputs
from elbo_bench.models.likelihoods.base import Likelihood
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.mlp import Decoder
from elbo_bench.models.networks.mlp_layers import Activation, linear, perceptron


class MLP2Layer(Autoencoder):
    r"""Creates a VAE of multilayer perceptrons with two stochastic layers.

    .. math:: q(z|x) = q(z_1|x) \, q(z_2|z_1), \quad p(z) = p(z_2) \, p(z_1|z_2), \quad p(x|z) = p(x|z_1)

    The latent is the concatenation `[z1, z2]`. Each conditional is normal with independent dimensions; its scale is
    exp(linear), without a clamp. p(z2) is N(0, I). Networks are initialised as in `MLP`. The defaults are the two-layer
    architecture of Burda et al., 2016, "Importance weighted autoencoders", and of its authors' code.

    Args:
        info: Facts of the data.
        latent_dims: Number of dimensions of z1, which is next to the data, and of z2.
        hidden: Widths of the encoder's hidden layers between the data and z1. The decoder mirrors them.
        hidden_between: Widths of the hidden layers between z1 and z2.
        activation: Nonlinearity after each hidden layer.
        likelihood: p(x|z1).

    Raises:
        ValueError: The likelihood is not defined for this kind of data.
    """

    def __init__(  # noqa: PLR0917 - its parameters are its configuration
        self,
        info: DataInfo,
        latent_dims: tuple[PositiveInt, PositiveInt] = (100, 50),
        hidden: tuple[PositiveInt, ...] = (200, 200),
        hidden_between: tuple[PositiveInt, ...] = (100, 100),
        activation: Activation = "tanh",
        likelihood: Likelihood = Bernoulli(),  # noqa: B008 - frozen
    ) -> None:
        lower, upper = latent_dims
        observation = likelihood.module(info)
        body, width = perceptron(info.num_dims, hidden, activation)
        head = _Upwards(
            NormalLayer(width, (), lower, activation), NormalLayer(lower, hidden_between, upper, activation)
        )
        decoder = Decoder(lower, tuple(reversed(hidden)), activation, observation)
        prior = _Downwards(NormalLayer(upper, tuple(reversed(hidden_between)), lower, activation), upper)
        super().__init__(Encoder(Inputs(info, (info.num_dims,)), body, head), decoder, prior, observation)
        self.latent_dims = latent_dims

    @property
    def latent_layers(self) -> dict[str, slice]:
        """The dimensions of each layer in the latent."""
        lower, upper = self.latent_dims
        return {"z1": slice(0, lower), "z2": slice(lower, lower + upper)}

    def likelihood(self, z: Float[Tensor, "*lead D"]) -> Distribution:
        """Return p(x|z), which depends on z1 only."""
        return super().likelihood(z[..., : self.latent_dims[0]])


class NormalLayer(nn.Module):
    """Maps vectors to a normal distribution with independent dimensions, by a perceptron.

    Args:
        num_inputs: Number of dimensions of the input.
        hidden: Widths of the hidden layers.
        num_dims: Number of dimensions of the distribution.
        activation: Nonlinearity after each hidden layer.
    """

    def __init__(self, num_inputs: int, hidden: Sequence[int], num_dims: int, activation: Activation) -> None:
        super().__init__()
        self.body, width = perceptron(num_inputs, hidden, activation)
        self.loc = linear(width, num_dims)
        self.log_scale = linear(width, num_dims)
        self.num_dims = num_dims

    def forward(self, inputs: Float[Tensor, "*lead I"]) -> DiagonalNormal:
        """Return the distribution: batch `[*lead]`, event `[num_dims]`."""
        features = self.body(inputs)
        return DiagonalNormal(self.loc(features), self.log_scale(features).exp())


class _Upwards(nn.Module):
    """Maps features of x to q(z1|x) q(z2|z1)."""

    def __init__(self, lower: NormalLayer, upper: NormalLayer) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, features: Float[Tensor, "B F"]) -> ChainedNormal:
        return ChainedNormal(self.lower(features), self.upper, self.upper.num_dims)


class _Downwards(nn.Module):
    """Returns p(z2) p(z1|z2)."""

    def __init__(self, lower: NormalLayer, upper_dim: int) -> None:
        super().__init__()
        self.lower, self.upper_dim = lower, upper_dim

    def forward(self, _encoder: object) -> ChainedNormal:
        top = standard_normal(self.upper_dim, like=self.lower.loc.bias)
        return ChainedNormal(top, self.lower, self.lower.num_dims, order="last to first")
