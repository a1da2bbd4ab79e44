"""A convolutional VAE for images."""

from typing import Literal

from pydantic import PositiveInt

from elbo_bench.data_info import DataInfo
from elbo_bench.models.autoencoder import Autoencoder, Encoder, Inputs
from elbo_bench.models.likelihoods.base import Likelihood
from elbo_bench.models.likelihoods.bernoulli import Bernoulli
from elbo_bench.models.networks.convolutions import Channels, ImageDecoder, ImageFeatures, ImageLayers, image_shape
from elbo_bench.models.networks.mlp_layers import Activation
from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.diagonal import Diagonal
from elbo_bench.models.priors.base import Prior
from elbo_bench.models.priors.standard_normal import StandardNormal


class ImageAutoencoder(Autoencoder):
    """Creates a VAE of convolutions with any layers.

    Raises:
        ValueError: The data are not images of at least 8 x 8 pixels, or the likelihood does not fit the data.
    """

    def __init__(
        self,
        info: DataInfo,
        latent_dim: int,
        layers: ImageLayers,
        *,
        posterior: Posterior,
        prior: Prior,
        likelihood: Likelihood,
    ) -> None:
        image = image_shape(info.shape)
        observation = likelihood.module(info)
        body = ImageFeatures(image, layers)
        encoder = Encoder(Inputs(info, image), body, posterior.head(body.num_features, latent_dim))
        decoder = ImageDecoder(latent_dim, layers, observation)
        super().__init__(encoder, decoder, prior.module(latent_dim, info), observation)
        self.latent_dim = latent_dim


class Conv(ImageAutoencoder):
    """Creates a convolutional VAE for images `[H, W]` or `[C, H, W]` of at least 8 x 8 pixels.

    Each stage of the encoder halves the image, rounding up, by a convolution of stride two. A perceptron follows. The
    decoder mirrors the encoder with transposed convolutions. Weights are Glorot-uniform and biases are zero. The
    last bias is separate for each pixel and makes the initial likelihood fit the training mean. The default activation
    is smooth, because some evaluations use the curvature of the decoder.

    Binary data enter the encoder unchanged. Other levels are scaled to [-1, 1]. Continuous data are centred and scaled.

    Args:
        info: Facts of the data.
        latent_dim: Number of dimensions of z.
        channels: Number of channels after each stage of the encoder.
        hidden: Widths of the perceptron's layers.
        kernel_size: Side of the convolutions.
        activation: Nonlinearity after each layer.
        posterior: Family of q(z|x).
        prior: p(z).
        likelihood: p(x|z).
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its parameters are its configuration
        self,
        info: DataInfo,
        latent_dim: PositiveInt = 50,
        channels: Channels = (32, 64),
        hidden: tuple[PositiveInt, ...] = (200,),
        kernel_size: Literal[3, 5, 7] = 3,
        activation: Activation = "elu",
        posterior: Posterior = Diagonal(),  # noqa: B008 - frozen
        prior: Prior = StandardNormal(),  # noqa: B008
        likelihood: Likelihood = Bernoulli(),  # noqa: B008
    ) -> None:
        layers = ImageLayers(channels=channels, hidden=hidden, kernel_size=kernel_size, activation=activation)
        super().__init__(info, latent_dim, layers, posterior=posterior, prior=prior, likelihood=likelihood)
