"""An encoder that is refitted to the scored examples, so that a poor encoder is not mistaken for a poor decoder."""

import copy
import dataclasses

import torch
from jaxtyping import Shaped
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from elbo_bench.draws import LatentVariableModel, NotReparameterisableError, draw
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.blocks import evaluating, placement, single_threaded
from elbo_bench.evaluation.evaluator import Evaluator, Request
from elbo_bench.evaluation.scored_model import log_joint
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_mean_exp


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefitKeys(Evaluator):
    """The keys of refitting the encoder.

    Attributes:
        refit_steps: Steps of fitting a copy of the encoder to the scored examples; 0 does not refit.
        refit_samples: K of the bound that is maximised.
        refit_batch_size: Examples of such a step.
        refit_lr: Adam's first step.
    """

    refit_steps: NonNegativeInt = 0
    refit_samples: PositiveInt = 16
    refit_batch_size: PositiveInt = 32
    refit_lr: PositiveFloat = 0.001

    def refit_evaluations(self, num_examples: int) -> int:
        """Return the number of latents that a refit decodes; a gradient counts twice."""
        return 2 * self.refit_steps * self.refit_samples * min(self.refit_batch_size, num_examples)


def refit_encoder(
    keys: RefitKeys, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request
) -> LatentVariableModel:
    r"""Return a copy of the model whose encoder maximises L_K of the scored examples; the model is not changed.

    .. math:: \max_\phi \sum_x E \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q_\phi(z_k|x)}

    (Burda et al., 2016, "Importance weighted autoencoders", eq. 8.) It uses all examples together, so it runs before
    they are split into blocks: on one core, with batches and noise that depend on the seed only. Every process
    therefore computes the same bytes. Adam's step falls linearly to zero.

    Raises:
        ValueError: The model has no encoder of its own to fit.
        RunFailedError: The bound is not finite. The message names the example.
    """
    if not isinstance(model, nn.Module):
        raise ValueError("refit_steps: the model is no torch module; refit_steps=0 does not refit its encoder")
    device, dtype = placement(model, x)
    x = x.to(device, dtype)
    tuned: nn.Module = copy.deepcopy(model)
    tuned.requires_grad_()
    with evaluating(tuned), single_threaded(), torch.enable_grad():
        parameters = encoder_parameters(tuned, x[:2])  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(parameters, lr=keys.refit_lr)
        for step in range(keys.refit_steps):
            for group in optimizer.param_groups:
                group["lr"] = keys.refit_lr * (1 - step / keys.refit_steps)
            inside = _batch(step, keys.refit_batch_size, len(x), request.seed)
            noise = Noise(request.seed, "gaps-refit", step)
            draws = draw(tuned, x[inside.to(device)], keys.refit_samples, noise)  # type: ignore[arg-type]
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


def _batch(step: int, size: int, num_examples: int, seed: int) -> Tensor:
    """Return the examples of a step: random orders of all examples, one after another, cut into batches."""
    size = min(size, num_examples)
    first, last = step * size, (step + 1) * size
    epochs = range(first // num_examples, (last - 1) // num_examples + 1)
    order = torch.cat([Noise(seed, "gaps-refit-order", epoch).permutation(num_examples) for epoch in epochs])
    start = first - epochs[0] * num_examples
    return order[start : start + size]


def encoder_parameters(model: LatentVariableModel, x: Shaped[Tensor, "B *data"]) -> list[nn.Parameter]:
    """Return the parameters on which q(z|x) depends, and p(x|z) and p(z) do not.

    Autograd finds the dependencies, so a model need not name its encoder.

    Raises:
        ValueError: There are none.
    """
    assert isinstance(model, nn.Module)
    everything = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        draws = draw(model, x, 1, Noise(0, "gaps-refit-rehearsal"))
    except NotReparameterisableError as error:
        raise ValueError(f"refit_steps: {error}; refit_steps=0 does not refit it") from None
    z = draws.z.detach()

    def reached(value: Tensor) -> set[nn.Parameter]:
        if not value.requires_grad:
            return set()
        found = torch.autograd.grad(value.sum(), everything, allow_unused=True, retain_graph=True)
        return {parameter for parameter, gradient in zip(everything, found, strict=True) if gradient is not None}

    of_the_posterior = reached(model.posterior(x).log_prob(z))
    of_the_joint = reached(log_joint(model, x, z, z.dtype))
    own = of_the_posterior - of_the_joint
    if not own:
        raise ValueError("refit_steps: q(z|x) has no parameters of its own; refit_steps=0 does not refit it")
    return [parameter for parameter in everything if parameter in own]
