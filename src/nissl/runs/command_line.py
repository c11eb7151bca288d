"""How the entry scripts answer a wrong command line, bad data and Ctrl-C: one clear message and an exit status."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from nissl.runs.folder import Preempted


@contextmanager
def clear_errors(root: str) -> Iterator[None]:
    """Check the command line against `conf/<root>.yaml`, then turn errors of the body into messages.

    A `ValueError` or `OSError` is something the user can mend: its message is shown, without a traceback (which
    status.json keeps). Any other exception is a bug of ours and keeps its traceback.
    """
    # Hydra would print a shortened traceback of its own and swallow the exception.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    # Lightning's use of torch, of which a user can change nothing.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    # MKL otherwise rounds differently from one process to the next, by where the memory happened to lie.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        from nissl.runs.validate import check_command_line

        is_dry = root == "train" and "--dry" in sys.argv
        arguments = [text for text in sys.argv[1:] if text != "--dry"]
        check_command_line(root, arguments)
        if is_dry:
            from nissl.runs.dry import dry_run

            print(dry_run(arguments))
            sys.exit(0)
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, Preempted) as stop:
        reason = str(stop) or "stopped by Ctrl-C"
        hint = "; repeat the command with resume=auto to go on" if root == "train" else ""
        print(f"\n{reason}{hint}", file=sys.stderr)
        sys.exit(130 if isinstance(stop, KeyboardInterrupt) else 143)
