"""Check of JSON values against type annotations. Standard library only."""

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def fits(value: Any, kind: Any) -> bool:
    """True if `value`, parsed from JSON, is of the annotated type `kind`.

    `kind`: a plain type, None, Literal, a union, Sequence, Mapping, or a TypedDict without other keys. An integer is a
    float too; true and false are no numbers.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if origin is Sequence:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if is_typeddict(kind):
        kinds = get_type_hints(kind)
        has_keys = isinstance(value, dict) and kind.__required_keys__ <= value.keys() <= kinds.keys()
        return has_keys and all(fits(value[key], kinds[key]) for key in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
