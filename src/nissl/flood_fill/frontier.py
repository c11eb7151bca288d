"""The positions that an object may move to next, and the cells of the delta grid it has been to.

Source: google/ffn (inference/movement.py), whose queue is first in, first out. `strongest_first` is ours: the most
certain position anywhere next, so that an object is filled before its doubtful ends are tried.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

import numpy as np

from nissl.flood_fill.movement import Triple, grid_cell

ORDERS = ("first_found", "strongest_first")


class Frontier:
    """Moves of one object, proposed and taken.

    Args:
        deltas_zyx: cells of the grid around the start; each is moved to once.
        order: "first_found" or "strongest_first".
    """

    def __init__(self, deltas_zyx: Triple, order: str = "first_found") -> None:
        if order not in ORDERS:
            raise ValueError(f"move_order must be one of {list(ORDERS)}, came {order!r}")
        self.deltas, self.order = deltas_zyx, order
        self.start: Triple = (0, 0, 0)
        self._queue: deque[tuple[float, int, Triple]] = deque()
        self._heap: list[tuple[float, int, Triple]] = []
        self._visited: set[Triple] = set()
        self._count = 0  # proposals so far; decides between equal scores, the earlier first

    def begin(self, start: Triple) -> None:
        """Forget the last object; the first move is at `start`."""
        self.clear()
        self._visited.clear()
        self.start, self._count = start, 0
        self.propose(float("inf"), start)

    def propose(self, score: float, position: Triple) -> None:
        entry = (-score, self._count, position)
        self._count += 1
        if self.order == "first_found":
            self._queue.append(entry)
        else:
            heapq.heappush(self._heap, entry)

    def pop(self) -> Triple | None:
        """The next position in a cell that the object has not been to; None when there is none."""
        while self._queue or self._heap:
            _, _, position = self._queue.popleft() if self._queue else heapq.heappop(self._heap)
            if grid_cell(position, self.start, self.deltas) not in self._visited:
                return position
        return None

    def mark(self, position: Sequence[int]) -> None:
        """The object has moved to `position`."""
        self._visited.add(grid_cell(position, self.start, self.deltas))

    def clear(self) -> None:
        """Drop what is proposed."""
        self._queue.clear()
        self._heap.clear()

    def state(self) -> dict[str, np.ndarray]:
        """Everything as arrays, for a checkpoint."""
        entries = [*self._queue, *self._heap]
        return {
            "start": np.asarray(self.start, np.int64),
            "count": np.asarray(self._count, np.int64),
            "scores": np.asarray([entry[0] for entry in entries], np.float64),
            "turns": np.asarray([entry[1] for entry in entries], np.int64),
            "positions": np.asarray([entry[2] for entry in entries], np.int64).reshape(-1, 3),
            "visited": np.asarray(sorted(self._visited), np.int64).reshape(-1, 3),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave; the order must be the same."""
        self.clear()
        z, y, x = state["start"].tolist()
        self.start, self._count = (z, y, x), int(state["count"])
        rows = zip(state["scores"].tolist(), state["turns"].tolist(), state["positions"].tolist(), strict=True)
        # A heap's list is a heap again in the same order.
        entries = [(score, turn, (p[0], p[1], p[2])) for score, turn, p in rows]
        if self.order == "first_found":
            self._queue.extend(entries)
        else:
            self._heap.extend(entries)
        self._visited = {(z, y, x) for z, y, x in state["visited"].tolist()}
