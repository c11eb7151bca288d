"""Learning curves as small inline SVG: colours from the page's style, so they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 26
_MAX_POINTS = 500  # more than a pixel each
_PHASES = ("train", "val", "test")
NUM_COLOURS = 8  # of the page's style; more lines than that repeat them


@dataclass(frozen=True)
class Chart:
    """One picture: the metrics that share a meaning (train/loss, val/loss) over the optimizer step."""

    title: str
    names: list[str]
    svg: Any


def charts(rows: Iterable[dict[str, Any]], bookkeeping: Iterable[str] = ("step", "epoch", "time")) -> list[Chart]:
    """Charts of the rows of metrics.jsonl; `train/x` and `val/x` share one, `system/...` comes last.

    Args:
        rows: one per step, ascending; NaN breaks a line.
    """
    from markupsafe import Markup

    series = by_metric(rows, bookkeeping)
    grouped: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in sorted(series, key=lambda name: (name.startswith("system/"), name)):
        phase, _, what = name.partition("/")
        title = what if phase in _PHASES and what else name
        grouped.setdefault(title, {})[name] = series[name]
    return [Chart(title, list(lines), Markup(svg(lines))) for title, lines in grouped.items()]


def by_metric(
    rows: Iterable[dict[str, Any]], bookkeeping: Iterable[str] = ("step", "epoch", "time")
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metric -> (steps, values) of rows of metrics.jsonl."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in bookkeeping:
                steps, values = series.setdefault(name, ([], []))
                steps.append(float(row["step"]))
                values.append(float(value))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in series.items()}


def svg(lines: dict[str, tuple[np.ndarray, np.ndarray]], colours: dict[str, int] | None = None) -> str:
    """Curves over one pair of axes; the y axis is logarithmic where positive values span more than a factor of 100.

    Args:
        lines: name -> (x, y), x ascending.
        colours: name -> number of its colour; default: in order.
    """
    x_all = np.concatenate([x for x, _ in lines.values()])
    y_all = np.concatenate([y for _, y in lines.values()])
    finite = y_all[np.isfinite(y_all)]
    if not len(finite):
        return f'<svg viewBox="0 0 {_WIDTH} 40" role="img"><text x="8" y="24">no finite value</text></svg>'
    logarithmic = bool(finite.min() > 0 and finite.max() / finite.min() > 100)
    x_low, x_high = widened(float(x_all.min()), float(x_all.max()))
    scaled = np.log10(finite) if logarithmic else finite
    y_low, y_high = widened(float(scaled.min()), float(scaled.max()))

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return across, down

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{", ".join(map(escaped, lines))} over step">'
    ]
    for tick in decades(y_low, y_high) if logarithmic else ticks(y_low, y_high):
        _, (down,) = place(np.zeros(1), np.array([tick]))
        text = label(10**tick if logarithmic else tick)
        parts.append(f'<line class="gridline" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{down + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in ticks(x_low, x_high):
        (across,), _ = place(np.array([tick]), np.zeros(1))
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{label(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    for index, (name, (x, y)) in enumerate(lines.items()):
        colour = (index if colours is None else colours[name]) % NUM_COLOURS
        shown = np.where(y > 0, y, np.nan) if logarithmic else y
        across, down = place(x, np.log10(shown) if logarithmic else shown)
        for piece_x, piece_y in _pieces(*_thinned(across, down)):
            title = f"<title>{escaped(name)}</title>"
            if len(piece_x) == 1:
                circle = f'<circle class="f{colour}" cx="{piece_x[0]:.1f}" cy="{piece_y[0]:.1f}" r="2.5">'
                parts.append(f"{circle}{title}</circle>")
            else:
                points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(piece_x, piece_y, strict=True))
                parts.append(f'<polyline class="series s{colour}" points="{points}">{title}</polyline>')
    return "".join([*parts, "</svg>"])


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest point of each bin, so that no spike is lost."""
    if len(x) <= _MAX_POINTS:
        return x, y
    kept: list[int] = []
    for bin_ in np.array_split(np.arange(len(x)), _MAX_POINTS // 2):
        values = y[bin_]
        if np.isnan(values).all():
            kept.append(int(bin_[0]))
        else:
            kept += sorted({int(bin_[np.nanargmin(values)]), int(bin_[np.nanargmax(values)])})
    return x[kept], y[kept]


def _pieces(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Runs of finite values."""
    finite = np.isfinite(y)
    for piece in np.split(np.arange(len(x)), np.flatnonzero(np.diff(finite)) + 1):
        if len(piece) and finite[piece[0]]:
            yield x[piece], y[piece]


def widened(low: float, high: float) -> tuple[float, float]:
    """Limits with room for a flat line."""
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low, high


def ticks(low: float, high: float, count: int = 5) -> np.ndarray:
    """Round numbers inside the limits."""
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    return ticks if len(ticks) else np.array([low])


def decades(low: float, high: float) -> np.ndarray:
    """Powers of ten inside logarithmic limits; where there is only one or none, 2 and 5 as well."""
    whole = np.arange(math.ceil(low), math.floor(high) + 1, dtype=float)
    if len(whole) >= 2:
        return whole[:: max(1, len(whole) // 6)]
    finer = np.add.outer(np.arange(math.floor(low), math.ceil(high) + 1), np.log10([1, 2, 5])).ravel()
    return finer[(finer >= low) & (finer <= high)]


def label(value: float) -> str:
    if value == 0 or abs(value) < 1e-12:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}"


def escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))
