"""A VAE of convolutions, for images."""

from typing import Literal

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


class Conv(Autoencoder):
    """Creates a VAE of convolutions for images `[H, W]` or `[C, H, W]` of at least 8 x 8 pixels.

    Each stage halves the image, rounding up, by a convolution of stride two; a perceptron leads from there to q(z|x).
    The decoder mirrors it with transposed convolutions and gives back exactly the data's size. Weights are
    Glorot-uniform and biases zero; each pixel has a last bias of its own, where the likelihood suits the training
    mean. The default activation is smooth, as evaluations use the decoder's curvature.

    Binary data enter the encoder as they are, other levels scaled to [-1, 1], continuous values less the training mean.

    Args:
        info: Facts of the data.
        latent_dim: Dimensions of z.
        channels: Channels after each stage of the encoder, from the data inwards.
        hidden: Widths of the perceptron's layers behind them.
        kernel_size: Side of the convolutions.
        activation: Nonlinearity after each layer.
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
        hidden: tuple[PositiveInt, ...] = (200,),
        kernel_size: Literal[3, 5, 7] = 3,
        activation: Activation = "elu",
        posterior: Posterior = Diagonal(),  # noqa: B008 - frozen
        prior: Prior = StandardNormal(),  # noqa: B008
        likelihood: Likelihood = Bernoulli(),  # noqa: B008
    ) -> None:
        image = image_shape(info.shape)
        observation = likelihood.module(info)
        body = ImageFeatures(image, channels, 0, hidden, kernel_size, activation)
        encoder = Encoder(Inputs(info, image), body, posterior.head(body.num_features, latent_dim))
        decoder = ImageDecoder(latent_dim, info, channels, 0, hidden, kernel_size, activation, observation)
        super().__init__(encoder, decoder, prior.module(latent_dim, info), observation)
        self.latent_dim = latent_dim
