"""Self-contained HTML pages from the templates beside this file: no script, no external address."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def render_page(template: str, **values: Any) -> str:
    """Fill `templates/<template>.html.j2`; every value is escaped unless it is marked as markup."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{template}.html.j2").render(**values)
