"""From JSON to a body's params, and from what it returns back to JSON.

Both are validated by the author's models, whose validators and serialisers are the author's code:
whatever goes wrong in there comes out as a `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel


def from_json(raw: object, model: type[BaseModel], *, extra_allowed: bool) -> BaseModel:
    """Validate `raw` and return the instance of `model` that it describes.

    Args:
        raw: What `json.loads` returned.
        model: Its own word on unknown fields does not count, nor that of models within it.
        extra_allowed: Ignore unknown fields at every level, or else refuse them.

    Raises:
        ValueError: `raw` is not valid; a `pydantic.ValidationError`, unless a validator failed.
    """
    with _only_value_errors(model):
        return model.model_validate(raw, extra="ignore" if extra_allowed else "forbid")


def to_json(value: object, model: type[BaseModel]) -> dict[str, Any]:
    """Validate `value` against `model` and return it as what `json.dumps` turns into strict JSON.

    An instance is validated again, down to the models it holds: pydantic does not look at what is
    assigned to a field later, nor at what `model_construct` is given.

    Args:
        value: An instance of `model`, or data for one. Unknown fields are errors, at every level.
        model: Fields come out under their aliases, as in the JSON schema.

    Raises:
        ValueError: `value` is not valid (then a `pydantic.ValidationError`), contains NaN or an
            infinite number, contains itself, or holds something that has no form in JSON.
    """
    with _only_value_errors(model):
        checked = model.model_validate(_as_data(value), extra="forbid", by_alias=True, by_name=True)
        result = checked.model_dump(mode="json", by_alias=True)
        # Asked of both: on its way to JSON pydantic turns some of these numbers into null.
        odd = next(_non_finite(_dump(checked)), None) or next(_non_finite(result), None)
    if odd:
        where, number = odd
        raise ValueError(f"{model.__name__}{where} is {number}, which JSON cannot express")
    return result


@contextmanager
def _only_value_errors(model: type[BaseModel]) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise
    except RecursionError:
        raise ValueError(f"{model.__name__}: nested too deeply, or contains itself") from None
    except Exception as error:  # the author's validators and serialisers may raise anything
        raise ValueError(f"{model.__name__}: {type(error).__name__}: {error}") from error


def _as_data(value: Any) -> Any:
    """Take models apart into what they were made from, so that they are validated again."""
    if isinstance(value, BaseModel):
        # Not model_dump(): it leaves out excluded fields, adds computed ones and serialises.
        set_fields = value.__dict__  # holds cached properties too; model_construct() leaves gaps
        fields = {name: set_fields[name] for name in type(value).model_fields if name in set_fields}
        return {name: _as_data(item) for name, item in (fields | (value.model_extra or {})).items()}
    if type(value) is dict:
        return {key: _as_data(item) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(_as_data(item) for item in value)
    return value


def _dump(model: BaseModel) -> dict[str, Any]:
    try:
        return model.model_dump(by_alias=True)
    except TypeError:  # a set of models cannot be dumped as a set of dictionaries
        return {name: _as_data(getattr(model, name)) for name in type(model).model_fields}


def _non_finite(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _non_finite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from _non_finite(item, f"{where}[{index}]")
