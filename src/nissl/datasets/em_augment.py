"""Augmentation of EM patches: one random draw for image and label together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Augment:
    """Axis permutations and reflections, and a linear change of grey values.

    Args:
        permutable_axes: axes (0 z, 1 y, 2 x) that may be exchanged: all of an isotropic volume, [1, 2] of sections.
        reflectable_axes: axes that may be mirrored, each with probability one half.
        contrast: the normalised image is multiplied by a factor uniform in 1 -+ contrast.
        brightness: and shifted by a value uniform in -+ brightness (standard deviations of the grey values).
    """

    def __init__(
        self, permutable_axes: Sequence[int], reflectable_axes: Sequence[int], contrast: float, brightness: float
    ) -> None:
        for name, axes in (("permutable_axes", permutable_axes), ("reflectable_axes", reflectable_axes)):
            if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
                raise ValueError(f"{name} must name different axes among 0 (z), 1 (y), 2 (x), came {list(axes)}")
        if not 0 <= contrast < 1 or brightness < 0:
            raise ValueError(f"contrast must be in [0, 1), brightness at least 0, came {contrast} and {brightness}")
        self.permutable_axes = sorted(permutable_axes)
        self.reflectable_axes = list(reflectable_axes)
        self.contrast, self.brightness = contrast, brightness

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image and label (Z, Y, X), changed alike; new arrays."""
        axes = [0, 1, 2]
        for axis, source in zip(self.permutable_axes, rng.permutation(self.permutable_axes), strict=True):
            axes[axis] = int(source)
        flips = [axis for axis, flip in zip(self.reflectable_axes, rng.random(3) < 0.5, strict=False) if flip]
        image, label = (np.flip(array.transpose(axes), tuple(flips)) for array in (image, label))
        factor = 1 + self.contrast * rng.uniform(-1, 1)
        shift = self.brightness * rng.uniform(-1, 1)
        return image * np.float32(factor) + np.float32(shift), label.copy()
