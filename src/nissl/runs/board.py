"""The local dashboard: trackio's page over the runs folder, on this machine only."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import webbrowser
from pathlib import Path


def serve_sweep(folder: Path, port: int | None = None) -> None:
    """Show optuna's dashboard of one sweep until Ctrl-C.

    Raises:
        ValueError: if there is no sweep, or optuna-dashboard is not installed.
    """
    if not (folder / "study.db").exists():
        raise ValueError(f"no sweep in {folder}: it has no study.db")
    program = Path(sys.executable).parent / "optuna-dashboard"
    if not program.exists():
        raise ValueError(
            f"optuna-dashboard is not installed: pip install optuna-dashboard, or open the report that "
            f"'nissl report {folder}' builds"
        )
    address = ["--host", "127.0.0.1", "--port", str(port or 8080)]
    print(f"Dashboard of {folder}: http://127.0.0.1:{port or 8080}/   (Ctrl-C ends it)", flush=True)
    subprocess.run([str(program), f"sqlite:///{folder.resolve() / 'study.db'}", *address], stdout=subprocess.DEVNULL)


def serve(runs: Path, port: int | None = None, open_browser: bool = True) -> None:
    """Show the dashboard until Ctrl-C.

    Args:
        runs: folder of the runs; trackio's data are in `.trackio` below it.
        port: default: the first free one from 7860.

    Raises:
        ValueError: if nothing was recorded there.
        OSError: if the port is taken.
    """
    folder = (runs / ".trackio").resolve()
    if not any(folder.glob("*.db")):
        raise ValueError(
            f"no dashboard data in {folder}: train with logger=default or logger=local first, "
            "or name the folder of the runs with --runs"
        )
    # Read once, when trackio is first imported.
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio

    # trackio prints an address with a write token; it must not land in a log.
    with contextlib.redirect_stdout(io.StringIO()):
        dashboard = trackio.show(
            open_browser=False, block_thread=False, host="127.0.0.1", share=False, server_port=port, mcp_server=False
        )
    server, address = dashboard[0], dashboard[1]
    print(f"Dashboard of {runs}: {address}   (Ctrl-C ends it)", flush=True)
    if open_browser:
        webbrowser.open(address)
    try:
        threading.Event().wait()
    finally:
        server.close()
