"""What a model of images looks like: samples of p(x), and reconstructions beside their originals."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from elbo_bench.draws import LatentVariableModel, sample
from elbo_bench.noise import Noise


@torch.no_grad()
def samples(model: LatentVariableModel, num_images: int, seed: int, like: Tensor) -> Shaped[Tensor, "N *data"]:
    """Return the means of p(x|z) for z drawn from the prior, with the dtype and device of `like`."""
    z = sample(model.prior(), num_images, Noise(seed, "pictures"), like=like, reparameterised=False)
    return model.likelihood(z).mean


@torch.no_grad()
def reconstructions(model: LatentVariableModel, x: Shaped[Tensor, "N *data"], seed: int) -> Shaped[Tensor, "N *data"]:
    """Return the means of p(x|z) for one z drawn from q(z|x) for each example."""
    z = sample(model.posterior(x), 1, Noise(seed, "pictures", 1), like=x, reparameterised=False)[0]
    return model.likelihood(z).mean
