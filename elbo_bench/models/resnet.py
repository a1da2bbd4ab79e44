"""A VAE of residual convolutional networks, for images."""

from pydantic import PositiveInt

from elbo_bench.data_info import DataInfo
from elbo_bench.models.autoencoder import Autoencoder, Encoder, Inputs
from elbo_bench.models.convolutions import Channels, ImageDecoder, ImageFeatures, image_shape
from elbo_bench.models.likelihoods.base import Likelihood
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.networks import Activation
from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.diagonal import Diagonal
from elbo_bench.models.priors.base import Prior
from elbo_bench.models.priors.standard_normal import StandardNormal

_KERNEL_SIZE = 3


class ResNet(Autoencoder):
    """Creates a VAE of residual networks for images `[H, W]` or `[C, H, W]` of at least 8 x 8 pixels.

    As `conv`, with pre-activation residual blocks (He et al., 2016, "Identity mappings in deep residual networks")
    after each convolution that halves the image. There is no batch normalisation: it would make a bound of one example
    depend on its neighbours.

    Binary data enter the encoder as they are, other levels scaled to [-1, 1], continuous values less the training mean.

    Args:
        info: Facts of the data.
        latent_dim: Dimensions of z.
        channels: Channels of each stage of the encoder, from the data inwards.
        num_blocks: Residual blocks of each stage.
        hidden: Widths of the perceptron's layers behind them.
        activation: Nonlinearity.
        posterior: Family of q(z|x).
        prior: p(z).
        likelihood: p(x|z).

    Raises:
        ValueError: The data are no images, or the likelihood is not one for this kind of data.
    """

    def __init__(
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
        image = image_shape(info.shape)
        observation = likelihood.module(info)
        body = ImageFeatures(image, channels, num_blocks, hidden, _KERNEL_SIZE, activation)
        encoder = Encoder(Inputs(info, image), body, posterior.head(body.num_features, latent_dim))
        decoder = ImageDecoder(latent_dim, info, channels, num_blocks, hidden, _KERNEL_SIZE, activation, observation)
        super().__init__(encoder, decoder, prior.module(latent_dim, info), observation)
        self.latent_dim = latent_dim
