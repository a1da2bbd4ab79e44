"""A VAE with a small discrete latent, so that log p(x) is an exact sum."""

import math

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions.categorical_vector import CategoricalVector
from elbo_bench.latent_states import MOST_STATES
from elbo_bench.models.autoencoder import Encoder, Inputs
from elbo_bench.models.likelihoods.base import Likelihood
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.mlp import Decoder
from elbo_bench.models.networks.mlp_layers import Activation, linear, perceptron


class CategoricalLatent(nn.Module):
    r"""Creates a VAE whose latent is a vector of V categorical variables.

    .. math:: q(z|x) = \prod_v \mathrm{Cat}(z_v; \pi_v(x)), \quad p(z) = \prod_v \mathrm{Cat}(z_v; \pi_v), \quad p(x|z)

    z holds an integer for each variable, `[K, B, V]`. The encoder is a perceptron that returns the log-odds of all
    variables. The decoder is a perceptron that takes each variable as a one-hot vector. log p(x) and every expectation
    under q(z|x) are sums of C^V terms, so the result of an estimator without reparameterisation is known exactly.

    Args:
        info: Facts of the data.
        num_variables: Number of variables in a latent, V.
        num_categories: Number of values of each variable, C.
        hidden: Widths of the encoder's hidden layers, from the data to the latent. The decoder mirrors them.
        activation: Nonlinearity after each hidden layer.
        learn_prior: Whether the log-odds of the prior are learned. Otherwise the prior is uniform.
        likelihood: p(x|z).

    Raises:
        ValueError: The likelihood is not defined for this kind of data, or C^V is too large for a sum.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its parameters are its configuration
        self,
        info: DataInfo,
        num_variables: PositiveInt = 3,
        num_categories: PositiveInt = 8,
        hidden: tuple[PositiveInt, ...] = (200, 200),
        activation: Activation = "tanh",
        learn_prior: bool = False,
        likelihood: Likelihood = Bernoulli(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if num_categories < 2:
            raise ValueError(f"num_categories={num_categories}: a label that takes one value says nothing; at least 2")
        if num_variables > math.log2(MOST_STATES) or num_categories**num_variables > MOST_STATES:
            raise ValueError(
                f"num_variables={num_variables}, num_categories={num_categories}: {num_categories}^{num_variables} "
                f"latents cannot be summed over; at most {MOST_STATES}"
            )
        self.num_variables, self.num_categories = num_variables, num_categories
        self.likelihood_part = likelihood.module(info)
        body, width = perceptron(info.num_dims, hidden, activation)
        self.encoder = Encoder(Inputs(info, (info.num_dims,)), body, _Labels(width, num_variables, num_categories))
        self.decoder = Decoder(
            num_variables * num_categories, tuple(reversed(hidden)), activation, self.likelihood_part
        )
        uniform = torch.zeros(num_variables, num_categories)
        if learn_prior:
            self.prior_logits: Tensor = nn.Parameter(uniform)
        else:
            self.register_buffer("prior_logits", uniform, persistent=False)

    def posterior(self, x: Float[Tensor, "B *data"]) -> CategoricalVector:
        """Return q(z|x)."""
        posterior: CategoricalVector = self.encoder(x)
        return posterior

    def prior(self) -> CategoricalVector:
        """Return p(z)."""
        return CategoricalVector(self.prior_logits)

    def likelihood(self, z: Int[Tensor, "*lead V"]) -> Distribution:
        """Return p(x|z). Along an axis where z is expanded (stride 0), z is decoded once."""
        once = z[tuple(slice(None, 1 if stride == 0 else None) for stride in z.stride()[:-1])]
        indicators = one_hot(once, self.num_categories).to(self.prior_logits).flatten(-2)
        outputs: Tensor = self.decoder(indicators)
        outputs = outputs.expand(*z.shape[:-1], *outputs.shape[z.dim() - 1 :])
        likelihood: Distribution = self.likelihood_part(outputs)
        return likelihood


class _Labels(nn.Module):
    """Maps features of x to independent categorical variables."""

    def __init__(self, num_features: int, num_variables: int, num_categories: int) -> None:
        super().__init__()
        self.shape = num_variables, num_categories
        self.logits = linear(num_features, num_variables * num_categories)

    def forward(self, features: Float[Tensor, "B F"]) -> CategoricalVector:
        return CategoricalVector(self.logits(features).unflatten(-1, self.shape))
