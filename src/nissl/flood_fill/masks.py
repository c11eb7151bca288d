"""Where objects may not go: masks from files, and jumps between sections.

A mask is a (Z, Y, X) bool array, True = forbidden. `nissl.flood_fill.canvas` asks it for the centre of each field of
view, so whatever must hold for the whole field of view is spread here first. Source: google/ffn
(inference/inference_utils.py and movement.py); its evaluated coordinate expressions are replaced by boxes in a file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nissl.volumes.irregularities import known_everywhere, missing_sections, shift_field


def blocked_by_shift(
    shift_yx: np.ndarray,
    shape_zyx: Sequence[int],
    step: int,
    threshold: float,
    reach_zyx: Sequence[int],
) -> np.ndarray:
    """Positions whose field of view would cross a jump between two sections.

    Args:
        shift_yx: (2, Z, y, x) displacement of each section against the one before it, in voxels, on a grid of `step`
            voxels along y and x; NaN = unknown, which does not block.
        shape_zyx: of the volume; a grid that ends early is continued.
        step: voxels of the volume per grid point, along y and x.
        threshold: voxels; a displacement of this much along y or x, or more, is a jump.
        reach_zyx: half extents of the box around a position that must be free of jumps, usually half a field of view.

    Returns:
        (Z, Y, X) bool. A jump at section s lies between s - 1 and s: it blocks positions from s - reach to
        s + reach - 1, whose boxes hold voxels on both sides of it.
    """
    if shift_yx.ndim != 4 or shift_yx.shape[0] != 2 or shift_yx.shape[1] != shape_zyx[0]:
        raise ValueError(
            f"a shift field of {list(shape_zyx)} needs shape (2, {shape_zyx[0]}, y, x), came {shift_yx.shape}"
        )
    with np.errstate(invalid="ignore"):
        jump = (np.abs(shift_yx) >= threshold).any(axis=0)
    jump = jump.repeat(step, axis=1).repeat(step, axis=2)
    missing = [(0, max(0, size - have)) for size, have in zip(shape_zyx, jump.shape, strict=True)]
    jump = np.pad(jump, missing, mode="edge")[:, : shape_zyx[1], : shape_zyx[2]]
    z, y, x = reach_zyx
    if z == 0:
        return np.zeros(jump.shape, bool)
    # A box from p - z to p + z holds s - 1 and s where s - z <= p < s + z: an even window, moved by one.
    sizes = (2 * z, 2 * y + 1, 2 * x + 1)
    wide = ndimage.maximum_filter(jump, sizes, mode="constant", cval=0, origin=(-1, 0, 0))
    return np.asarray(wide, bool)


def downsampled(mask: np.ndarray, scale_zyx: Sequence[int]) -> np.ndarray:
    """A mask at the network's resolution: forbidden where any voxel of the block is."""
    if tuple(scale_zyx) == (1, 1, 1):
        return mask
    from nissl.volumes.annotated import block_view

    z, y, x = scale_zyx
    return np.asarray(block_view(mask, (z, y, x)).any(axis=-1))


class ShiftMask:
    """Finds jumps between sections in the image itself, and what lies too near to them for a field of view.

    Args:
        patch, step, max_shift: see `nissl.volumes.irregularities.shift_field`; voxels of the network's resolution.
        threshold: a displacement of this much is a jump, voxels.
        reach_zyx: half the box around a position that must be free of jumps; None: half the field of view.
    """

    def __init__(
        self, patch: int, step: int, max_shift: int, threshold: float, reach_zyx: Sequence[int] | None
    ) -> None:
        self.patch, self.step, self.max_shift, self.threshold = patch, step, max_shift, threshold
        self.reach_zyx = None if reach_zyx is None else tuple(reach_zyx)

    def of(self, image: np.ndarray, fov_zyx: Sequence[int]) -> np.ndarray:
        """(Z, Y, X) bool of an image, True where no field of view may be centred. A missing section is a jump."""
        field = known_everywhere(shift_field(image, self.patch, self.step, self.max_shift))
        missing = missing_sections(image)
        field[:, missing] = np.inf
        field[:, 1:][:, missing[:-1]] = np.inf
        reach = [size // 2 for size in fov_zyx] if self.reach_zyx is None else self.reach_zyx
        return blocked_by_shift(field, image.shape, self.step, self.threshold, reach)
