"""A trained network for other programs: `nissl export`.

`.safetensors` holds the weights that an evaluation would use, with the architecture, so that `model.weights=<file>`
loads them into another run. `.onnx` holds the network itself, with a free batch size, for programs that do not know
PyTorch.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nissl.runs.evaluation_config import compose_evaluation

ENDINGS = (".safetensors", ".onnx")
OPSET = 17  # the newest that the tracing exporter writes


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    num_parameters: int
    architecture: dict[str, Any]


def export_run(run: Path, out: Path, which: str, shapes: Sequence[Sequence[int]] = ()) -> Exported:
    """Write the network of a run; the file appears whole or not at all.

    Args:
        run: a training's folder.
        out: a file ending in .safetensors or .onnx.
        which: "best" or "last" weights.
        shapes: of the network's inputs without the batch axis, for ONNX; empty: image and seed of a network that
            states its field of view.

    Raises:
        ValueError: an unknown ending, no trained weights, or inputs that are not known.
    """
    if out.suffix not in ENDINGS:
        raise ValueError(f"--out {out}: the name must end in {' or '.join(ENDINGS)}")
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run folder: it has no config.yaml")
    from omegaconf import OmegaConf

    from nissl.runs.evaluation import trained_task

    cfg = compose_evaluation([f"run={run}", f"weights_to_evaluate={which}"])
    network = trained_task(cfg).eval().cpu().model
    values = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(values, dict)
    architecture = {str(key): value for key, value in values.items() if key not in ("_target_", "weights")}
    content = _safetensors(network, architecture, run) if out.suffix == ".safetensors" else onnx_of(network, shapes)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(out, sum(p.numel() for p in network.parameters()), architecture)


def _safetensors(network: Any, architecture: dict[str, Any], run: Path) -> bytes:
    from safetensors.torch import save

    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    found: bytes = save(tensors, metadata={"architecture": json.dumps(architecture), "source": f"run {run.name}"})
    return found


def onnx_of(network: Any, shapes: Sequence[Sequence[int]]) -> bytes:
    """The network as an ONNX model of float32 inputs with a free batch size; see `export_run`."""
    import importlib.util
    import inspect
    import io

    import torch

    if importlib.util.find_spec("onnx") is None:
        raise ValueError('ONNX needs the package onnx, which is not installed: pip install "nissl[onnx]"')

    if not shapes:
        fov = getattr(network, "fov_zyx", None)
        if fov is None:
            raise ValueError(
                f"{type(network).__name__} does not say what it takes; give one --input per argument, such as "
                "--input 1,64,64 (without the batch axis)"
            )
        shapes = [(1, *fov)] * 2
    # Two examples: a batch of one may be computed by a kernel of its own.
    examples = tuple(torch.zeros(2, *shape) for shape in shapes)
    names = list(inspect.signature(network.forward).parameters)[: len(examples)]
    if len(names) < len(examples):
        raise ValueError(f"{type(network).__name__} takes {len(names)} inputs, {len(examples)} --input were given")
    buffer = io.BytesIO()
    # ONNX has no memory layouts, and the exporter refuses what asks for one; there it changes nothing.
    torch.onnx.register_custom_op_symbolic("aten::contiguous", lambda graph, value, layout: value, OPSET)
    try:
        with warnings.catch_warnings():
            # The tracing exporter is deprecated for one that needs another package still and traces no custom kernel.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                examples,
                buffer,  # type: ignore[arg-type]  # the tracing exporter writes to open files too
                dynamo=False,
                input_names=names,
                output_names=["output"],
                dynamic_axes={name: {0: "batch"} for name in [*names, "output"]},
                opset_version=OPSET,
            )
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::contiguous", OPSET)
    import onnx

    program = onnx.load_from_string(buffer.getvalue())
    for node in program.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Transpose" and attribute.name == "perm":
                # The exporter leaves movedim's negative axes as they are, and no reader takes them.
                attribute.ints[:] = [axis % len(attribute.ints) for axis in attribute.ints]
    onnx.checker.check_model(program)
    content: bytes = program.SerializeToString()
    return content
