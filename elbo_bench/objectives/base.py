"""The interface of an objective: its configuration, what it declares about itself, and its value."""

import abc
import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.config.typed import CheckedFields
from elbo_bench.draws import Draws

Direction = Literal["lower", "upper", "unbiased", "none"]
"""How the expected value relates to log p(x): a lower bound, an upper bound, equal to it, or none of these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(CheckedFields, abc.ABC):
    """A bound on log p(x), or another objective to train with. Its fields are its configuration.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
    """

    num_samples: PositiveInt = 1

    scope: ClassVar[Literal["example", "batch"]] = "example"
    """`"batch"` if the value of an example depends on the other examples of its batch."""
    reparameterised: ClassVar[bool] = True
    """Whether the gradient flows through the samples."""
    latents: ClassVar[Literal["sampled", "enumerated"]] = "sampled"
    """`"enumerated"` if the objective takes every value of a discrete latent instead of samples of q(z|x)."""
    gradient: ClassVar[Literal["value", "unbiased", "decoder", "own"]] = "value"
    """Where the objective's gradient equals the gradient of its value.

    - `"value"`: in all parameters, for every draw.
    - `"unbiased"`: in the decoder and the prior for every draw, in the encoder in expectation.
    - `"decoder"`: in the decoder and the prior only. The encoder has another gradient.
    - `"own"`: nowhere.
    """

    @property
    def samples_required(self) -> int:
        """Samples of q(z|x) that one value takes."""
        return self.num_samples

    @property
    @abc.abstractmethod
    def direction(self) -> Direction:
        """How the expected value at this K relates to log p(x).

        Set it as a class attribute, `direction = "lower"`. Write a property only if it depends on a field.
        """

    @abc.abstractmethod
    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the value for each example, in nats. Training ascends its gradient.

        Raises:
            NoClosedFormError: The objective needs a divergence or an entropy that has no closed form.
        """
