"""Pictures of a search as inline SVG: value by trial, parallel coordinates, importance of each key."""

from __future__ import annotations

from typing import Any

import numpy as np

from nissl.runs.curves import decades, escaped, label, svg, ticks, widened

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 720, 320, 34, 26, 70
_FEW = 6  # different values that are marked themselves


def by_trial(numbers: list[int], values: list[float], direction: str) -> str:
    """The value of each complete trial, and the best so far."""
    best = np.minimum.accumulate(values) if direction == "minimize" else np.maximum.accumulate(values)
    x = np.array(numbers, dtype=float)
    return svg({"value": (x, np.array(values)), "best so far": (x, best)}, {"value": 0, "best so far": 1})


def parallel_coordinates(points: list[dict[str, Any]], values: list[float], metric: str, direction: str) -> str:
    """One line per trial across an axis per key; the last axis is the objective, whose rank gives the colour.

    Args:
        points: key -> value of each trial; the keys of the first are the axes.
        values: objective of each trial.
    """
    axes = {key: _axis([point.get(key) for point in points]) for key in points[0]}
    axes[metric] = _axis(values)
    across = np.linspace(_SIDE, _WIDTH - _SIDE, len(axes))
    title = f"{len(points)} trials over {', '.join(axes)}"
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(title)}">']
    order = np.argsort(np.argsort(values if direction == "minimize" else [-value for value in values]))
    for index in np.argsort(-order):  # the best is drawn last, on top
        places = [positions[index] for positions, _ in axes.values()]
        line = " ".join(
            f"{a:.1f},{_HEIGHT - _BOTTOM - b * (_HEIGHT - _TOP - _BOTTOM):.1f}"
            for a, b in zip(across, places, strict=True)
        )
        share = order[index] / max(1, len(values) - 1)
        colour = f"color-mix(in oklab, var(--series-1) {100 - 100 * share:.0f}%, var(--series-0))"
        name = f"{metric} {label(values[index])}"
        parts.append(
            f'<polyline class="path" style="stroke:{colour}" points="{line}"><title>{escaped(name)}</title></polyline>'
        )
    for a, (key, (_, marks)) in zip(across, axes.items(), strict=True):
        parts.append(f'<path class="axis" d="M{a:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        short = key if len(key) <= 22 else f"...{key[-20:]}"
        parts.append(f'<text x="{a:.1f}" y="18" text-anchor="middle">{escaped(short)}</text>')
        for text, place in marks:
            down = _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - _BOTTOM)
            parts.append(f'<text x="{a + 5:.1f}" y="{down + 4:.1f}">{escaped(text)}</text>')
    return "".join([*parts, "</svg>"])


def _axis(values: list[Any]) -> tuple[list[float], list[tuple[str, float]]]:
    """Heights in 0..1 of the values, and the marks of the axis; logarithmic where they span more than a factor 30."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        options = sorted({str(value) for value in values})
        height = {text: (i + 0.5) / len(options) for i, text in enumerate(options)}
        return [height[str(value)] for value in values], list(height.items())
    numbers = np.array(values, dtype=float)
    few = sorted(set(values))
    logarithmic = bool(numbers.min() > 0 and numbers.max() / numbers.min() > 30)
    scaled = np.log10(numbers) if logarithmic else numbers
    low, high = widened(float(scaled.min()), float(scaled.max()))
    if len(few) <= _FEW:
        places = np.log10(few) if logarithmic else np.array(few, dtype=float)
        marks = [(label(value), (place - low) / (high - low)) for value, place in zip(few, places, strict=True)]
    elif logarithmic:
        marks = [(label(10**tick), (tick - low) / (high - low)) for tick in decades(low, high)]
    else:
        marks = [(label(tick), (tick - low) / (high - low)) for tick in ticks(low, high)]
    return list((scaled - low) / (high - low)), marks


def bars(shares: dict[str, float]) -> str:
    """Horizontal bars of shares in 0..1."""
    row, left = 24, 250
    height = row * len(shares) + 6
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="importance of each key">']
    for index, (name, share) in enumerate(shares.items()):
        y = 4 + index * row
        width = max(1.0, share * (_WIDTH - left - 60))
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escaped(name)}</text>')
        parts.append(f'<rect class="bar" x="{left}" y="{y}" width="{width:.1f}" height="{row - 6}"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 14}">{share:.2f}</text>')
    return "".join([*parts, "</svg>"])
