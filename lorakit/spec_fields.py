"""Types of a spec's fields, each with its limits and the words for them, and the decorator that checks them."""

from __future__ import annotations

from dataclasses import fields
from functools import partial, wraps
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, Strict, ValidationError
from pydantic.dataclasses import dataclass

from lorakit.names import near, resolve_name

T = TypeVar("T")
SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)


class SpecError(ValueError):
    """A field of a spec has a value that cannot be run."""


def allowed(words: str) -> Any:
    """What a field may be, in the words of its error; beside `Annotated[type, …]`."""
    return Field(description=words)


def pinned(kind: str) -> Any:
    """A name of this kind, pinned to its content; beside `Annotated[str, …]`, with `CHECK_DEFAULT`."""
    return PlainValidator(partial(resolve_name, kind))


CHECK_DEFAULT = Field(validate_default=True)
Name = Annotated[str, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0, lt=2**63), allowed("a whole number of 0 or more")]
Count = Annotated[int, Strict(), Field(ge=1, lt=2**63), allowed("a whole number of 1 or more")]
CountOrNone = Annotated[Count | None, allowed("a whole number of 1 or more, or None")]
Number = Annotated[float, Strict()]
Positive = Annotated[Number, Field(gt=0), allowed("a number above 0")]
NotNegative = Annotated[Number, Field(ge=0), allowed("0 or more")]
Decay = Annotated[Number, Field(ge=0, lt=1), allowed("0 up to, not including, 1")]
Flag = Annotated[bool, Strict(), allowed("True or False")]
Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def spec(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields pydantic checks; an error is a SpecError in our words."""
    made: Any = dataclass(frozen=True, kw_only=True, config=SETTINGS)(cls)
    check = made.__init__

    @wraps(check)
    def checked(self: Any, **given: Any) -> None:
        try:
            check(self, **given)
        except ValidationError as error:
            raise _in_words(made, given, error) from None

    made.__init__ = checked
    return made


def require(spec: object, field: str, ok: bool, words: str) -> None:
    """Raise the SpecError of a field unless it is as the others ask; `words` says what is allowed."""
    if not ok:
        raise refusal(field, getattr(spec, field), words)


def refusal(field: str, value: object, words: str) -> SpecError:
    """The error of a value that cannot be run: what was given, and what is allowed."""
    return SpecError(f"{field}={shown(value)} cannot be run; allowed: {words}")


def _in_words(cls: Any, given: dict[str, Any], error: ValidationError) -> SpecError:
    found = error.errors(include_url=False, include_input=False)
    first = min(found, key=lambda one: one["type"] == "missing")  # a misspelt field comes before the one that it lacks
    if first["type"] == "value_error":  # of a check that spans several fields
        return first["ctx"]["error"]
    name, known = str(first["loc"][0]), [field.name for field in fields(cls)]
    if name not in known:
        return SpecError(f"{cls.__name__} has no field {name!r}; {near(name, known)}fields: {', '.join(known)}")
    info = cls.__pydantic_fields__[name]
    words = info.description or ", ".join(get_args(info.annotation))
    if name not in given:
        return SpecError(f"{cls.__name__} needs {name}: {words}")
    return refusal(name, given[name], words)


def non_defaults(spec: Any) -> dict[str, Any]:
    """The fields of a spec that differ from their defaults, also within its adapter."""
    return spec.__pydantic_serializer__.to_python(spec, exclude_defaults=True)


def shown(value: object) -> str:
    """The value as an error prints it: short, whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "<a whole number of thousands of digits>"
    return text if len(text) <= 200 else f"{text[:200]}…"
