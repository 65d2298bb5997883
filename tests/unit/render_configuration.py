"""Renders the tables of docs/configuration.md from the settings models.

    python -m tests.unit.render_configuration

writes them anew between the markers of the page, and leaves the rest of it as it is.
`test_docs.py` fails while the page and the models differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from perago_worker.config.schema import SECTIONS, expectation
from perago_worker.config.settings import Section, TaskSettings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN = "<!-- The rest of this page is made by: python -m tests.unit.render_configuration -->"
END = "<!-- Made until here. -->"


def page() -> str:
    """Return the page with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """Return one heading and one table for every section and kind."""
    models = [
        (f'[{section}] with kind = "{kind}"' if kind else f"[{section}]", section, model)
        for section, kinds in SECTIONS.items()
        for kind, model in kinds.items()
    ]
    parts = [_table(title, model, section) for title, section, model in models]
    return "\n".join([*parts, _table('[tasks."NAME"]', TaskSettings, "")])


def _table(title: str, model: type[Section], section: str) -> str:
    _, _, about = _one_line(model.__doc__).partition(": ")
    rows = (_row(section, key, info) for key, info in model.model_fields.items())
    heading = "| Key | Value | Default | Meaning |\n|---|---|---|---|\n"
    return f"## `{title}`\n\n{about[:1].upper()}{about[1:]}\n\n{heading}{''.join(rows)}"


def _row(section: str, key: str, info: FieldInfo) -> str:
    variable = f"<br>`PERAGO_{section.upper()}__{key.upper()}`" if section else ""
    cells = (f"`{key}`{variable}", expectation(info), _default(info), _one_line(info.description))
    return "".join(f"| {cell} " for cell in cells) + "|\n"


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "required"
    return "not set" if info.default is None else f"`{_as_toml(info.default, info)}`"


def _as_toml(value: Any, info: FieldInfo) -> str:
    if isinstance(value, float) and "duration" in expectation(info):
        return f'"{value:g}s"'
    if isinstance(value, tuple):
        return f"[{', '.join(_as_toml(item, info) for item in value)}]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
