"""Dashboards as sinks: wandb, trackio, tensorboard, csv behind one guard.

The record of a run is local (callbacks.LocalRecord). A dashboard only receives a copy; one that fails is dropped with a
warning, and training goes on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from omegaconf import DictConfig
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from nissl.evaluators.result import Figure
from nissl.runs import wandb_key
from nissl.runs.compose import instantiate

log = logging.getLogger(__name__)


class TrackioLogger(Logger):
    """Local dashboard without an account: one SQLite file per project (https://github.com/gradio-app/trackio).

    Args:
        project: groups runs in one page.
        name: name of the run; a resumed run continues it.
        group: runs that the page shows together.
        folder: where the data lie; `nissl board` serves it.
    """

    def __init__(self, project: str, name: str, group: str | None, folder: str) -> None:
        super().__init__()
        # Read once, when trackio is first imported.
        os.environ["TRACKIO_DIR"] = folder
        self._project, self._name, self._group = project, name, group
        self._run: Any = None
        self._config: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._name

    @property
    def experiment(self) -> Any:
        """The open trackio run."""
        if self._run is None:
            import trackio

            with contextlib.redirect_stdout(io.StringIO()):
                self._run = trackio.init(
                    project=self._project,
                    name=self._name,
                    group=self._group,
                    config=self._config,
                    resume="allow",
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._config = dict(params) if isinstance(params, dict) else vars(params)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(metrics, step=step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, caption: list[str] | None = None) -> None:
        """Images: (H, W, 3) uint8 arrays."""
        import trackio

        captions = caption or [""] * len(images)
        run = self.experiment
        for image, text in zip(images, captions, strict=True):
            run.log({key: trackio.Image(image, caption=text)}, step=step)

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        import trackio

        rows = [dict(zip(columns, row, strict=True)) for row in data]
        table = trackio.Table(data=rows)  # type: ignore[arg-type]  # dicts keep the column names
        self.experiment.log({key: table}, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            import trackio

            with contextlib.redirect_stdout(io.StringIO()):
                trackio.finish()
            self._run = None


class Sink(Logger):
    """A dashboard that may fail: the first error drops it with a warning.

    Args:
        inner: the logger.
        label: its name in the warning.
    """

    def __init__(self, inner: Logger, label: str) -> None:
        super().__init__()
        self.inner: Any = inner
        self.label, self.alive = label, True

    @property
    def name(self) -> str | None:
        return self.inner.name

    @property
    def version(self) -> int | str | None:
        return self.inner.version

    @property
    def experiment(self) -> Any:
        return self.inner.experiment

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        # Whatever a third-party dashboard raises, it must not end a training: this is the one place that catches all.
        try:
            yield
        except Exception as error:
            self.alive = False
            log.warning("logger %s failed and is dropped; the local record goes on: %r", self.label, error)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        if self.alive:
            with self._guarded():
                self.inner.log_hyperparams(params, *args, **kwargs)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.alive:
            with self._guarded():
                self.inner.log_metrics(metrics, step)

    def log_figure(self, key: str, figure: Figure, step: int) -> None:
        """Send an image where the dashboard takes images."""
        if not self.alive:
            return
        from PIL import Image

        with self._guarded():
            image = np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB"))
            if hasattr(self.inner, "log_image"):
                self.inner.log_image(key=key, images=[image], step=step, caption=[figure.caption])
            elif hasattr(self.inner.experiment, "add_image"):
                self.inner.experiment.add_image(key, image, global_step=step, dataformats="HWC")

    def log_summary(self, summary: dict[str, float]) -> None:
        """Set the final numbers where the dashboard has a place for them beside the curves (wandb)."""
        if self.alive:
            with self._guarded():
                if hasattr(self.inner.experiment, "summary"):
                    self.inner.experiment.summary.update(summary)

    def log_checkpoint(self, path: Path, digest: str) -> None:
        """Keep a checkpoint with its checksum among the files of the dashboard (wandb's artifacts)."""
        if self.alive:
            with self._guarded():
                run = self.inner.experiment
                if hasattr(run, "log_artifact") and hasattr(run, "summary"):
                    run.log_artifact(str(path), name=f"{self.inner.version}-{path.stem}", type="model")
                    run.summary.update({f"{path.name}/blake2b": digest})

    def log_table(self, key: str, rows: list[dict[str, Any]], step: int) -> None:
        """Send a table where the dashboard takes tables."""
        if self.alive and rows and hasattr(self.inner, "log_table"):
            with self._guarded():
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                # wandb refuses a column of mixed types: numbers stay numbers only where all are.
                for name, values in columns.items():
                    if len({type(value) for value in values}) > 1:
                        columns[name] = [str(value) for value in values]
                cells = [list(row) for row in zip(*columns.values(), strict=True)]
                self.inner.log_table(key, list(columns), cells, step=step)

    def save(self) -> None:
        if self.alive:
            with self._guarded():
                self.inner.save()

    def finalize(self, status: str) -> None:
        """Lightning ends a fit here, but evaluators still log: `close` really ends it."""

    def close(self, status: str) -> None:
        if self.alive:
            with self._guarded():
                self.inner.finalize(status)
                if self.label == "wandb":
                    self.inner.experiment.finish()


def build_sinks(cfg: DictConfig) -> list[Sink]:
    """The dashboards of `cfg.logger`, started and told the configuration; one that cannot start is dropped."""
    # Set here because importing Lightning sets it to INFO: its notes (devices, tips) would hide ours.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    sinks = []
    for label, node in (cfg.get("logger") or {}).items():
        if label == "wandb":
            prepare_wandb(cfg.run_dir)
        sink = Sink(instantiate(node), str(label))
        sink.log_hyperparams(flat(cfg))
        sinks.append(sink)
    return sinks


def flat(node: DictConfig, prefix: str = "") -> dict[str, Any]:
    """`{"model": {"depth": 9}}` as `{"model/depth": 9}`, which dashboards filter and group by."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        name = prefix + str(key)
        if isinstance(value, DictConfig):
            values.update(flat(value, f"{name}/"))
        else:
            values[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return values


def prepare_wandb(run_dir: str) -> None:
    """Choose online or offline before wandb starts, and say which in one line."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault(
        "WANDB_DATA_DIR", f"{run_dir}/wandb"
    )  # what waits to be uploaded stays with the run, not in the home
    if os.environ.get("WANDB_MODE"):
        return
    server = wandb_key.server()
    if not wandb_key.key_configured(server):
        reason = "no key is configured"
    elif not reachable(server):
        reason = f"{server} cannot be reached"
    else:
        print(f"wandb: online at {server}", flush=True)
        return
    os.environ["WANDB_MODE"] = "offline"
    print(f"wandb: offline, {reason}. To sync later: wandb sync {run_dir}/wandb/offline-run-*", flush=True)


def reachable(server: str, timeout_s: float = 2.0) -> bool:
    """Whether the host accepts a connection; wandb itself would wait for a minute and a half."""
    url = urlparse(server)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout_s).close()
    except OSError:
        return False
    return True
