"""Single gradients of one estimator on one batch."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from elbo_bench.draws import (
    DrawRequirements,
    Draws,
    LatentVariableModel,
    NoClosedFormError,
    NotReparameterisableError,
    draw,
    draw_for,
    score,
)
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_mean_exp

SAME_VALUE = 1e-5
"""Relative difference by rounding in float32 up to which two values on the same draws count as equal."""


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An objective whose gradient is drawn, at one K.

    Attributes:
        objective: Its name.
        num_samples: K, or all the samples of an objective that has no K.
        bound: The objective.
    """

    objective: str
    num_samples: int
    bound: Bound = dataclasses.field(compare=False)

    @classmethod
    def of(cls, objective: str, bound: Bound, num_samples: int | None) -> "Estimator":
        """Return an objective's estimator at K samples, or unchanged if it has no field `num_samples`.

        Raises:
            ValueError: The objective does not allow this K.
        """
        if num_samples is None or not has_size(bound):
            return cls(objective, bound.samples_required, bound)
        try:
            return cls(objective, num_samples, dataclasses.replace(bound, num_samples=num_samples))  # type: ignore[type-var]
        except ValueError as error:
            raise ValueError(f"num_samples={num_samples} does not suit {objective}: {error}") from None

    @property
    def name(self) -> str:
        """Name of its metrics."""
        return f"{self.objective}_k{self.num_samples}"


def has_size(bound: Bound) -> bool:
    """Return whether an objective has a field `num_samples`."""
    return dataclasses.is_dataclass(bound) and any(each.name == "num_samples" for each in dataclasses.fields(bound))


