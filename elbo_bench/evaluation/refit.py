"""An encoder tuned on the examples that are scored, so that a poor q(z|x) is not taken for a poor decoder."""

import copy
import dataclasses

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from elbo_bench.draws import LatentVariableModel, NotReparameterisableError, draw
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.blocks import evaluating, placement, single_threaded
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_mean_exp


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderRefit:
    r"""Climbs L_K of the scored examples in the encoder's parameters alone.

    .. math:: \max_\phi \sum_x E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q_\phi(z_k|x)}

    (Burda et al., 2016, "Importance weighted autoencoders", eq. 8.) It sees all examples together and is therefore
    done before they are split into blocks: on one core, with batches and noise that depend on the seed alone, so that
    every rank comes to the same bytes. Adam's step falls linearly to zero.

    Attributes:
        steps: Steps.
        num_samples: K of the bound.
        batch_size: Examples of a step.
        lr: Adam's first step.
    """

    steps: int
    num_samples: int
    batch_size: int
    lr: float

    def fit(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> LatentVariableModel:
        """Return a copy of the model with the tuned encoder; the model itself is not touched.

        Raises:
            ValueError: The model has no encoder of its own to tune.
            RunFailedError: The bound is not finite; the line names the example.
        """
        if not isinstance(model, nn.Module):
            raise ValueError("refit_steps: the model is no torch module; refit_steps=0 leaves its encoder as it is")
        device, dtype = placement(model, x)
        x = x.to(device, dtype)
        tuned: nn.Module = copy.deepcopy(model)
        tuned.requires_grad_()
        with evaluating(tuned), single_threaded(), torch.enable_grad():
            parameters = encoder_parameters(tuned, x[:2])  # type: ignore[arg-type]
            optimizer = torch.optim.Adam(parameters, lr=self.lr)
            for step in range(self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * (1 - step / self.steps)
                inside = self._batch(step, len(x), request.seed)
                noise = Noise(request.seed, "gaps-refit", step)
                draws = draw(tuned, x[inside.to(device)], self.num_samples, noise)  # type: ignore[arg-type]
                bound = log_mean_exp(draws.log_w)
                if not bool(bound.isfinite().all()):
                    first = int(inside[int((~bound.isfinite()).cpu().int().argmax())])
                    number = first if request.ids is None else int(request.ids[first])
                    raise RunFailedError(f"example {number}: its bound is not finite at step {step} of the refit")
                gradients = torch.autograd.grad(-bound.mean(), parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
        tuned.requires_grad_(False)
        tuned.zero_grad()
        return tuned.eval()  # type: ignore[return-value]

    def decoder_evaluations(self, num_examples: int) -> int:
        """Return how many latents it decodes, a gradient counted twice."""
        return 2 * self.steps * self.num_samples * min(self.batch_size, num_examples)

    def _batch(self, step: int, num_examples: int, seed: int) -> Tensor:
        """Return the examples of a step: one random order after another, cut into pieces of one size."""
        size = min(self.batch_size, num_examples)
        first, last = step * size, (step + 1) * size
        epochs = range(first // num_examples, (last - 1) // num_examples + 1)
        order = torch.cat([Noise(seed, "gaps-refit-order", epoch).permutation(num_examples) for epoch in epochs])
        start = first - epochs[0] * num_examples
        return order[start : start + size]


def encoder_parameters(model: LatentVariableModel, x: Shaped[Tensor, "B *data"]) -> list[nn.Parameter]:
    """Return the parameters on which q(z|x) depends, and p(x|z) and p(z) do not.

    What depends on what is asked of autograd, so no model need say which of its parts is the encoder.

    Raises:
        ValueError: There are none.
    """
    assert isinstance(model, nn.Module)
    everything = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        draws = draw(model, x, 1, Noise(0, "gaps-refit-rehearsal"))
    except NotReparameterisableError as error:
        raise ValueError(f"refit_steps: {error}; refit_steps=0 leaves the encoder as it is") from None
    z = draws.z.detach()

    def reached(value: Tensor) -> set[nn.Parameter]:
        if not value.requires_grad:
            return set()
        found = torch.autograd.grad(value.sum(), everything, allow_unused=True, retain_graph=True)
        return {parameter for parameter, gradient in zip(everything, found, strict=True) if gradient is not None}

    of_the_posterior = reached(model.posterior(x).log_prob(z))
    of_the_joint = reached(model.likelihood(z).log_prob(x) + model.prior().log_prob(z))
    own = of_the_posterior - of_the_joint
    if not own:
        raise ValueError("refit_steps: q(z|x) has no parameters of its own; refit_steps=0 leaves it as it is")
    return [parameter for parameter in everything if parameter in own]
