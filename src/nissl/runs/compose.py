"""From files and overrides to one resolved configuration, and from a configuration to objects.

Torch is not imported here: everything up to `instantiate` runs before a training is known to be valid.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

CONFIG_FORMAT = 1
ALLOWED_TARGETS = ("nissl.", "torch.optim.", "torch_geometric.", "pytorch_lightning.")
# What may differ between two runs of the same experiment: where it is stored, who watches, how it is fed.
RUN_ONLY_KEYS = (
    "format",
    "run_dir",
    "run_id",
    "runs_dir",
    "data_root",
    "resume",
    "logger",
    "question",
    "group",
    "run",
    "num_workers",
)

OmegaConf.register_new_resolver("abspath", lambda path: str(Path(path).expanduser().resolve()), replace=True)


def conf_dir() -> Path:
    """The `conf/` folder: of the checkout this package lives in, else of the current folder."""
    for root in (Path(__file__).parents[3], Path.cwd()):
        if (root / "conf" / "train.yaml").exists():
            return root / "conf"
    raise ValueError(
        f"no conf/train.yaml beside the package nor in {Path.cwd()}: run from a clone of nissl installed with "
        "'pip install -e .'"
    )


def compose_config(root: str, overrides: list[str]) -> DictConfig:
    """Compose `conf/<root>.yaml` with overrides, as train.py does; not resolved yet."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(root, overrides=overrides)


def resolve(cfg: DictConfig) -> DictConfig:
    """The record of a run: no interpolation left, paths absolute, imported architecture filled in, format stated."""
    cfg = with_imported_architecture(cfg)
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    for path_key in ("run_dir", "runs_dir"):
        if values.get(path_key):
            values[path_key] = str(Path(values[path_key]).expanduser().resolve())
    if values.get("evaluator"):  # an experiment may set arguments of evaluators that the command line left out
        values["evaluator"] = {name: node for name, node in values["evaluator"].items() if "_target_" in node}
    for section in ("dataset", "model"):
        _make_paths_absolute(values.get(section))
    return OmegaConf.create({"format": CONFIG_FORMAT, **values})


def is_path_key(key: str) -> bool:
    """Whether a configuration key holds a file or folder."""
    return key in ("path", "weights") or key.endswith("_path")


def _make_paths_absolute(node: Any) -> None:
    """Relative paths depend on where the command was typed; a run folder must not."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if is_path_key(key) and isinstance(value, str):
            node[key] = str(Path(value).expanduser().resolve())
        elif is_path_key(key) and isinstance(value, list):
            node[key] = [str(Path(item).expanduser().resolve()) for item in value]
        else:
            _make_paths_absolute(value)


def with_imported_architecture(cfg: DictConfig) -> DictConfig:
    """Replace the model's arguments by those its weights file was written with.

    Raises:
        ValueError: if the file is no safetensors file or states no architecture, or if the command line asks for
            another architecture.
    """
    weights = cfg.get("model") and cfg.model.get("weights")
    if not weights:
        return cfg
    cfg = copy.deepcopy(cfg)
    architecture = json.loads(safetensors_metadata(Path(weights)).get("architecture", "null"))
    if architecture is None:
        raise ValueError(f"{weights} states no architecture in its metadata: make it with 'nissl import'")
    unknown = sorted(set(architecture) - set(cfg.model))
    if unknown:
        raise ValueError(f"{weights} holds another kind of model: {cfg.model._target_} takes no {', '.join(unknown)}")
    asked = {text.partition("=")[0].lstrip("+") for text in task_overrides()}
    for key, value in architecture.items():
        if f"model.{key}" in asked and cfg.model[key] != value:
            raise ValueError(
                f"model.{key}={cfg.model[key]} is asked for, and {weights} holds a network with {value}. Leave "
                f"model.{key} out, or make another file with 'nissl import --set {key}=...'"
            )
        cfg.model[key] = value
    return cfg


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The text metadata in the header of a safetensors file, read without torch."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > 100_000_000:
                raise ValueError("header too long")
            metadata = json.loads(file.read(size)).get("__metadata__", {})
            assert isinstance(metadata, dict)
            return metadata
    except FileNotFoundError:
        raise ValueError(f"model.weights: no file {path}") from None
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"model.weights: {path} is not a safetensors file ({error}); make one with "
            "'nissl import <model> <checkpoint> --out <file>.safetensors'"
        ) from None


def config_hash(cfg: DictConfig) -> str:
    """Hash of what decides a run's numbers: two runs with one hash are the same experiment and seed.

    Of a path only the file's name counts, so that the same data in another place is the same experiment.
    """
    values = OmegaConf.to_container(cfg, resolve=False)
    return hashlib.blake2s(json.dumps(_identity(values), sort_keys=True).encode(), digest_size=8).hexdigest()


def _identity(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {
        key: Path(value).name if is_path_key(key) and isinstance(value, str) else _identity(value)
        for key, value in node.items()
        if key not in RUN_ONLY_KEYS
    }


def read_config(folder: Path) -> DictConfig:
    """The resolved configuration of a run folder.

    Raises:
        ValueError: if the folder is no run, or was written by a newer nissl.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    values = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise ValueError(f"{path} states no config format; it was not written by nissl")
    if values["format"] > CONFIG_FORMAT:
        raise ValueError(
            f"{path} has config format {values['format']}, this nissl reads up to {CONFIG_FORMAT}: update nissl"
        )
    return OmegaConf.create(values)


def instantiate(node: Any, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate`, for classes under the allowed packages only.

    A run folder may come from anyone: its config must not be able to call `os.system`, nor reach it through a module
    that imports it (`nissl.runs.provenance.subprocess.run`), so the class found must live where its name says.

    Raises:
        ValueError: if a `_target_` anywhere in the node is not allowed.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_class
    from hydra.utils import instantiate as hydra_instantiate

    for target in targets(node):
        if not target.startswith(ALLOWED_TARGETS):
            raise ValueError(f"refused to run _target_ {target!r}: only {', '.join(ALLOWED_TARGETS)}* are allowed")
        found = get_class(target)
        if not found.__module__.startswith(tuple(prefix[:-1] for prefix in ALLOWED_TARGETS)):
            raise ValueError(f"refused to run _target_ {target!r}: it leads to {found.__module__}.{found.__name__}")
    try:
        return hydra_instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        # What a constructor says of its arguments or files is for the user; Hydra's frame around it is not.
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise


def targets(node: Any) -> list[str]:
    """Every `_target_` in a config node, at any depth."""
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    if isinstance(node, list):
        return [target for value in node for target in targets(value)]
    return []


def task_overrides() -> list[str]:
    """The overrides of this run: of its own point inside a grid."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else sys.argv[1:]


def grid_folder() -> Path | None:
    """The folder shared by the jobs of one `train.py -m` call; None outside a grid."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return Path(hydra.runtime.output_dir) if hydra.mode == RunMode.MULTIRUN else None
