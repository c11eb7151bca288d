"""Small 3-D CNN that says for each voxel what kind of tissue it is: vessel, cell body, glia, neuropil, ...

Flood filling is kept out of some kinds and does not start in others (Januszewski et al. 2018,
https://doi.org/10.1038/s41592-018-0049-4, used such a network; its layers and classes are not published). The body is
the U-Net of the affinity baseline with one output per class.
"""

from __future__ import annotations

from collections.abc import Sequence

from nissl.models.affinity_unet import UNet
from nissl.models.ffn import Normalisation


class TissueCNN(UNet):
    """Image to class logits, (B, num_classes, Z, Y, X).

    Args:
        fov_zyx, widths, strides_zyx, norm: see `nissl.models.affinity_unet.UNet`.
        num_classes: at least 2.
    """

    def __init__(
        self,
        fov_zyx: Sequence[int],
        num_classes: int,
        widths: Sequence[int],
        strides_zyx: Sequence[Sequence[int]],
        norm: Normalisation | None = "group",
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, came {num_classes}")
        super().__init__(fov_zyx, num_classes, widths, strides_zyx, norm)
