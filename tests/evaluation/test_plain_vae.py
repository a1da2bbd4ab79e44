"""The README's example for models from elsewhere: a plain PyTorch VAE, scored as it is."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

README = Path(__file__).resolve().parents[2] / "README.md"


class PlainVAE(nn.Module):
    """As in most tutorials: an encoder that returns mean and log-variance, a decoder that returns logits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 32)
        self.mean, self.log_variance = nn.Linear(32, 3), nn.Linear(32, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 784))

    def encode(self, x):
        h = torch.relu(self.hidden(x))
        return self.mean(h), self.log_variance(h)

    def decode(self, z):
        return self.decoder(z)


def example() -> str:
    text = README.read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- example: plain-vae -->\n```python\n(.*?)```", text, re.DOTALL)
    return code


def test_a_plain_vae_is_scored_in_under_twenty_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) < 20
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = PlainVAE()
        x = torch.bernoulli(torch.full((6, 784), 0.2))
    scope = {"vae": vae, "x": x}
    exec(compile(example(), "README.md", "exec"), scope)
    result = scope["result"]
    # By hand: the average weight of as many samples, in float64.
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        mean, log_variance = (part.double() for part in vae.encode(x))
        scale = (0.5 * log_variance).exp()
        noise = torch.randn(4000, *mean.shape, dtype=torch.float64)
        z = mean + scale * noise
        logits = vae.decode(z.float()).double()
        log_w = (x * logits - nn.functional.softplus(logits)).sum(-1)
        log_w += (-0.5 * z**2 + 0.5 * noise**2 + scale.log()).sum(-1)
        weights = torch.softmax(log_w, 0)
        by_hand = (torch.logsumexp(log_w, 0) - np.log(4000)).numpy()
        error = (weights.square().sum(0) - 1 / 4000).clamp(min=0).sqrt().numpy()
    assert set(result.metrics) >= {"log_px", "elbo_analytic", "elbo_gap", "rate", "distortion"}
    distance = result.examples["log_px"] - by_hand
    assert (np.abs(distance) <= 5 * np.hypot(error, result.examples["log_px_se_mc"]) + 1e-4).all()
    elbo, spread = log_w.mean(0).numpy(), (log_w.std(0) / 4000**0.5).numpy()
    distance = np.abs(result.examples["elbo_analytic"] - elbo)
    assert (distance <= 5 * np.hypot(spread, result.examples["elbo_analytic_se_mc"]) + 1e-4).all()
