"""A small `conf/` with a package that its `_target_`s name, for the tests of validation."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from nissl.runs import signatures
from nissl.runs.origins import ConfigTree

SOURCES = {
    "datasets/datamodule.py": """
        class DataModule:
            def __init__(self, source, batch_size: int, num_workers: int = 0, seed: int = 0) -> None: ...
    """,
    "datasets/toy.py": """
        class Toy:
            def __init__(self, path: str, crop_zyx: tuple[int, int, int], num_classes: int) -> None: ...
    """,
    "models/net.py": """
        import torch
        class Base(torch.nn.Module):
            def __init__(self, depth: int, width: int | None = None, kind: Literal["a", "b"] = "a") -> None: ...
            def embed(self, x): ...
        class Net(Base):
            def forward(self, x): ...
        class Bare(torch.nn.Module):
            def __init__(self, depth: int, width: int = 8) -> None: ...
    """,
    "tasks/learn.py": """
        class Learn:
            metrics = {"val/loss": "min", "val/accuracy": "max", "val/recall_*": "max"}
            def __init__(self, model, optimizer: Callable, temperature: float = 0.1) -> None: ...
    """,
    "evaluators/near.py": """
        import os
        class Near:
            metrics = {"near/accuracy": "max"}
            needs = ("embed",)
            def __init__(self, k: int = 5) -> None: ...
    """,
}
CONFIGS = {
    "train.yaml": """
        defaults:
          - _self_
          - dataset: ???
          - model: net
          - task: learn
          - evaluator: [near]
          - trainer: cpu
          - callbacks: default
          - experiment: null
        question: null
        seed: 0
        loader:
          batch_size: ???
          num_workers: 0
        weights_to_evaluate: best
        run_id: null
        data_root: /nowhere
    """,
    "dataset/toy.yaml": """
        _target_: nissl.datasets.toy.Toy
        path: ${data_root}/toy.h5
        crop_zyx: [8, 8, 8]
        num_classes: 3
    """,
    "model/net.yaml": """
        _target_: nissl.models.net.Net
        depth: ${dataset.num_classes}
        width: 8
        weights: null
    """,
    "model/bare.yaml": """
        _target_: nissl.models.net.Bare
        depth: 3
    """,
    "task/learn.yaml": """
        _target_: nissl.tasks.learn.Learn
        optimizer:
          _target_: torch.optim.AdamW
          _partial_: true
          lr: 1e-3
        temperature: 0.1
    """,
    "evaluator/near.yaml": """
        near:
          _target_: nissl.evaluators.near.Near
          k: 5
    """,
    "evaluator/far.yaml": """
        far:
          _target_: nissl.evaluators.near.Near
          k: 50
    """,
    "trainer/cpu.yaml": """
        _target_: pytorch_lightning.Trainer
        max_epochs: 5
        max_time: null
    """,
    "callbacks/default.yaml": """
        checkpoint:
          _target_: pytorch_lightning.callbacks.EarlyStopping
          monitor: val/loss
          mode: min
    """,
    "experiment/first.yaml": """
        # @package _global_
        defaults:
          - override /dataset: toy
        question: Does it run?
        loader:
          batch_size: 4
        model:
          width: 16
    """,
}


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text).lstrip())


def _forget_sources() -> None:
    for cached in (signatures.signature, signatures.module_file, signatures._tree):
        cached.cache_clear()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConfigTree]:
    """`conf/` below the current folder; `nissl.` means the package beside it."""
    write_files(tmp_path / "conf", CONFIGS)
    write_files(tmp_path / "nissl", SOURCES)
    for folder in [tmp_path / "nissl", *(path for path in (tmp_path / "nissl").iterdir() if path.is_dir())]:
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    _forget_sources()
    yield ConfigTree(tmp_path / "conf")
    _forget_sources()
