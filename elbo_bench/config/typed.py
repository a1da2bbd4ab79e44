"""Checks of values against type hints. The typed parameters of a component are the schema of its configuration."""

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
    """Return `value` in the type of `annotation` (a list becomes a tuple, 1 becomes 1.0).

    The check is strict: a string is not a number, True and 2.0 are not integers, and NaN is not accepted.

    Raises:
        ValueError: The value does not fit. The message is one line and says what is expected.
    """
    if annotation is inspect.Parameter.empty:
        annotation = Any
    try:
        return _adapter(annotation).validate_json(json.dumps(value))
    except TypeError:  # YAML can contain bytes
        raise ValueError("should be a plain value: a number, a string, true, false, null or a list") from None
    except pydantic.ValidationError as error:
        raise ValueError(_message(error)) from None


def check_fields(instance: Any) -> None:
    """Check the fields of a frozen dataclass against their type hints. Call it in `__post_init__`.

    Raises:
        ValueError: A field does not fit. The message is one line with the field, its value and what is expected.
    """
    # The hints of base classes apply, too: `num_samples: int = 8` in a subclass must still be positive.
    for kind in filter(dataclasses.is_dataclass, type(instance).__mro__):
        hints = _hints(kind)
        for field in dataclasses.fields(kind):
            value = getattr(instance, field.name)
            try:
                _adapter(hints[field.name]).validate_python(value)
            except pydantic.ValidationError as error:
                raise ValueError(f"{type(instance).__name__}.{field.name}={value!r}: {_message(error)}") from None


class CheckedFields:
    """Base of frozen dataclasses. A value of the wrong type or outside its range raises ValueError."""

    def __post_init__(self) -> None:
        check_fields(self)


def parameters(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters that can be passed to `target` by name, with their annotations."""
    signature = inspect.signature(target)
    # For a dataclass, take the hints of the class: those of the base classes are resolved in their own modules.
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
        # A dataclass or pydantic model has a configuration and does not accept another one.
        return pydantic.TypeAdapter(annotation)


def _message(error: pydantic.ValidationError) -> str:
    """Return the error in one line. The expectations of the members of a union are joined by `or`."""
    expected: list[str] = []
    for item in error.errors(include_url=False):
        index = "".join(f"[{part}]" for part in item["loc"] if isinstance(part, int))
        text = item["msg"].removeprefix("Input should be ")
        if text == item["msg"]:  # of another form, such as "Tuple should have at most 2 items"
            return f"{index}{': ' if index else ''}{text[0].lower()}{text[1:]}"
        expected.append(f"{index + ' ' if index else ''}{text}")
    return "should be " + " or ".join(dict.fromkeys(expected))
