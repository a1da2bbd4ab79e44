"""Models with one mistake each, as they are made: `elbo-bench check` must find every one of them."""

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from elbo_bench.distributions import DiagonalNormal


class Factors(nn.Module):
    def __init__(self, info, latent_dim: int = 3) -> None:
        super().__init__()
        if info.num_levels != 2:
            raise ValueError("factors need binary data")
        self.shape, self.latent_dim = info.shape, latent_dim
        self.encoder = nn.Linear(info.num_dims, 2 * latent_dim)
        self.decoder = nn.Linear(latent_dim, info.num_dims)

    def posterior(self, x):
        loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        return DiagonalNormal(loc, log_scale.exp())

    def prior(self):
        zeros = self.decoder.weight.new_zeros(self.latent_dim)
        return DiagonalNormal(zeros, zeros + 1)

    def likelihood(self, z):
        return Independent(Bernoulli(logits=self.decoder(z).unflatten(-1, self.shape)), len(self.shape))


class Off(DiagonalNormal):
    """A density that is not that of its samples: the scale is another one in one place only."""

    def log_prob(self, value):
        return DiagonalNormal(self.base_dist.loc, 1.3 * self.base_dist.scale).log_prob(value)


class OffPosterior(Factors):
    def posterior(self, x):
        q = super().posterior(x)
        return Off(q.base_dist.loc, q.base_dist.scale)


class Unnormalised(DiagonalNormal):
    def log_prob(self, value):
        return super().log_prob(value) + 0.1


class UnnormalisedPrior(Factors):
    def prior(self):
        p = super().prior()
        return Unnormalised(p.base_dist.loc, p.base_dist.scale)


class SquaredError(Independent):
    def log_prob(self, value):
        return -(value - self.mean).square().sum(-1)


class ReconstructionLoss(Factors):
    def likelihood(self, z):
        return SquaredError(super().likelihood(z).base_dist, len(self.shape))


class Flipped(Independent):
    def sample(self, sample_shape=()):
        return 1 - super().sample(sample_shape)


class OtherObservations(Factors):
    def likelihood(self, z):
        return Flipped(super().likelihood(z).base_dist, len(self.shape))


class ImagesOnly(Factors):
    def __init__(self, info, latent_dim: int = 3) -> None:
        super().__init__(info, latent_dim)
        if len(info.shape) != 2 or info.num_dims < 64:
            raise ValueError("images only")


class OneNat(Independent):
    def log_prob(self, value):
        return super().log_prob(value) + 1


class OneNatTooMuch(ImagesOnly):
    def likelihood(self, z):
        return OneNat(super().likelihood(z).base_dist, len(self.shape))


class Normalises(Factors):
    def __init__(self, info, latent_dim: int = 3) -> None:
        super().__init__(info, latent_dim)
        self.norm = nn.BatchNorm1d(info.num_dims)

    def posterior(self, x):
        return super().posterior(self.norm(x.flatten(1)))


class DropsOut(Factors):
    def posterior(self, x):
        return super().posterior(nn.functional.dropout(x, 0.5, self.training))


class Idle(Factors):
    def __init__(self, info, latent_dim: int = 3) -> None:
        super().__init__(info, latent_dim)
        self.unused = nn.Parameter(torch.zeros(3))


class Muted(Idle):
    def likelihood(self, z):
        return super().likelihood(z + 0 * self.unused.sum())


class NoEvent(Factors):
    def prior(self):
        p = super().prior()
        return Normal(p.base_dist.loc, p.base_dist.scale)


class HiddenState(Factors):
    def __init__(self, info, latent_dim: int = 3) -> None:
        super().__init__(info, latent_dim)
        self.scale = float(torch.rand(())) + 0.5

    def likelihood(self, z):
        return super().likelihood(self.scale * z)


class Single(DiagonalNormal):
    def log_prob(self, value):
        return super().log_prob(value).float()


class Narrow(Factors):
    def prior(self):
        p = super().prior()
        return Single(p.base_dist.loc, p.base_dist.scale)


class Wide(Factors):
    def prior(self):
        p = super().prior()
        return DiagonalNormal(p.base_dist.loc.double(), p.base_dist.scale.double())


class Grey(Factors):
    def likelihood(self, z):
        logits = self.decoder(z).unflatten(-1, self.shape)
        return Independent(torch.distributions.ContinuousBernoulli(logits=logits), len(self.shape))


class Crowd(Factors):
    def likelihood(self, z):
        return super().likelihood(z - z.mean(-2, keepdim=True) if z.dim() > 1 else z)


class Shaken(DiagonalNormal):
    def transport(self, noise):
        return super().transport(noise + 1e-3 * torch.randn_like(noise))


class Restless(Factors):
    def posterior(self, x):
        q = super().posterior(x)
        return Shaken(q.base_dist.loc, q.base_dist.scale)


class Infinite(Factors):
    def prior(self):
        p = super().prior()
        return Independent(torch.distributions.Uniform(p.base_dist.loc - 0.1, p.base_dist.loc + 0.1, False), 1)


class OtherSamples(DiagonalNormal):
    def transport(self, noise):
        return super().transport(1.1 * noise)


class OtherPrior(Factors):
    def prior(self):
        p = super().prior()
        return OtherSamples(p.base_dist.loc, p.base_dist.scale)


class OverstatedPosterior(Factors):
    """A rate that is understated by a tenth of a nat: every bound lies too high."""

    def posterior(self, x):
        q = super().posterior(x)
        return Understated(q.base_dist.loc, q.base_dist.scale)


class Understated(DiagonalNormal):
    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - 2


class NoLikelihood(Factors):
    likelihood = None


class FailsToBuild(Factors):
    def __init__(self, info) -> None:
        raise ZeroDivisionError(f"no model of {info.shape}")


class NoData(Factors):
    def __init__(self, info) -> None:
        if info.num_dims:
            raise ValueError("sounds are needed")
