"""Dataclasses that check their values: each field is annotated with its range, and one base class checks them all.

>>> @dataclass(frozen=True)
... class Settings(CheckedFields):
...     epochs: PositiveInt = 20
...     dropout: Annotated[Share, "of the decoder"] = 0.0
>>> Settings(epochs=0)
ValueError: epochs: expected a whole number of at least 1, got 0
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from gdino_lib.messages import shown

_Checked = TypeVar("_Checked", bound="CheckedFields")


@dataclass(frozen=True)
class Range:
    """The range of a field's numbers.

    Attributes:
        least: the smallest number; excluded if `above` is set.
        most: the largest number; excluded if `below` is set.
        above: numbers must be larger than `least`.
        below: numbers must be smaller than `most`.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        enough = value > self.least if self.above else value >= self.least
        return enough and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        if self.most == math.inf:
            return "" if self.least == -math.inf else f" {'above' if self.above else 'of at least'} {self.least}"
        if self.above or self.below:
            low, high = "above" if self.above else "of at least", "below" if self.below else "at most"
            return f" {low} {self.least} and {high} {self.most}"
        return f" in {self.least}..{self.most}"


LARGEST = 10**9  # limit of whole numbers whose range has no upper end; nothing that is counted here comes near it

PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, above=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**64 - 1)]  # what torch.manual_seed takes


@dataclass(frozen=True)
class CheckedFields:
    """Base of frozen dataclasses; when an object is made, its values are checked against the annotations.

    A field is a `bool`, `int`, `float` (which includes whole numbers), `str`, `Literal`, `tuple[X, ...]`, `Mapping[str, X]`,
    or another such dataclass. `Annotated[X, Range(...)]` bounds a number; this X can also stand in a tuple or a mapping.
    Only Python's own number types are accepted, because a checkpoint stores them as JSON; NaN and infinity are refused.
    JSON has neither tuples nor dataclasses, so a list becomes a tuple and a dictionary becomes a dataclass.

    Raises:
        ValueError: a value of another type or out of its range; one line with the field's name, what was expected, and the
            value.
    """

    _unknown: ClassVar[str] = "unknown fields"  # beginning of the message about unknown fields

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = _from_json(getattr(self, name), hint)
            object.__setattr__(self, name, value)
            _check(name, value, hint)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls: type[_Checked], values: Mapping[str, Any]) -> _Checked:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown field, or a value that its field does not accept.
        """
        unknown = sorted(set(values) - {entry.name for entry in fields(cls)})
        if unknown:
            raise ValueError(f"{cls._unknown}: {', '.join(unknown)}")
        return cls(**values)


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    """The annotation of each field."""
    hints = get_type_hints(kind, include_extras=True)
    return {entry.name: hints[entry.name] for entry in fields(kind)}


def _from_json(value: Any, hint: Any) -> Any:
    """The value as its field stores it: a list as a tuple, a mapping as a copy, a dictionary as the field's dataclass."""
    kind = _without_extras(hint)[0]
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(value)
    if get_origin(kind) is Mapping and isinstance(value, Mapping):
        return dict(value)
    if isinstance(kind, type) and issubclass(kind, CheckedFields) and isinstance(value, dict):
        return kind.from_dict(value)
    return value


def _check(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that `hint` does not allow."""
    kind, limits = _without_extras(hint)
    if get_origin(kind) is tuple and isinstance(value, tuple):
        for part in value:
            _check(name, part, get_args(kind)[0])
    elif get_origin(kind) is Mapping and isinstance(value, Mapping):
        for key, part in value.items():
            _check(name, key, get_args(kind)[0])
            _check(name, part, get_args(kind)[1])
    elif not _is_of(value, kind) or (isinstance(value, int | float) and value not in limits):
        raise ValueError(f"{name}: expected {_words(kind, limits)}, got {shown(value)}")
    elif kind is int and limits.most == math.inf and value > LARGEST:
        raise ValueError(f"{name}: expected at most {LARGEST}, got {shown(value)}")


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(kind, type) and isinstance(value, kind)


def _words(kind: Any, limits: Range) -> str:
    """What a field accepts, in words for a message."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        part, of = _without_extras(get_args(kind)[0])
        return f"a list, each {_words(part, of)}"
    if get_origin(kind) is Mapping:
        part, of = _without_extras(get_args(kind)[1])
        return f"names with {_words(part, of)} each"
    if kind is float:
        return f"a {'finite ' * math.isinf(limits.most)}number{limits}"
    return {int: f"a whole number{limits}", bool: "True or False", str: "text"}.get(kind) or kind.__name__


def _without_extras(hint: Any) -> tuple[Any, Range]:
    """(the plain type, the range) of an annotation."""
    if get_origin(hint) is not Annotated:
        return hint, Range()
    kind, *extras = get_args(hint)
    return kind, next((extra for extra in extras if isinstance(extra, Range)), Range())
