"""What a law is: a sentence, where it comes from, whom it binds, and a check that a breach does not pass."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

S = TypeVar("S")


class LawBroken(Exception):  # noqa: N818 - a verdict, no error of the program
    """A law does not hold; the line says what was seen."""


def anyone(_: Any) -> str | None:
    """Return no reason to skip: the law binds every component."""
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law(Generic[S]):
    """A law of components.

    Attributes:
        name: The law as a sentence.
        source: Where it comes from: a paper, or the contract it is part of.
        check: Returns what was seen, such as the smallest error that would have been, or None; raises `LawBroken`.
        applies: Returns the reason why a component is not bound by it, or None.
    """

    name: str
    source: str
    check: Callable[[S], str | None]
    applies: Callable[[S], str | None] = anyone


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a component keeps a law, and what was seen: a figure, a breach, or the reason of a skip."""

    law: str
    source: str
    status: Literal["holds", "broken", "skipped"]
    seen: str


def judge(law: Law[S], subject: S) -> Verdict:
    """Hold a component against one law; whatever else it raises is a breach, too."""
    try:
        reason = law.applies(subject)
        if reason is not None:
            return Verdict(law.name, law.source, "skipped", reason)
        return Verdict(law.name, law.source, "holds", law.check(subject) or "")
    except LawBroken as broken:
        return Verdict(law.name, law.source, "broken", str(broken))
    except (Exception, SystemExit) as error:  # it is someone's code, and may raise anything
        return Verdict(law.name, law.source, "broken", f"raises {type(error).__name__}: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """Return the beginning of an error's message, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def require_close(found: Tensor, expected: Tensor, what: str, *, atol: float, rtol: float = 0.0) -> float:
    """Return the largest difference; NaN is unlike everything, equal infinities are alike.

    Raises:
        LawBroken: They have different shapes, or some numbers are further apart than `atol + rtol * |expected|`.
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
