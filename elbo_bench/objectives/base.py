"""What an objective is: a value that is reported and a gradient that trains."""

import abc
import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(abc.ABC):
    """A bound on log p(x), or what stands for one; its fields are its configuration.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
    """

    num_samples: PositiveInt = 1

    scope: ClassVar[Literal["example", "batch"]] = "example"
    """Whether an example's value depends on that example alone, or on its whole batch."""
    reparameterised: ClassVar[bool] = True
    """Whether its gradient flows through the samples."""
    latents: ClassVar[Literal["sampled", "enumerated"]] = "sampled"
    """Whether it is given samples of q(z|x), or every value of a discrete latent."""
    gradient: ClassVar[Literal["value", "unbiased", "decoder", "own"]] = "value"
    """Of what its gradient is the gradient.

    `"value"`: of the value, draw by draw, in every parameter. The others are so in the decoder and the prior; in the
    encoder `"unbiased"` has the same expectation, and `"decoder"` another one. `"own"`: it is so nowhere.
    """
    of_log_w: ClassVar[bool] = False
    """Whether its value is a function of the log-weights alone: where q(z|x) is the posterior it then is log p(x),
    draw by draw.
    """
    ordered: ClassVar[bool] = False
    """Whether the order of the samples matters."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def samples_required(self) -> int:
        """Samples of q(z|x) that one value takes."""
        return self.num_samples

    @property
    @abc.abstractmethod
    def direction(self) -> Literal["lower", "upper", "unbiased", "none"]:
        """What the value at finite K is to log p(x), in expectation."""

    @abc.abstractmethod
    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return, for each example, the value in nats; training ascends its gradient.

        Raises:
            NoClosedFormError: It needs a divergence or an entropy that the distributions lack.
        """
