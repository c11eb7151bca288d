"""Several frame classifiers in one module: one per seed and day, or one per seed for all days.

The source presentation trained one network per day. Networks differ by their seed alone, so a comparison of days needs
several of each; trained side by side they are one run with one record. They share nothing: each has its own weights,
drawn from its own seed, and its own frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from nissl.models.stimulus_cnn import StimulusCNN

# B batch, M networks, K outputs


class StimulusNetworks(nn.Module):
    """A `StimulusCNN` per seed and day.

    Args:
        in_channels, num_outputs, channels, pool, head_pool, hidden, dropout, gap: of each, see `StimulusCNN`.
        seeds: one or more.
        days: names of the days, or a mapping from them.
        scope: per_day (a network per seed and day, seed by seed) or joint (one per seed).
        folds: of a cross-validation: a network for each; None is one split.
        leak_split: with a name, every network has a twin, of the same first weights, for the split that leaks.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        channels: Sequence[int],
        pool: Sequence[int],
        head_pool: int,
        hidden: int,
        dropout: float,
        gap: bool,
        seeds: Sequence[int],
        days: Sequence[str] | Mapping[str, float],
        scope: str,
        folds: int | None,
        leak_split: str | None,
    ) -> None:
        super().__init__()
        if not seeds:
            raise ValueError("no seeds: set dataset.network_seeds, such as [0,1,2], or use model=stimulus_cnn")
        if scope not in ("per_day", "joint"):
            raise ValueError(f"scope='{scope}' is unknown; choose per_day or joint")
        chosen: list[str | None] = list(days) if scope == "per_day" else [None]
        # (seed, day, fold, leaky), as in the source's `networks`.
        self.members: list[tuple[int, str | None, int, bool]] = []
        networks = []
        for seed in seeds:
            for place, day in enumerate(chosen):
                for fold in range(folds or 1):
                    for leaky in [False, True] if leak_split is not None else [False]:
                        self.members.append((int(seed), day, fold, leaky))
                        with torch.random.fork_rng(devices=[]):
                            torch.manual_seed(int(np.random.SeedSequence([int(seed), place]).generate_state(1)[0]))
                            networks.append(
                                StimulusCNN(in_channels, num_outputs, channels, pool, head_pool, hidden, dropout, gap)
                            )
        self.networks = nn.ModuleList(networks)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits (B, M, K): frames (B, M, in_channels, H, W) hold one for each network."""
        if frames.ndim != 5 or frames.shape[1] != len(self.networks):
            raise ValueError(
                f"expected frames (B, {len(self.networks)}, channels, H, W), one for each network, "
                f"came {tuple(frames.shape)}"
            )
        return torch.stack([network(frames[:, i]) for i, network in enumerate(self.networks)], dim=1)
