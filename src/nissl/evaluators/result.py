"""What an evaluator returns: numbers, figures, tables and arrays, with no idea of where they go.

Scalars carry the full metric name under which they are saved (`voi/split`, `knn_untrained/accuracy`), because one
evaluator may report several rows of the same table.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A picture with the numbers it was drawn from.

    Attributes:
        png: the image, PNG-encoded.
        caption: one or two sentences for the report: what is shown, units, data set.
        data: name -> array; written beside the picture as CSV (one- and two-dimensional) or npz.
    """

    png: bytes
    caption: str
    data: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def from_matplotlib(cls, figure: Any, caption: str, data: dict[str, np.ndarray] | None = None) -> Figure:
        """Render a `matplotlib.figure.Figure` (made without pyplot, so nothing global stays behind)."""
        buffer = io.BytesIO()
        # No metadata: the same figure gives the same bytes whichever matplotlib version date is stamped.
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        return cls(png=buffer.getvalue(), caption=caption, data=data or {})

    @classmethod
    def from_array(cls, image: np.ndarray, caption: str, data: dict[str, np.ndarray] | None = None) -> Figure:
        """Encode a (H, W, 3) uint8 image as it is, pixel for pixel."""
        from PIL import Image

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected a (H, W, 3) uint8 image, came {image.shape} {image.dtype}")
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png")
        return cls(png=buffer.getvalue(), caption=caption, data=data or {})


@dataclass(frozen=True)
class Result:
    """One evaluator's answer.

    Attributes:
        scalars: full metric name -> value; NaN where undefined.
        figures: name -> Figure; saved as `figures/<evaluator>_<name>.png`.
        tables: name -> rows (same keys in each); saved as `tables/<evaluator>_<name>.csv`.
        arrays: name -> array; saved together as `figures/<evaluator>.npz`.
        pages: name -> self-contained HTML; saved as `figures/<evaluator>_<name>.html` and shown inside the report.
        notes: sentences a reader must see beside the numbers: warnings, skipped checks with their reason.
    """

    scalars: dict[str, float]
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
