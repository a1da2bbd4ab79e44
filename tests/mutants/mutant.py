"""What a mutant is: one mistake, in one place of one file."""

import dataclasses
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal


class MisplacedError(ValueError):
    """A planted mistake does not fit the program any more: a refactor must not switch one off in silence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mistake.

    Attributes:
        kind: Whether someone thought of it or a rule made it.
        name: What it is called in the report.
        file: The file that it is in, from the root of the repository.
        at: Where `old` begins in the text of that file.
        old: What stands there.
        new: What is put there.
        within: The function that it is in, empty outside of any.
        tests: What is run first, as pytest's arguments, before the other law tests.
    """

    kind: Literal["planted", "generated"]
    name: str
    file: str
    at: int
    old: str
    new: str
    within: str = ""
    tests: tuple[str, ...] = ()

    def applied(self, text: str) -> str:
        """Return the text of the file with the mistake in it."""
        assert text[self.at :].startswith(self.old)
        return text[: self.at] + self.new + text[self.at + len(self.old) :]


def located(root: Path, test: str) -> str | None:
    """Return a test with the path of its file below `tests`, or None if there is no such file."""
    file, colons, name = test.partition("::")
    found = next((root / "tests").rglob(file), None)
    return None if found is None else f"{found.relative_to(root / 'tests').as_posix()}{colons}{name}"


def planted(root: Path, places: Sequence[Path]) -> Iterator[Mutant]:
    """Yield the mistakes that are written down in TOML files.

    Raises:
        MisplacedError: A text that one is to replace does not stand in its file exactly once, or two have one name.
    """
    names: set[str] = set()
    for place in places:
        for entry in tomllib.loads(place.read_text(encoding="utf-8"))["mistake"]:
            name, file, old, new = entry["name"], entry["file"], entry["old"], entry["new"]
            if name in names:
                raise MisplacedError(f"{place.name}: two mistakes are called '{name}'")
            names.add(name)
            if not (root / file).is_file():
                raise MisplacedError(f"{place.name}: '{name}' is for {file}, which does not exist")
            text = (root / file).read_text(encoding="utf-8")
            if (count := text.count(old)) != 1:
                raise MisplacedError(f"{place.name}: what '{name}' replaces stands {count} times in {file}, not once")
            if old == new:
                raise MisplacedError(f"{place.name}: '{name}' changes nothing")
            for test in entry.get("tests", ()):
                if located(root, test) is None:
                    raise MisplacedError(f"{place.name}: '{name}' is for {test}, which does not exist")
            yield Mutant(
                kind="planted",
                name=name,
                file=file,
                at=text.index(old),
                old=old,
                new=new,
                tests=tuple(test for test in (located(root, test) for test in entry.get("tests", ())) if test),
            )
