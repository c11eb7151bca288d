"""The network in 8-bit integers: ranges measured on fields of view that a float32 flooding really saw.

Weights and activations of all convolutions become 8-bit by post-training quantisation (nncf for OpenVINO: symmetric
ranges, fast bias correction); the seed is still added in float32. A range is that of all fields of view together, not
their mean as nncf would take: an object's first field of view needs answers several times as large as the later ones,
and cut off they never reach the move threshold. On processors with 8-bit dot products (VNNI, AMX) a
move costs a third to a quarter of float32. What it does to a segmentation is measured by `evaluator=precision_check`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nissl.flood_fill import executor
from nissl.flood_fill.backends import Network, compiled_model, openvino_model
from nissl.flood_fill.canvas import Canvas
from nissl.flood_fill.movement import logit

Patch = tuple[np.ndarray, np.ndarray]  # image and seed logits, (1, 1, Z, Y, X) float32

log = logging.getLogger(__name__)


def require_nncf() -> None:
    """Raise ValueError with advice if quantisation cannot work here."""
    missing = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"precision=int8 needs {' and '.join(missing)}: pip install nissl[int8], or take another one")


def seen_patches(canvases: Sequence[Canvas], network: Network, every: int) -> list[Patch]:
    """Every so many-th field of view of a flooding, which is run to the limit of its canvases."""
    found: list[Patch] = []
    count = 0

    def seeing(image: Tensor, seed: Tensor) -> Tensor:
        nonlocal count
        if count % every == 0:
            found.append((image[:1].numpy().copy(), seed[:1].numpy().copy()))
        count += 1
        return network(image, seed)

    executor.run(canvases, seeing, 1)
    return found


def quantised_network(network: nn.Module, fov_zyx: Sequence[int], patches: Sequence[Patch]) -> Network:
    """`network` in 8-bit integers, calibrated on two thirds of the patches and compared with float32 on the others."""
    if len(patches) < 3:
        raise ValueError(
            f"precision=int8 is calibrated on what a float32 flooding sees, at least 3 moves; it made {len(patches)}"
        )
    require_nncf()
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = openvino_model(network, fov_zyx)
    calibration = [patch for i, patch in enumerate(patches) if i % 3 != 2]
    held_out = [patch for i, patch in enumerate(patches) if i % 3 == 2]
    # nncf logs and prints progress bars whatever one asks.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        small = nncf.quantize(
            model,
            nncf.Dataset(calibration, list),
            subset_size=len(calibration),
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )
    call, exact = compiled_model(small, "float32"), compiled_model(model, "float32")
    log.info("int8 against float32 on %d patches: %s", len(held_out), differences(call, exact, held_out))
    return call


def differences(call: Network, exact: Network, patches: Sequence[Patch], threshold: float = 0.9) -> dict[str, Any]:
    """How far two networks differ: logits, and the share of voxels on either side of a probability."""
    with torch.inference_mode():
        found = [[net(*map(torch.from_numpy, patch)) for patch in patches] for net in (call, exact)]
    ours, theirs = (torch.cat(each) for each in found)
    apart = (ours >= logit(threshold)) != (theirs >= logit(threshold))
    return {
        "rms_logit": float((ours - theirs).square().mean().sqrt()),
        "max_logit": float((ours - theirs).abs().max()),
        "share_of_voxels_apart": float(apart.float().mean()),
    }
