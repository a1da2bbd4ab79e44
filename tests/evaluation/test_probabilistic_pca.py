"""The maximum likelihood of probabilistic PCA, against the likelihood itself."""

import math

import pytest
import torch
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.evaluation.exact.probabilistic_pca import maximum_likelihood
from elbo_bench.models.linear_gaussian import LinearGaussian


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    loadings = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    return factors @ loadings + 0.5 * torch.randn(400, 7, generator=generator, dtype=torch.float64) + 2.0


def at_maximum(x: Tensor, latent_dim: int, variance: float) -> LinearGaussian:
    """The model whose parameters are written down from the eigenvectors (Tipping & Bishop, 1999, eq. 7)."""
    info = DataInfo(shape=(x.shape[1],), train_mean=x.mean(0), num_train=len(x), observation="continuous")
    model = LinearGaussian(info, latent_dim=latent_dim).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.mT, correction=0))
    values, vectors = values.flip(0)[:latent_dim], vectors.flip(1)[:, :latent_dim]
    model.set_parameters(vectors * (values - variance).clamp(min=0).sqrt(), x.mean(0), math.sqrt(variance))
    model.set_best_posterior()
    return model


@pytest.mark.parametrize(("latent_dim", "noise_std"), [(1, None), (3, None), (6, None), (3, 1.5), (5, 0.3), (9, 2.0)])
def test_it_is_the_likelihood_of_the_parameters_that_are_known_to_be_best(
    x: Tensor, latent_dim: int, noise_std: float | None
) -> None:
    fit = maximum_likelihood(x, latent_dim, noise_std)
    model = at_maximum(x, min(latent_dim, 7), fit.noise_variance)
    assert model.log_p_x(x).mean().item() == pytest.approx(fit.log_px, abs=1e-10)


@pytest.mark.parametrize(("latent_dim", "noise_std"), [(2, None), (4, 0.8)])
def test_no_step_away_from_it_is_better(x: Tensor, latent_dim: int, noise_std: float | None) -> None:
    fit = maximum_likelihood(x, latent_dim, noise_std)
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        model = at_maximum(x, latent_dim, fit.noise_variance)
        moved = [model.weight, model.mean] + ([model.log_noise_std] if noise_std is None else [])
        with torch.no_grad():
            for parameter in moved:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        assert model.log_p_x(x).mean().item() < fit.log_px


def test_there_the_elbo_with_a_diagonal_q_is_log_p_x(x: Tensor) -> None:
    """Lucas et al. (2019): at the maximum the columns of W are orthogonal, and the posterior is in the family."""
    model = at_maximum(x, 3, maximum_likelihood(x, 3).noise_variance)
    q, p = model.posterior(x[:5]), model.exact_posterior(x[:5])
    torch.testing.assert_close(q.mean, p.mean)
    torch.testing.assert_close(torch.diag_embed(q.variance), p.covariance_matrix, atol=1e-10, rtol=0)


def test_directions_below_the_noise_are_not_active(x: Tensor) -> None:
    values = torch.linalg.eigvalsh(torch.cov(x.mT, correction=0)).flip(0)
    between = math.sqrt(float(values[1] + values[2]) / 2)
    assert maximum_likelihood(x, 5, between).active_units == 2
    assert maximum_likelihood(x, 5).active_units == 5


def test_a_noise_that_nothing_is_left_for_is_refused(x: Tensor) -> None:
    for latent_dim in (0, 7, 8):
        with pytest.raises(ValueError, match="no noise is left"):
            maximum_likelihood(x, latent_dim)
    with pytest.raises(ValueError, match="no noise is left"):
        maximum_likelihood(x[:4], 3)
