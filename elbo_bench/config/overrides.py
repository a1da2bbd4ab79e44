"""Reading and writing the `key=value` words of a command line. `compose` checks names and values."""

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from elbo_bench.config.catalogue import Catalogue, Config, parse_yaml
from elbo_bench.errors import UsageError


def parse_overrides(tokens: Sequence[str], catalogue: Catalogue) -> Config:
    """Return `key=value` words as a nested mapping. `objective=iwae` means `objective.name=iwae`.

    Raises:
        UsageError: A word is malformed, or a key is given twice.
    """
    groups, nested = catalogue.groups(), {}  # type: set[str], Config
    for token, key, value in itertools.chain.from_iterable(map(_leaves, tokens)):
        path = key.split(".")
        if path[-1] == "target":
            raise UsageError(
                f"{key}: a target cannot be set from the command line; write a YAML and give its folder by --conf DIR"
            )
        if path[-1] in groups and not isinstance(value, dict):
            path.append("name")
        node = nested
        for depth, part in enumerate(path[:-1]):
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(f"{token}: {'.'.join(path[: depth + 1])} already has the value {node!r}")
        if path[-1] in node:
            raise UsageError(f"{key} is given twice")
        node[path[-1]] = value
    return nested


def write_override(key: str, value: Any) -> str:
    """Return a `key=value` word that `parse_overrides` reads as this value."""
    if isinstance(value, str) and value.isprintable():
        with contextlib.suppress(UsageError):
            if _read(value, key) == value:
                return f"{key}={value}"
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    """Return a value as YAML on one line, in ASCII, with strings in double quotes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_written(key)}: {_written(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    style = '"' if isinstance(value, str) else None
    scalar: str = yaml.safe_dump(value, default_style=style, width=math.inf)
    return scalar.split("\n")[0]  # the next line is `...`, the end of the document


def _leaves(token: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (token, key, value) of `key=value`. `key={a: 1, b: 2}` gives the same as `key.a=1 key.b=2`."""
    key, equals, text = token.partition("=")
    value = _read(text, token)
    if isinstance(value, int | float) and re.match(r"\s*[-+]?(0[0-9_]|.*:)", text):
        raise UsageError(f"{token}: YAML takes this for the number {value}; write that, or a string in quotes")
    below = [(key, value)]
    while below:
        key, value = below.pop()
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise UsageError(f"'{token}' is not of the form key=value, such as objective=iwae or optimizer.lr=1e-3")
        if isinstance(value, dict) and value:
            below += [(f"{key}.{inner}", inside) for inner, inside in value.items()]
        else:
            yield token, key, value


def _read(text: str, where: str) -> Any:
    """Return the value of a text: YAML, except that an unquoted string keeps its exact characters.

    YAML itself would cut `pics #2` at the comment, and reject `b: c` and `@pics`.

    Raises:
        UsageError: The text is neither YAML nor an unquoted string. The message begins with `where`.
    """
    if len(f"{text}.".splitlines()) > 1:  # in YAML a second line is another key
        return text
    plain = not re.match(r"\s*['\"\[{]", text)
    try:
        value = parse_yaml(f"value: {_with_nulls(text)}", where)["value"]
    except UsageError:
        if plain and text.isprintable() and not re.fullmatch(r"\s*[-+]?\d[\d_]*\s*", text):  # too many digits
            return text
        # libyaml rejects half of a surrogate pair. OmegaConf rejects an incomplete `${`; `config.resolve` reports it.
        if re.search(r"\\u[dD][89a-fA-F]|\$\{", text):
            with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
                return yaml.safe_load(text)
        raise
    is_comment = value is None and text.lstrip().startswith("#")
    return text if plain and (isinstance(value, str) or is_comment) else value


def _with_nulls(text: str) -> str:
    """Replace each unquoted `None` in YAML by `null`, because W&B's agents write values in Python syntax."""
    tokens: list[yaml.Token] = []
    if "None" in text:
        with contextlib.suppress(yaml.YAMLError):
            tokens += yaml.scan(text)
    for token in reversed(tokens):
        if isinstance(token, yaml.ScalarToken) and token.plain and token.value == "None":
            text = f"{text[: token.start_mark.index]}null{text[token.end_mark.index :]}"
    return text
