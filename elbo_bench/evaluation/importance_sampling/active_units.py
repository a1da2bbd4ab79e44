"""Active latent dimensions, whose posterior mean varies with x: in total and by layer."""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import sample
from elbo_bench.evaluation.metrics import plain_metric
from elbo_bench.metric import Metric
from elbo_bench.noise import NormalSource

ACTIVE_UNIT_LIMIT = 0.01
"""A latent is active if its posterior mean varies by more than this over x (Burda et al., 2016, section 5.2)."""
_SAMPLES = 256  # of q(z|x) for each half of a sampled mean, which are not decoded
_CHUNK = 64


@runtime_checkable
class HasLayers(Protocol):
    """A model that names the dimensions of each layer of its latent, each dimension once."""

    latent_layers: Mapping[str, slice]


class HalvedMean:
    """Two independent estimates of E_q z, from the first and the second half of a stream of K samples.

    Their product is free of the bias that the square of one estimate would have. Latents that are
    labels are excluded, since labels have no mean.
    """

    def __init__(self, num_samples: int) -> None:
        self._sizes = num_samples // 2, num_samples - num_samples // 2
        self._sums: list[Tensor | None] = [None, None]
        self._seen = 0

    def update(self, z: Shaped[Tensor, "n B *event"]) -> None:
        """Take in the next n samples."""
        if not z.is_floating_point():
            return
        split = min(max(self._sizes[0] - self._seen, 0), len(z))
        for half, piece in enumerate((z[:split], z[split:])):
            if len(piece):
                total, before = piece.reshape(*piece.shape[:2], -1).double().sum(0), self._sums[half]
                self._sums[half] = total if before is None else before + total
        self._seen += len(z)

    def means(self) -> Float[Tensor, "B 2 L"] | None:
        """Return both, or None of labels."""
        first, second = self._sums
        if first is None or second is None:
            return None
        return torch.stack([first / self._sizes[0], second / self._sizes[1]], 1)


def closed_form_mean(posterior: Distribution) -> Float[Tensor, "B 1 L"] | None:
    """Return E_q z, or None where it has no closed form; a mean that does not exist, as Cauchy's, is NaN."""
    try:
        mean = posterior.mean
        return mean.reshape(len(mean), -1).double().unsqueeze(1)
    except Exception:  # a distribution of the user's may raise anything
        return None


def posterior_means(
    posterior: Distribution, noise: NormalSource, like: Shaped[Tensor, "B *data"]
) -> Float[Tensor, "B M L"] | None:
    """Return E_q z, or two independent estimates of it where it has no closed form.

    None where the mean does not exist: for labels, and for tails that are too heavy.

    Args:
        posterior: q(z|x).
        noise: Source of random numbers, if samples are needed.
        like: The examples.
    """
    mean = closed_form_mean(posterior)
    if mean is not None:
        return mean if bool(mean.isfinite().all()) else None
    halves = HalvedMean(2 * _SAMPLES)
    for _ in range(2 * _SAMPLES // _CHUNK):
        halves.update(sample(posterior, _CHUNK, noise, like=like, reparameterised=False))
    return halves.means()


def variance_of_mean(means: Float[np.ndarray, "N M L"]) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Return the variance over x of each dimension's posterior mean, and its standard error."""
    centred = means - means.mean(0)
    products = centred[:, 0] * centred[:, -1]
    return products.mean(0), products.std(0) / math.sqrt(len(products))


def active(variance: Float[np.ndarray, " L"]) -> Bool[np.ndarray, " L"]:
    """Return which dimensions are active."""
    return np.asarray(variance > ACTIVE_UNIT_LIMIT)


def active_unit_metrics(
    is_active: Bool[np.ndarray, " L"], layers: Mapping[str, slice], count: int
) -> dict[str, Metric]:
    """Return the number of active dimensions over `count` examples: in total, and in each layer."""
    numbers = {"active_units": is_active} | {f"active_units_{name}": is_active[part] for name, part in layers.items()}
    label = "latent dimensions whose posterior mean varies with x"
    return {name: plain_metric(int(each.sum()), count, "dimensions", label) for name, each in numbers.items()}


def active_units_in_words(is_active: Bool[np.ndarray, " L"], layers: Mapping[str, slice]) -> str:
    """Return the numbers of active dimensions as in Burda et al. (2016): "19+5" for two layers."""
    return "+".join(str(int(is_active[part].sum())) for part in (layers.values() if layers else [slice(None)]))


def latent_layers(model: object, num_dims: int) -> dict[str, slice]:
    """Return the layers that a model names, from the data upwards; empty if it names none.

    Raises:
        ValueError: The layers do not hold each dimension exactly once.
    """
    if not isinstance(model, HasLayers):
        return {}
    layers = dict(model.latent_layers)
    covered = [number for part in layers.values() for number in range(num_dims)[part]]
    if sorted(covered) != list(range(num_dims)):
        raise ValueError(f"latent_layers={layers}: each of the {num_dims} dimensions must be in one layer")
    return layers
