"""Words that the glossary replaces do not come back into code, messages, configuration or documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for folder, pattern in [
        ("elbo_bench", "**/*.py"),
        ("elbo_bench", "**/*.html"),
        ("conf", "**/*.yaml"),
        ("sweeps", "*.yaml"),
        ("docs", "*.md"),
        (".", "*.md"),
    ]
    for path in (ROOT / folder).glob(pattern)
)

AVOIDED = {
    r"places?": "path",
    r"whole": "complete, full, all",
    r"tells?|told": "log, say",
    r"apart": "separate, different",
    r"asks|asked": "needs, requests",
    r"lacking|lacks": "missing",
    r"left[ _]out|leaves[ _]out": "excluded",
    r"pinned|pinning": "resolved, with a content hash",
}
"""Regular expressions of words, and what to write instead."""

ALLOWED = (
    r"whole numbers?",  # an integer, in messages for users
    r"\.tell\(\)",  # of a file
    r"`(?:bound_left_out|pinned_sha256)`",  # old names, in the changelog
)

_AVOIDED = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(AVOIDED)})(?![A-Za-z])", re.IGNORECASE)
_ALLOWED = re.compile("|".join(ALLOWED), re.IGNORECASE)


def found(text: str) -> list[str]:
    """Return the lines with an avoided word, with their numbers."""
    hits = []
    for match in _AVOIDED.finditer(_ALLOWED.sub(lambda allowed: "-" * len(allowed[0]), text)):
        number = text.count("\n", 0, match.start()) + 1
        hits.append(f"{number}: {text.splitlines()[number - 1].strip()}")
    return hits


def test_no_avoided_word() -> None:
    hits = {
        path.relative_to(ROOT).as_posix(): lines
        for path in FILES
        if path.name != "glossary.md"  # names them, to say what to write instead
        and (lines := found(path.read_text(encoding="utf-8")))
    }
    assert hits == {}


def test_an_avoided_word_is_found() -> None:
    assert found("a\nthe whole place = 3\nwhole number\nleft_out\nreplace, replaced") == [
        "2: the whole place = 3",
        "2: the whole place = 3",
        "4: left_out",
    ]
