"""Survivors that no test could catch, each with its reason: mutants that compute the same thing."""

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path

from mutant import Mutant


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explained:
    """A generated mutant, told by its text and its function: lines move.

    Attributes:
        file: From the root of the repository.
        within: The function.
        old: What stands there, its blanks and line ends as single blanks.
        new: What is put there.
        reason: Why nothing changes by it.
    """

    file: str
    within: str
    old: str
    new: str
    reason: str

    def fits(self, mutant: Mutant) -> bool:
        """Return whether this is the mutant."""
        mine = (mutant.file, mutant.within, " ".join(mutant.old.split()), " ".join(mutant.new.split()))
        return mutant.kind == "generated" and mine == (self.file, self.within, self.old, self.new)

    def __str__(self) -> str:
        return f"{self.file} {self.within}: {self.old} -> {self.new}"


def explained(place: Path) -> Sequence[Explained]:
    """Return what a file explains."""
    entries = tomllib.loads(place.read_text(encoding="utf-8")).get("survivor", [])
    return [Explained(**entry) for entry in entries]
