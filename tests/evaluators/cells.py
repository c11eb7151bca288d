"""A source of Gaussian blobs that looks like cells: what an evaluator of embeddings needs, in a screen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn


class Blobs:
    """Three classes of 6 features in three splits; each stands out by `spread` in two features."""

    def __init__(self, spread: float = 5.0, seed: int = 0, sizes: tuple[int, int, int] = (60, 15, 30)) -> None:
        rng = np.random.default_rng(seed)
        self.classes = ["a", "b", "c"]
        self._labels, self._x = {}, {}
        for name, size in zip(("train", "val", "test"), sizes, strict=True):
            self._labels[name] = np.arange(size) % 3
            x = rng.normal(size=(size, 6)).astype(np.float32)
            for c in range(3):
                x[self._labels[name] == c, 2 * c : 2 * c + 2] += spread
            self._x[name] = x

    def unaugmented(self, split: str, draw: int = 0) -> Any:
        """Other draws differ a little."""
        noise = np.random.default_rng(draw).normal(size=self._x[split].shape) * 0.3 * (draw > 0)
        return torch.utils.data.TensorDataset(torch.from_numpy((self._x[split] + noise).astype(np.float32)))

    def collate(self, items: list[Any]) -> torch.Tensor:
        return torch.stack([item[0] for item in items])

    def labels(self, split: str) -> np.ndarray:
        return self._labels[split]

    def cells(self, split: str) -> list[Any]:
        """Paths whose length tells the class a little."""
        rng = np.random.default_rng(len(split))
        lengths = rng.normal(10 + self._labels[split], 1.0)
        pos = [np.array([[0, 0, 0], [0, length, 0], [0, 2 * length, 1]]) for length in lengths]
        return [SimpleNamespace(pos=p, parent=np.array([-1, 0, 1])) for p in pos]


class Embedder(nn.Module):
    """Keeps the features when "trained"; random when reset."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(6))
            self.linear.bias.zero_()

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        return self.linear(batch)


def task_and_data(source: Any) -> tuple[Any, Any]:
    return SimpleNamespace(model=Embedder()), SimpleNamespace(source=source, batch_size=8)
