"""Whether wandb could go online from here; asked without importing wandb."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

DEFAULT_SERVER = "https://api.wandb.ai"


def server() -> str:
    """The address wandb would use."""
    return os.environ.get("WANDB_BASE_URL", DEFAULT_SERVER)


def key_configured(address: str) -> bool:
    """Whether an API key is in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(urlparse(address).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def unsynced(runs: Path) -> list[Path]:
    """Offline wandb runs below a folder that `wandb sync` has not yet sent (it leaves a `.synced` file)."""
    return [
        folder
        for folder in sorted(runs.rglob("wandb/offline-run-*"))
        if folder.is_dir() and any(folder.glob("*.wandb")) and not any(folder.glob("*.synced"))
    ]
