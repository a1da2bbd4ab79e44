"""How a model takes its data: in which type, and whether they lie on the support of its likelihood."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributions import constraints

from elbo_bench.draws import LatentVariableModel, sample
from elbo_bench.noise import Noise

CHECKED = 2
"""Latents that the check decodes: two, to see whether the support depends on the latent."""
_CHUNK_VALUES = 4_000_000
"""Values that are checked at once."""


@torch.no_grad()
def takes_integers(model: object, x: Shaped[Tensor, "B *data"]) -> bool:
    """Return whether a model scores whole numbers as they are. Other models are given floating-point numbers."""
    if not isinstance(model, LatentVariableModel):
        return False
    try:
        posterior = model.posterior(x)
        z = sample(posterior, 1, Noise(0, "type"), like=x, reparameterised=False)
        model.likelihood(z).log_prob(x)
    except Exception:  # torch has many errors for a type that does not fit
        return False
    return True


@torch.no_grad()
def refuse_off_support(model: object, x: Shaped[Tensor, "N *data"], ids: Shaped[Tensor, " N"] | None = None) -> None:
    """Raise an error if an example lies outside the support of the likelihood.

    Outside the support many distributions still return a number, which means nothing. A support that
    depends on the latent is not checked, since log p(x|z) = -inf is then a valid answer.

    Args:
        model: The model, in evaluation mode.
        x: Examples, in the type and on the device of the model.
        ids: Number of each example in its data set; 0 .. N-1 if None.

    Raises:
        ValueError: An example is outside the support. The message names the example, the value and what to do.
    """
    if not isinstance(model, LatentVariableModel) or not len(x):
        return
    support = _support(model, x[:1])
    if support is None:
        return
    size = max(1, _CHUNK_VALUES // max(1, x[0].numel()))
    for start in range(0, len(x), size):
        inside = support.check(x[start : start + size])
        inside = inside.reshape(len(inside), -1).all(1)
        if not bool(inside.all()):
            row = start + int((~inside).int().argmax())
            number = row if ids is None else int(ids[row])
            raise ValueError(f"example {number} {_what(support, x[row])}: {_advice(support)}")


def _support(model: LatentVariableModel, x: Tensor) -> constraints.Constraint | None:
    """Return the support of the likelihood, or None where it has none or where it depends on the latent."""
    z = sample(model.posterior(x), CHECKED, Noise(0, "support"), like=x, reparameterised=False)
    found = [_support_of(model.likelihood(each)) for each in z[:, 0]]
    first = found[0]
    if first is None or any(each is None or not _equal(first, each) for each in found):
        return None
    return first


def _support_of(likelihood: Any) -> constraints.Constraint | None:
    try:
        support = likelihood.support
    except Exception:  # a distribution of the user's may raise anything
        return None
    return support if isinstance(support, constraints.Constraint) and not constraints.is_dependent(support) else None


def _parts(constraint: constraints.Constraint) -> Iterator[object]:
    """Yield the simple constraints that a constraint is composed of."""
    yield type(constraint)
    for value in vars(constraint).values():
        for each in value if isinstance(value, list | tuple) else [value]:
            yield from _parts(each) if isinstance(each, constraints.Constraint) else [each]


def _equal(one: constraints.Constraint, other: constraints.Constraint) -> bool:
    for a, b in itertools.zip_longest(_parts(one), _parts(other)):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if not torch.equal(a, b):
                return False
        elif a is not b and not (type(a) is type(b) and a == b):
            return False
    return True


def _base(support: constraints.Constraint) -> constraints.Constraint:
    """Return the constraint of a single value."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _what(support: constraints.Constraint, example: Tensor) -> str:
    base = _base(support)
    if base.event_dim:
        return f"is not on the support of the likelihood, {base}"
    inside = torch.broadcast_to(base.check(example), example.shape)
    index = tuple(int(axis) for axis in (~inside).nonzero()[0])
    at = f" at {index[0] if len(index) == 1 else index}" if index else ""
    return f"holds {example[index].item():g}{at}, but the likelihood takes {_words(base)}"


def _words(base: constraints.Constraint) -> str:
    if base is constraints.boolean:
        return "zeros and ones"
    if isinstance(base, type(constraints.integer_interval(0, 1))):
        return f"whole numbers {_bound(base.lower_bound)} to {_bound(base.upper_bound)}"
    if base is constraints.nonnegative_integer or base is constraints.positive_integer:
        return f"whole numbers from {0 if base is constraints.nonnegative_integer else 1} on"
    if isinstance(base, type(constraints.interval(0, 1))):
        return f"values from {_bound(base.lower_bound)} to {_bound(base.upper_bound)}"
    return "finite real numbers" if base is constraints.real else str(base)


def _advice(support: constraints.Constraint) -> str:
    base = _base(support)
    if base is constraints.boolean:
        return "binarise the data, or take a likelihood of grey values"
    if base is constraints.real:
        return "remove or replace such values"
    if getattr(base, "is_discrete", False):
        return "give the data as such whole numbers, or take a likelihood of continuous values"
    return "bring the data into that range, or take a likelihood whose support holds them"


def _bound(value: object) -> str:
    return f"{float(value.flatten()[0]) if isinstance(value, Tensor) else float(value):g}"  # type: ignore[arg-type]
