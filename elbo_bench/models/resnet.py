"""A residual convolutional VAE for images."""

from pydantic import PositiveInt

from elbo_bench.data_info import DataInfo
from elbo_bench.models.conv import ImageAutoencoder
from elbo_bench.models.likelihoods.base import Likelihood
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.networks.convolutions import Channels, ImageLayers
from elbo_bench.models.networks.mlp_layers import Activation
from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.diagonal import Diagonal
from elbo_bench.models.priors.base import Prior
from elbo_bench.models.priors.standard_normal import StandardNormal


class ResNet(ImageAutoencoder):
    """Creates a VAE of residual networks for images `[H, W]` or `[C, H, W]` of at least 8 x 8 pixels.

    It is `conv` with pre-activation residual blocks (He et al., 2016, "Identity mappings in deep residual networks")
    after each convolution that halves the image. There is no batch normalisation: the bound of one example would
    depend on the other examples.

    Args:
        info: Facts of the data.
        latent_dim: Number of dimensions of z.
        channels: Number of channels of each stage of the encoder.
        num_blocks: Number of residual blocks in each stage.
        hidden: Widths of the perceptron's layers.
        activation: Nonlinearity.
        posterior: Family of q(z|x).
        prior: p(z).
        likelihood: p(x|z).
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its parameters are its configuration
        self,
        info: DataInfo,
        latent_dim: PositiveInt = 50,
        channels: Channels = (32, 64),
        num_blocks: PositiveInt = 2,
        hidden: tuple[PositiveInt, ...] = (200,),
        activation: Activation = "elu",
        posterior: Posterior = Diagonal(),  # noqa: B008 - frozen
        prior: Prior = StandardNormal(),  # noqa: B008
        likelihood: Likelihood = Bernoulli(),  # noqa: B008
    ) -> None:
        layers = ImageLayers(channels=channels, num_blocks=num_blocks, hidden=hidden, activation=activation)
        super().__init__(info, latent_dim, layers, posterior=posterior, prior=prior, likelihood=likelihood)
