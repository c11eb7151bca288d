"""MouseLight's JSON as SWC text, so that what follows is read, diagnosed and repaired like everything else.

A file holds `neurons`, each with `idString`, `soma` (x, y, z in um, in the space of the Allen atlas) and two lists of
samples, `axon` and `dendrite` (sampleNumber, structureIdentifier, x, y, z, radius, parentNumber), each numbered on its
own and each starting at the soma (Winnubst et al. 2019, https://doi.org/10.1016/j.cell.2019.07.042). Here the soma is
one node of type 1 and both lists hang on it; a sample's type is that of its list, since fork and end points carry marks
(5, 6) instead of a type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

SOMA, AXON, DENDRITE, APICAL = 1, 2, 3, 4
SOMA_RADIUS_UM = 0.0  # not in the files; the reader reports it and makes it NaN


def neurons_as_swc(content: bytes, name: str) -> Iterator[tuple[str, str]]:
    """(path, SWC text) of each neuron of a file; a file with one neuron keeps its own name.

    Raises:
        ValueError: if the file is not JSON of this form.
    """
    try:
        neurons: list[dict[str, Any]] = json.loads(content)["neurons"]
        texts = [(str(neuron.get("idString", k)), _as_swc(neuron)) for k, neuron in enumerate(neurons)]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{name}' is not MouseLight JSON ({error!r}): it needs a list 'neurons' with 'soma', and 'axon' or "
            "'dendrite' as lists of samples"
        ) from error
    for identity, text in texts:
        yield (name if len(texts) == 1 else f"{name}/{identity}"), text


def _as_swc(neuron: dict[str, Any]) -> str:
    soma = neuron["soma"]
    here = (float(soma["x"]), float(soma["y"]), float(soma["z"]))
    lines = [f"1 {SOMA} {here[0]!r} {here[1]!r} {here[2]!r} {SOMA_RADIUS_UM} -1"]
    last = 1
    for part, kind in (("axon", AXON), ("dendrite", DENDRITE)):
        samples = neuron.get(part) or []
        identity = {}  # number in this list -> id in the file; the first sample of a list is the soma again
        for sample in samples:
            if int(sample["parentNumber"]) < 0 and _position(sample) == here:
                identity[int(sample["sampleNumber"])] = 1
            else:
                last += 1
                identity[int(sample["sampleNumber"])] = last
        for sample in samples:
            number, above = int(sample["sampleNumber"]), int(sample["parentNumber"])
            if identity[number] == 1:
                continue
            x, y, z = _position(sample)
            radius = float(sample.get("radius") or 0.0)
            is_apical = kind == DENDRITE and sample.get("structureIdentifier") == APICAL
            parent = identity[above] if above >= 0 else 1
            node_type = APICAL if is_apical else kind
            lines.append(f"{identity[number]} {node_type} {x!r} {y!r} {z!r} {radius!r} {parent}")
    return "\n".join(lines) + "\n"


def _position(sample: dict[str, Any]) -> tuple[float, float, float]:
    return float(sample["x"]), float(sample["y"]), float(sample["z"])