@dataclasses.dataclass(frozen=True)
class LargeK:
    r"""The doubly reparameterised gradient of L_K, with the value L_K, in nats.

    .. math:: \sum_k \tilde w_k \, \partial_\theta \log w_k + \sum_k \tilde w_k^2 \, \partial_z \log w_k \, \nabla z_k

    Its expectation is the gradient of E[L_K], also in parameters that q, p(x|z) and p(z) share, and its encoder part
    gains precision with K where that of L_K itself loses it (Tucker et al., 2019, "Doubly reparameterized gradient
    estimators for Monte Carlo objectives").
    """

    samples_required: int

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the value for each example. The gradient through its samples is weighted twice."""
        log_w = draws.log_w.detach()
        weights = log_w.softmax(0)
        draws.scale_path(weights)
        weighted = (weights * draws.path_log_w).sum(0)
        return log_mean_exp(log_w) + (weighted - weighted.detach())


@dataclasses.dataclass(frozen=True)
class GradientBatch:
    """The batch whose mean gradient is estimated, and the model's parameters.

    Attributes:
        model: The model.
        x: The batch, on the model's device.
        numbers: Number of each example in its data set.
        block_size: Examples decoded at once.
        parameters: Trainable parameters.
        parts: Which of their P numbers belong to the encoder, and which to the decoder.
    """

    model: LatentVariableModel
    x: Shaped[Tensor, "N *data"]
    numbers: Int[Tensor, " N"]
    block_size: int
    parameters: tuple[Tensor, ...]
    parts: Bool[Tensor, "2 P"]

    @classmethod
    def of(
        cls, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], ids: Int[Tensor, " N"] | None, block_size: int
    ) -> "GradientBatch":
        """Return the batch with the parameters of encoder and decoder, found by autograd.

        Raises:
            ValueError: The model has no trainable parameter, or its posterior is not reparameterised.
        """
        trained = model.parameters() if isinstance(model, nn.Module) else ()
        parameters = tuple(each for each in trained if each.requires_grad)
        if not parameters:
            raise ValueError("the model has no parameter that is trained: there is no gradient to measure")
        with torch.enable_grad():
            try:
                draws = draw(model, x[:1], 1, Noise(0, "rehearsal"))
            except NotReparameterisableError as error:
                raise ValueError(f"the oracle needs gradients through the samples: {error}") from None
            fixed = score(model, model.posterior(x[:1]), x[:1], draws.z.detach())
            encoder = _reached([draws.z, fixed.log_q_z_given_x], parameters)
            decoder = _reached([fixed.log_p_x_given_z, fixed.log_p_z], parameters)
        sizes = torch.tensor([each.numel() for each in parameters])
        parts = torch.tensor([encoder, decoder]).repeat_interleave(sizes, dim=1).to(x.device)
        numbers = torch.arange(len(x)) if ids is None else ids.cpu()
        return cls(model, x, numbers, block_size, parameters, parts)

    def gradient(self, estimator: Estimator, seed: int, purpose: str, replicate: int) -> Float[Tensor, " P"]:
        """Return one estimate of the gradient of the batch's mean value, in float64.

        Raises:
            RunFailedError: A value or the gradient is not finite.
        """
        blocks = math.ceil(len(self.x) / self.block_size)
        total = torch.zeros(self.parts.shape[1], dtype=torch.float64, device=self.x.device)
        for block in range(blocks):
            inside = slice(block * self.block_size, (block + 1) * self.block_size)
            noise = Noise(seed, purpose, replicate * blocks + block)
            with torch.enable_grad():
                values = self._values(estimator, self.x[inside], noise)
                if not (finite := values.isfinite()).all():
                    first = int((~finite).nonzero()[0, 0])
                    number = int(self.numbers[inside][first])
                    raise RunFailedError(f"example {number}: the value of {estimator.name} is {values[first].item()}")
                if values.requires_grad:
                    found = torch.autograd.grad(values.sum(), self.parameters, allow_unused=True)
                    pairs = zip(found, self.parameters, strict=True)
                    total += torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).double()
        if not total.isfinite().all():
            raise RunFailedError(
                f"example {int(self.numbers[0])} or one after it: the gradient of {estimator.name} is not finite"
            )
        return total / len(self.x)

    def _values(self, estimator: Estimator, x: Shaped[Tensor, "B *data"], noise: Noise) -> Float[Tensor, " B"]:
        bound = estimator.bound
        if isinstance(bound, DrawRequirements):
            return bound(draw_for(bound, self.model, x, noise))
        return bound(draw(self.model, x, bound.samples_required, noise))

    @torch.no_grad()
    def reference(self, estimator: Estimator, candidates: Sequence[Estimator]) -> Estimator | None:
        """Return the first candidate whose value on the same draws is the estimator's own, if there is one.

        Raises:
            ValueError: The model does not allow the estimator.
        """
        if estimator in candidates:
            candidates = [estimator]
        x, noise = self.x[: self.block_size], Noise(0, "rehearsal")
        try:
            value = self._values(estimator, x, noise).double()
        except (NoClosedFormError, NotReparameterisableError) as error:
            raise ValueError(f"objectives names {estimator.objective}: {error}") from None
        for candidate in candidates:
            try:
                difference = (self._values(candidate, x, noise).double() - value).abs()
            except (NoClosedFormError, NotReparameterisableError):
                continue
            if (difference <= SAME_VALUE * value.abs().clamp(min=1)).all():
                return candidate
        return None

    def unit(self, direction: Float[Tensor, " P"]) -> Float[Tensor, "2 P"]:
        """Return the direction within each part, of unit length; a direction of length 0 stays 0."""
        within = direction * self.parts
        length = within.norm(dim=1, keepdim=True)
        return within / torch.where(length > 0, length, torch.ones_like(length))

    def random_direction(self, seed: int) -> Float[Tensor, " P"]:
        """Return a random direction, independent of all gradients."""
        noise = Noise(seed, "gradient-direction")
        return noise.normal([self.parts.shape[1]], dtype=torch.float64, device=self.x.device)


def _reached(outputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[bool]:
    outputs = [output.sum() for output in outputs if output.requires_grad]
    if not outputs:
        return [False] * len(parameters)
    return [each is not None for each in torch.autograd.grad(outputs, parameters, allow_unused=True)]
