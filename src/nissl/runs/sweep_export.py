"""The same search for a wandb agent: a sweep YAML for users who have a wandb server.

https://docs.wandb.ai/guides/sweeps. What wandb cannot say is left to it differently: each training is a trial of its
own there, so seeds and data sets become parameters instead of being averaged, and failed trials are simply not counted.
"""

from __future__ import annotations

from typing import Any

import yaml

from nissl.runs.search_space import SearchSpec, as_override

_METHODS = {"grid": "grid", "random": "random", "tpe": "bayes"}


def wandb_sweep(spec: SearchSpec) -> str:
    """YAML for `wandb sweep <file>`; its agents start `python train.py` in the folder they are started in.

    Raises:
        ValueError: if the data sets of the search differ in more than one key, which wandb cannot vary together.
    """
    parameters = {key: _parameter(axis) for key, axis in spec.space.items()}
    parameters |= _datasets(spec)
    parameters["seed"] = {"values": list(spec.seeds)}
    goal = spec.objective["direction"]
    base = [text for text in spec.base if not text.startswith("logger=")]
    sweep: dict[str, Any] = {
        "name": spec.name,
        "program": "train.py",
        "method": _METHODS[spec.sampler["name"]],
        "metric": {"name": spec.objective["metric"], "goal": goal},
        "parameters": parameters,
        # Hydra wants key=value without hyphens; the overrides of every training come first.
        "command": ["${env}", "python", "${program}", *base, "logger=wandb", "${args_no_hyphens}"],
    }
    if spec.sampler["name"] != "grid":
        sweep["run_cap"] = spec.num_trials * len(spec.parts())
    note = "# Made by 'nissl sweep --wandb'. wandb sweep <this file>, then wandb agent <what it prints>.\n"
    return note + yaml.safe_dump(sweep, sort_keys=False, width=120)


def _parameter(axis: dict[str, Any]) -> dict[str, Any]:
    if "choices" in axis:
        # Written as Python prints them otherwise: None and [1, 2] mean nothing to Hydra.
        return {"values": [_plain(value) for value in axis["choices"]]}
    low, high, step, log = axis["low"], axis["high"], axis.get("step"), axis.get("log", False)
    whole = isinstance(low, int) and isinstance(high, int)
    if step and not (whole and step == 1):
        return {"distribution": "q_log_uniform_values" if log else "q_uniform", "min": low, "max": high, "q": step}
    if log:
        distribution = "q_log_uniform_values" if whole else "log_uniform_values"
        return {"distribution": distribution, "min": low, "max": high} | ({"q": 1} if whole else {})
    return {"distribution": "int_uniform" if whole else "uniform", "min": low, "max": high}


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else as_override(value)


def _datasets(spec: SearchSpec) -> dict[str, Any]:
    if not spec.datasets:
        return {}
    keys = {tuple(text.partition("=")[0] for text in overrides) for overrides in spec.datasets.values()}
    if len(keys) != 1 or len(next(iter(keys))) != 1:
        raise ValueError(
            f"sweep {spec.name}: wandb varies one key at a time, but its data sets differ in several: "
            f"{spec.datasets}. Give each data set a configuration of its own in conf/dataset"
        )
    ((key,),) = keys
    return {key: {"values": [overrides[0].partition("=")[2] for overrides in spec.datasets.values()]}}
