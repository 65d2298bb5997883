"""What is said about data that does not validate: where, and what, but never the data."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, SecretStr, ValidationError, field_validator

from perago_worker.attempt.complaints import complaints

PRIVATE = "hunter2-hunter2"


class Inner(BaseModel):
    count: int
    key: SecretStr = SecretStr("")


class Outer(BaseModel):
    name: str
    inner: list[Inner] = []

    @field_validator("name")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 3:
            raise ValueError("is too long")
        return value


def complaint_about(data: object) -> str:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(data)
    return complaints(raised.value)


def test_every_problem_is_named_with_its_place() -> None:
    text = complaint_about({"inner": [{"count": 1}, {"count": "many"}]})

    assert text == (
        "name: Field required; inner.1.count: Input should be a valid integer, "
        "unable to parse string as an integer"
    )


def test_values_are_never_repeated() -> None:
    text = complaint_about({"name": PRIVATE, "inner": [{"count": PRIVATE, "key": [PRIVATE]}]})

    assert PRIVATE not in text
    assert "name: Value error, is too long" in text


def test_what_is_no_object_at_all_is_called_the_object() -> None:
    assert complaint_about("text").startswith("the object: Input should be a valid dictionary")


def test_other_errors_come_out_on_one_line() -> None:
    assert complaints(ValueError("two\n  lines")) == "two lines"
