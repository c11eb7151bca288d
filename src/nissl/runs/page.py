"""Self-contained HTML pages from the templates beside this file: no external address; a script only filters rows."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
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


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def csv_link(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The numbers of a picture as an address that the page carries inside itself."""
    return "data:text/csv;base64," + base64.b64encode(csv_text(header, rows).encode()).decode()
