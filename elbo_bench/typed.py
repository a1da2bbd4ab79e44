"""Checks of plain values against type hints: a component's typed parameters are the schema of its configuration."""

import dataclasses
import functools
import inspect
import json
import typing
from collections.abc import Callable
from typing import Any

import pydantic

_STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def check_value(value: Any, annotation: Any) -> Any:
    """Return `value`, in the type that `annotation` names (a list becomes a tuple, 1 becomes 1.0).

    Strict as JSON: a string is no number, True is no integer, 2.0 is no integer, NaN is no float.

    Raises:
        ValueError: One line that says what is expected.
    """
    if annotation is inspect.Parameter.empty:
        annotation = Any
    try:
        return _adapter(annotation).validate_json(json.dumps(value))
    except TypeError:  # YAML has bytes, too
        raise ValueError("should be a plain value: a number, a string, true, false, null or a list") from None
    except pydantic.ValidationError as error:
        raise ValueError(_message(error)) from None


def check_fields(instance: Any) -> None:
    """Check a frozen dataclass's fields against their type hints; for use in `__post_init__`.

    Raises:
        ValueError: One line that names the field, its value and what is expected.
    """
    # What a class says of a field binds those below it: `num_samples: int = 8` in a subclass is still a positive one.
    for kind in filter(dataclasses.is_dataclass, type(instance).__mro__):
        hints = _hints(kind)
        for field in dataclasses.fields(kind):
            value = getattr(instance, field.name)
            try:
                _adapter(hints[field.name]).validate_python(value)
            except pydantic.ValidationError as error:
                raise ValueError(f"{type(instance).__name__}.{field.name}={value!r}: {_message(error)}") from None


def parameters(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters that can be passed to `target` by name, with their annotations."""
    signature = inspect.signature(target)
    # A dataclass's own hints are resolved class by class: a base class may live in another module.
    annotated = target if dataclasses.is_dataclass(target) or not inspect.isclass(target) else target.__init__
    hints = typing.get_type_hints(annotated, include_extras=True)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: hints.get(name, inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if parameter.kind in by_name
    }


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def _adapter(annotation: Any) -> Any:
    try:
        return pydantic.TypeAdapter(annotation, config=_STRICT)
    except pydantic.PydanticUserError:
        # A dataclass or model brings its own configuration and refuses another one.
        return pydantic.TypeAdapter(annotation)


def _message(error: pydantic.ValidationError) -> str:
    """Join what each member of a union expected into one line."""
    expected: list[str] = []
    for item in error.errors(include_url=False):
        place = "".join(f"[{part}]" for part in item["loc"] if isinstance(part, int))
        text = item["msg"].removeprefix("Input should be ")
        if text == item["msg"]:  # of another form, such as "Tuple should have at most 2 items"
            return f"{place}{': ' if place else ''}{text[0].lower()}{text[1:]}"
        expected.append(f"{place + ' ' if place else ''}{text}")
    return "should be " + " or ".join(dict.fromkeys(expected))
