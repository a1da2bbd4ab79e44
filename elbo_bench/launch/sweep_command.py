"""The `command` of a sweep file: what W&B's agent runs, and so what a trial here must be given, too."""

import os
import re

from elbo_bench.errors import UsageError, nearest

MACRO = "${args_no_hyphens}"
RIGHT = '["${env}", "${interpreter}", "-m", "elbo_bench", "train", "${args_no_hyphens}"]'


def read_command(where: str, command: object) -> tuple[list[str], list[str]]:
    """Return the `key=value` words and the `--conf` folders that a command adds to those of a trial.

    Raises:
        UsageError: It is not one that trains with this program, or it hands on the parameters in another way.
    """
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise UsageError(f"{where}: command must be a list of strings, such as {RIGHT}")
    words = [_with_environment(word) for word in command]
    rest = words[1:] if words[:1] == ["${env}"] else words
    for start in (["${interpreter}", "-m", "elbo_bench"], ["python", "-m", "elbo_bench"], ["elbo-bench"]):
        if rest[: len(start)] == start:
            rest = rest[len(start) :]
            break
    else:
        raise UsageError(f"{where}: command does not run elbo_bench; it would be {RIGHT}")
    if rest[:1] != ["train"]:
        raise UsageError(
            f"{where}: a trial is a `train`, not {rest[0] if rest else 'nothing'}; command would be {RIGHT}"
        )
    return _added(where, rest[1:])


def _added(where: str, words: list[str]) -> tuple[list[str], list[str]]:
    if words.count(MACRO) != 1:
        given = [word for word in words if word.startswith("${args")]
        prefix = f"{given[0]}: " if given and given[0] != MACRO else ""
        raise UsageError(f"{where}: command: {prefix}`train` takes key=value words, so it needs {MACRO}, once")
    added: list[str] = []
    folders: list[str] = []
    rest = [word for word in words if word != MACRO]
    while rest:
        word = rest.pop(0)
        if word == "--conf" and rest:
            folders.append(rest.pop(0))
        elif word.startswith("--conf="):
            folders.append(word.removeprefix("--conf="))
        elif re.match(r"[A-Za-z_][\w.]*=", word):
            added.append(word)
        else:
            raise UsageError(f"{where}: command: {word} is no key=value; {nearest(word, ['--conf', MACRO])}")
    return added, folders


def _with_environment(word: str) -> str:
    """Fill in `${envvar:NAME}` as the agent does: a variable that is not set leaves its name."""
    return re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda found: os.environ.get(found[1], found[1]), word)
