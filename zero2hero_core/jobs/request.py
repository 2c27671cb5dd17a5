"""Requests of jobs are frozen dataclasses, some within others; here they are made from plain values by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from ..checks import InputError, setting

Request = TypeVar("Request")


def make_request(kind: type[Request], values: Mapping[str, Any]) -> Request:
    """A request of a kind from values by name; a request within it takes its values from the same names, unless it has
    a default of its own: then it is given whole, or not at all.

    Names that the request does not know are passed over; see `check_names`. Raises: InputError for one that is missing,
    and what the request itself refuses.
    """
    hints, arguments = get_type_hints(kind), {}
    for field in fields(kind):  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
        inner = hints[field.name]
        if is_part(field, inner):
            whole = values.get(field.name)
            arguments[field.name] = whole if isinstance(whole, inner) else make_request(inner, values)
        elif field.name in values:
            arguments[field.name] = values[field.name]
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{setting(field.name)}: is needed; give it.")
    return kind(**arguments)


def request_names(kind: type[Any]) -> list[str]:
    """The names that a request of a kind knows, those of the requests within it too."""
    hints, names = get_type_hints(kind), []
    for field in fields(kind):
        inner = hints[field.name]
        names += request_names(inner) if is_part(field, inner) else [field.name]
    return names


def is_part(field: Field[Any], kind: Any) -> bool:
    """Whether the value of a field is a request whose values are named beside those of the whole."""
    return isinstance(kind, type) and is_dataclass(kind) and field.default_factory is MISSING


def check_names(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Raise `InputError` for a name that a request of a kind does not know."""
    names = request_names(kind)
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}."
            raise InputError(f"{name}: is no setting here; {advice}")


def flat_values(request: Any) -> dict[str, Any]:
    """The values of a request by name, those of its parts too."""
    values: dict[str, Any] = {}
    for field in fields(request):
        value = getattr(request, field.name)
        values |= flat_values(value) if is_part(field, type(value)) else {field.name: value}
    return values
