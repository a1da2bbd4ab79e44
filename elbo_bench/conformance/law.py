"""A law: a property that every component of a kind must have, and the check that tests it."""

import dataclasses
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from torch import Tensor

from elbo_bench.errors import in_a_line

S = TypeVar("S")


class LawBroken(Exception):  # noqa: N818 - a verdict, not an error of the program
    """The component breaks the law. The message says what was found."""


class LawSkipped(Exception):  # noqa: N818
    """The law does not apply to the component. The message says why."""


@dataclasses.dataclass(frozen=True)
class Law(Generic[S]):
    """A property that a component must have.

    Attributes:
        name: The law as a sentence.
        source: Where the law comes from: a paper, or the file that states the contract.
        check: Returns what was found, such as the smallest error that the check can detect, or None. Raises
            `LawBroken` or `LawSkipped`.
    """

    name: str
    source: str
    check: Callable[[S], str | None]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of one law on one component. `seen` says what was found, or why the law was skipped."""

    law: str
    source: str
    status: Literal["holds", "broken", "skipped"]
    seen: str


def law(name: str, source: str) -> Callable[[Callable[[S], str | None]], Law[S]]:
    """Return a decorator that turns a check into a law."""
    return lambda check: Law(name, source, check)


def skip_if(condition: bool, reason: str) -> None:
    """Skip the law if the condition is true.

    Raises:
        LawSkipped: It is true.
    """
    if condition:
        raise LawSkipped(reason)


def judge(law: Law[S], subject: S) -> Verdict:
    """Return the verdict of one law on a component. Any exception that the component raises breaks the law."""
    status: Literal["holds", "broken", "skipped"] = "broken"
    try:
        status, seen = "holds", law.check(subject) or ""
    except LawSkipped as skipped:
        status, seen = "skipped", str(skipped)
    except LawBroken as broken:
        seen = str(broken)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        seen = f"raises {in_a_line(error)}"
    return Verdict(law.name, law.source, status, seen)


def require_close(found: Tensor, expected: Tensor, what: str, *, atol: float, rtol: float = 0.0) -> float:
    """Return the largest difference of two tensors. Equal infinities have difference 0. NaN equals nothing.

    Raises:
        LawBroken: The shapes differ, or a difference is larger than `atol + rtol * |expected|`.
    """
    if found.shape != expected.shape:
        raise LawBroken(f"{what}: the shape is {tuple(found.shape)}, not {tuple(expected.shape)}")
    found, expected = found.detach().double(), expected.detach().double()
    difference = (found - expected).abs().masked_fill(found == expected, 0.0)
    wrong = ~((difference <= atol + rtol * expected.abs()) | (found == expected))
    if wrong.any():
        at = int(wrong.flatten().nonzero()[0])
        raise LawBroken(f"{what}: {found.flatten()[at]:.6g}, not {expected.flatten()[at]:.6g}")
    return float(difference.max()) if difference.numel() else 0.0
