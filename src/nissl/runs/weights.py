"""Weights in and out of models: imported safetensors, and the checkpoints of runs. Nothing is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from nissl.runs.compose import instantiate


def build_model(node: DictConfig) -> nn.Module:
    """The model of a resolved config node; with `weights`, loaded from that safetensors file.

    Raises:
        ValueError: if the file's tensors do not fit the model.
    """
    values = OmegaConf.to_container(node)
    assert isinstance(values, dict)
    weights = values.pop("weights", None)
    model = instantiate(OmegaConf.create(values))
    if weights:
        from safetensors.torch import load_file

        load_into(model, load_file(weights), weights)
    assert isinstance(model, nn.Module)
    return model


def load_into(module: nn.Module, state: dict[str, torch.Tensor], origin: Any) -> None:
    """Load a state dict, all of it.

    Raises:
        ValueError: naming missing, unexpected and wrongly shaped tensors.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"{origin} does not fit {type(module).__name__}: missing {missing[:5]}, unexpected {unexpected[:5]}, "
            f"shapes {shapes[:5]}"
        )
    module.load_state_dict(state)


def chosen_checkpoint(run: Path, which: str) -> Path:
    """`best.ckpt` or `last.ckpt` of a run; where no metric chose a best one, the last is the best.

    Raises:
        ValueError: if the run has no checkpoint or `which` is neither.
    """
    if which not in ("best", "last"):
        raise ValueError(f"weights_to_evaluate must be best or last, came {which!r}")
    folder = run / "checkpoints"
    for name in (f"{which}.ckpt", "last.ckpt"):
        if (folder / name).exists():
            return folder / name
    raise ValueError(f"{folder} holds no checkpoint: the run stopped before its first epoch ended; resume it first")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint as data.

    Raises:
        ValueError: if it holds anything but tensors and plain values.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} was refused: it is damaged or holds more than tensors and plain values, and loading that could "
            f"run code ({str(error).splitlines()[0]})"
        ) from None
    assert isinstance(checkpoint, dict)
    return checkpoint


class BareModel(nn.Module):
    """A model without its task, as evaluators see imported weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, *args: Any) -> Any:
        return self.model(*args)


def device_of(trainer: DictConfig) -> torch.device:
    """The device evaluation uses: the accelerator named for training."""
    if trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
