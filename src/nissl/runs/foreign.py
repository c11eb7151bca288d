"""Published checkpoints of other programs as safetensors of ours: `nissl import`.

What the foreign names mean is known to the model's own file, which offers
`import_weights(path) -> (state dict, constructor arguments, metadata)`. A model that can begin with another one of ours
offers `begin_from(state dict, constructor arguments, wanted ones) -> (state dict, constructor arguments)`, which is
given what a safetensors file holds and what `--set` asks for. Here they are found, called, checked against the model
they claim to fit, and written.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nissl.runs.annotations import accepts
from nissl.runs.problems import nearest
from nissl.runs.signatures import signature


@dataclass(frozen=True)
class Imported:
    """What was written."""

    path: Path
    num_tensors: int
    num_parameters: int
    architecture: dict[str, Any]


def import_checkpoint(
    model: str, checkpoint: Path, out: Path, conf: Path, changed: Mapping[str, Any] | None = None
) -> Imported:
    """Convert a foreign checkpoint; the file appears whole or not at all.

    Args:
        model: a name in `conf/model/`.
        checkpoint: a file, or the prefix of a TensorFlow checkpoint.
        out: the safetensors file to write.
        conf: the configuration folder.
        changed: constructor arguments that the checkpoint does not hold, such as the field of view of an FFN.

    Raises:
        ValueError: if the model or the file is unknown, no checkpoint, or does not fit the model.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: the name of an imported checkpoint ends in .safetensors")
    target = _model_class(model, conf)
    for key, value in (changed or {}).items():
        parameter = signature(target).parameters.get(key)
        annotation = parameter.annotation if parameter else None
        if annotation is not None and not accepts(annotation, value):
            raise ValueError(f"--set {key}={value}: expects {ast.unparse(annotation)}")
    if not checkpoint.exists() and not checkpoint.with_name(f"{checkpoint.name}.index").exists():
        raise ValueError(f"no checkpoint {checkpoint}: neither a file of that name nor a TensorFlow prefix (.index)")
    module = importlib.import_module(target.rpartition(".")[0])
    offer = "begin_from" if checkpoint.suffix == ".safetensors" else "import_weights"
    if not hasattr(module, offer):
        raise ValueError(f"{module.__name__} cannot read {checkpoint.name}: it offers no {offer}")
    try:
        if offer == "begin_from":
            state, known, source = _ours(checkpoint)
            state, architecture = module.begin_from(state, known, changed or {})
            metadata = {"source": f"begun from {source}"}
        else:
            state, architecture, metadata = module.import_weights(checkpoint)
    except pickle.UnpicklingError as error:
        # torch's own message advises to run whatever the file holds.
        raise ValueError(
            f"{checkpoint} is not a checkpoint that {module.__name__} can read: no torch file, or one that holds "
            "pickled objects beside tensors; nothing of it was run"
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{checkpoint} is not a checkpoint that {module.__name__} can read: {reason}") from error
    for key, value in (changed or {}).items():
        if key not in architecture:
            close = nearest(key, sorted(architecture))
            raise ValueError(
                f"--set {key}={value}: {model} is built from {', '.join(architecture)}"
                + (f"; did you mean '{close}'?" if close else "")
            )
        architecture[key] = value
    tensors = _checked(target, state, architecture, checkpoint)
    _write(tensors, {**metadata, "architecture": json.dumps(architecture), "model": model}, out)
    return Imported(out, len(tensors), sum(tensor.numel() for tensor in tensors.values()), architecture)


def _ours(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """State dict, constructor arguments and source of what `nissl import` or `nissl export` wrote."""
    from safetensors.torch import load_file

    from nissl.runs.compose import safetensors_metadata

    metadata = safetensors_metadata(path)
    if "architecture" not in metadata:
        raise ValueError(f"{path} states no architecture: make it with 'nissl import' or 'nissl export'")
    return load_file(path), json.loads(metadata["architecture"]), metadata.get("source", path.name)


def _model_class(model: str, conf: Path) -> str:
    """The `_target_` of a model's configuration."""
    known = sorted(path.stem for path in (conf / "model").glob("*.yaml"))
    if model not in known:
        close = nearest(model, known)
        raise ValueError(
            f"no model '{model}' in {conf / 'model'}; "
            + (f"did you mean '{close}'?" if close else f"there are: {', '.join(known) or 'none'}")
        )
    target = str(yaml.safe_load((conf / "model" / f"{model}.yaml").read_text())["_target_"])
    signature(target)  # refuses what is not an allowed class
    return target


def _checked(target: str, state: dict[str, Any], architecture: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """The state as torch tensors, after the model built from the architecture has taken it."""
    import torch

    module, _, name = target.rpartition(".")
    network = getattr(importlib.import_module(module), name)(**architecture)
    tensors = {key: torch.as_tensor(value).contiguous() for key, value in state.items()}
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} does not fit {target}: {error}") from error
    return tensors


def _write(tensors: dict[str, Any], metadata: dict[str, Any], out: Path) -> None:
    from safetensors.torch import save

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(save(tensors, metadata={key: str(value) for key, value in metadata.items()}))
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
