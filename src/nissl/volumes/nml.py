"""Reading and writing KNOSSOS and webKnossos tracings: `.nml`, and zips of them (`.nmx`, `.k.zip`).

An NML file is XML with the root `things`: `parameters/scale` gives nm per voxel (x, y, z), each tree is a `thing` with
`nodes/node` and `edges/edge`, then follow `comments` and `groups`. Facts as in webknossos-libs and in PyKNOSSOS#1;
attributes may be missing, node ids may repeat in every tree, and an edge may name a node that was deleted.

Files come from strangers: entities and document types are refused before anything is expanded, members of a zip are
read to a size limit and only by their ending, and nothing is written to disk.

What we decide: the first node of a tree is its root, as tracing began there. A neurite type is found by its regular
expression in the tree's name, its comment, or the names of its groups (the tree's own first); a comment on a node gives
the type of that node and of all beyond it, seen from the root, until another comment.
"""

from __future__ import annotations

import io
import logging
import re
import xml.parsers.expat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from nissl.volumes.skeletons import NEURITE_TYPES, Skeletons
from nissl.volumes.trees import depths

log = logging.getLogger(__name__)

MAX_BYTES = 512 * 2**20  # of one XML document, unpacked
TYPE_PATTERNS = {name: rf"(?i)\b{name}s?\b" for name in NEURITE_TYPES[1:]}


@dataclass
class Tree:
    """One `thing`: voxel positions x, y, z of its nodes, by id in the order of the file."""

    name: str
    comment: str = ""
    group: str = ""
    nodes: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Tracing:
    """One NML document.

    Attributes:
        scale_xyz_nm: nm per voxel, or None when the file does not say.
        trees: in the order of the file.
        comments: node id -> text; ids are those of the whole document.
        groups: group id -> names of it and of those around it.
        dropped_edges: edges that named a node which is not there.
    """

    scale_xyz_nm: tuple[float, float, float] | None = None
    trees: list[Tree] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    dropped_edges: int = 0


def parse_nml(content: bytes, name: str) -> Tracing:
    """The trees of one document.

    Args:
        content: the XML.
        name: what to call it in messages.

    Raises:
        ValueError: no XML, no NML, entities in it, or a node without a position.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name} has {len(content) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are read")
    tracing, path, groups = Tracing(), [], []  # type: ignore[var-annotated]

    def refuse(*_: object) -> None:
        raise ValueError(f"{name} declares a document type or an entity. NML has none; it is not read.")

    def number(attributes: Mapping[str, str], key: str) -> float:
        try:
            return float(attributes[key])
        except (KeyError, ValueError):
            raise ValueError(
                f"{name}: <{path[-1]}> needs a number as '{key}', came {attributes.get(key)!r} in {dict(attributes)}"
            ) from None

    def start(tag: str, attributes: dict[str, str]) -> None:
        path.append(tag)
        if len(path) == 1 and tag != "things":
            raise ValueError(f"{name} is no NML: its root is <{tag}>, expected <things>")
        if tag == "scale" and path[-2] == "parameters":
            factor = _nm_per(attributes.get("unit", "nanometer"), name)
            tracing.scale_xyz_nm = tuple(factor * number(attributes, key) for key in "xyz")  # type: ignore[assignment]
        elif tag == "thing":
            label = attributes.get("name", f"Tree{attributes.get('id', len(tracing.trees) + 1)}")
            tracing.trees.append(Tree(label, attributes.get("comment", ""), attributes.get("groupId", "")))
        elif tag == "node" and "thing" in path:
            tracing.trees[-1].nodes[attributes.get("id", "")] = (
                number(attributes, "x"), number(attributes, "y"), number(attributes, "z")
            )  # fmt: skip
        elif tag == "edge" and "thing" in path:
            tracing.trees[-1].edges.append((attributes.get("source", ""), attributes.get("target", "")))
        elif tag == "comment" and "thing" not in path:
            tracing.comments[attributes.get("node", "")] = attributes.get("content", "")
        elif tag == "group":
            groups.append(attributes.get("name", ""))
            tracing.groups[attributes.get("id", "")] = " / ".join(groups)

    def end(tag: str) -> None:
        path.pop()
        if tag == "group":
            groups.pop()

    parser = xml.parsers.expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(content, True)
    except xml.parsers.expat.ExpatError as error:
        raise ValueError(f"{name} is not XML: {error}") from None
    for tree in tracing.trees:
        known = [edge for edge in tree.edges if edge[0] in tree.nodes and edge[1] in tree.nodes]
        tracing.dropped_edges += len(tree.edges) - len(known)
        tree.edges = known
    return tracing


def read_tracings(path: str | Path) -> list[Tracing]:
    """Every NML document of a file: one of an `.nml`, all of a zip.

    Raises:
        FileNotFoundError, ValueError: naming the file, and the member of a zip.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"skeleton file {path} does not exist. Set dataset.skeletons, or null to go without.")
    if path.suffix == ".nml":
        return [parse_nml(path.read_bytes(), str(path))]
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(
                (info for info in archive.infolist() if info.filename.endswith((".nml", ".xml"))),
                key=lambda info: info.filename,
            )
            if not members:
                raise ValueError(f"{path} holds no .nml and no annotation.xml, only {archive.namelist()[:5]}")
            tracings = []
            for info in members:
                with archive.open(info) as file:
                    # The size that a zip declares is a claim; what is unpacked is counted.
                    content = file.read(MAX_BYTES + 1)
                tracings.append(parse_nml(content, f"{path}:{info.filename}"))
            return tracings
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is no zip file; a tracing ends in .nml, .nmx or .k.zip") from None


def skeletons_of(
    tracings: list[Tracing],
    scale_xyz_nm: tuple[float, float, float] | None = None,
    first_voxel: float = 0.0,
    type_patterns: Mapping[str, str] = TYPE_PATTERNS,
    merge_names: bool = False,
    name: str = "tracing",
) -> tuple[Skeletons, list[str]]:
    """Skeletons in nm, z, y, x, and the tree names of skeletons 1, 2, ...

    Args:
        tracings: node ids may repeat between trees and documents.
        scale_xyz_nm: overrides that of the files.
        first_voxel: the coordinate of the first voxel; KNOSSOS once counted from 1.
        type_patterns: neurite type -> regular expression; see the module's description.
        merge_names: trees of one name are one neuron.
        name: for messages.
    """
    unknown = set(type_patterns) - set(NEURITE_TYPES)
    if unknown:
        raise ValueError(f"unknown neurite types {sorted(unknown)}; choose from {list(NEURITE_TYPES[1:])}")
    positions: list[np.ndarray] = []
    edges: list[tuple[int, int]] = []
    skeleton_of: list[int] = []
    node_type: list[int] = []
    names: list[str] = []
    roots: list[int] = []
    dropped = sum(tracing.dropped_edges for tracing in tracings)
    for tracing in tracings:
        scale = scale_xyz_nm or tracing.scale_xyz_nm
        if scale is None:
            raise ValueError(f"{name} does not state its scale in nm per voxel; give one as x, y, z")
        first_row = len(skeleton_of)
        node_comments: dict[int, int] = {}
        for tree in tracing.trees:
            if not tree.nodes:
                continue
            row_of = {node: len(skeleton_of) + i for i, node in enumerate(tree.nodes)}
            if merge_names and tree.name in names:
                number = names.index(tree.name) + 1
            else:
                names.append(tree.name)
                number = len(names)
            voxels = np.array(list(tree.nodes.values())) - first_voxel
            positions.append((voxels * scale)[:, ::-1])
            roots.append(len(skeleton_of))
            texts = (tree.name, tree.comment, tracing.groups.get(tree.group, ""))
            found = next((t for t in (_type_in(text, type_patterns) for text in texts) if t), 0)
            skeleton_of += [number] * len(row_of)
            node_type += [found] * len(row_of)
            edges += [(row_of[a], row_of[b]) for a, b in tree.edges if a != b]
            for node, row in row_of.items():
                if commented := _type_in(tracing.comments.get(node, ""), type_patterns):
                    node_comments[row] = commented
        _spread(node_type, node_comments, edges, first_row, roots)
    if not positions:
        raise ValueError(f"{name} has no tree with a node")
    if dropped:
        log.warning("%s: %d edges name a node that is not there; they are left out", name, dropped)
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)  # an edge drawn twice would count its length twice
    depth = depths(len(skeleton_of), pairs, roots)
    types = np.array(node_type) if any(node_type) else None
    return Skeletons(np.concatenate(positions), pairs, np.array(skeleton_of, np.int64), types, depth), names


def _type_in(text: str, patterns: Mapping[str, str]) -> int:
    return next((NEURITE_TYPES.index(kind) for kind, pattern in patterns.items() if re.search(pattern, text)), 0)


def _spread(
    node_type: list[int], comments: dict[int, int], edges: list[tuple[int, int]], first_row: int, roots: list[int]
) -> None:
    """Give nodes beyond a commented one its type, walking from the roots (in place)."""
    if not comments:
        return
    neighbours: dict[int, list[int]] = {}
    for a, b in edges:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    seen = set()
    todo = [(root, 0) for root in roots if root >= first_row]
    while todo:
        node, kind = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        kind = comments.get(node, kind)
        node_type[node] = kind or node_type[node]
        todo += [(other, kind) for other in neighbours.get(node, []) if other not in seen]


def _nm_per(unit: str, name: str) -> float:
    factors = {"nanometer": 1.0, "nm": 1.0, "micrometer": 1e3, "um": 1e3, "µm": 1e3, "angstrom": 0.1}
    if unit not in factors:
        raise ValueError(f"{name} states its scale in {unit!r}; known are {sorted(factors)}")
    return factors[unit]


def write_nml(
    path: str | Path,
    skeletons: Skeletons,
    scale_xyz_nm: tuple[float, float, float],
    names: dict[int, str] | None = None,
) -> None:
    """One tree per skeleton; `.nmx` writes a zip with one `.nml` in it. Neurite types become comments on nodes."""
    out = io.StringIO()
    x, y, z = scale_xyz_nm
    out.write(f'<things>\n<parameters><scale x="{x:g}" y="{y:g}" z="{z:g}" unit="nanometer"/></parameters>\n')
    voxels = skeletons.nodes_zyx_nm[:, ::-1] / np.asarray(scale_xyz_nm)
    for number in np.unique(skeletons.skeleton_of):
        rows = np.flatnonzero(skeletons.skeleton_of == number)
        label = (names or {}).get(int(number), f"skeleton {number}")
        out.write(f'<thing id="{number}" name={quoteattr(label)}>\n<nodes>\n')
        for row in rows:
            px, py, pz = (float(v) for v in voxels[row])
            out.write(f'<node id="{row + 1}" x="{px!r}" y="{py!r}" z="{pz!r}"/>\n')
        out.write("</nodes>\n<edges>\n")
        for a, b in skeletons.edges[skeletons.skeleton_of[skeletons.edges[:, 0]] == number]:
            out.write(f'<edge source="{a + 1}" target="{b + 1}"/>\n')
        out.write("</edges>\n</thing>\n")
    out.write("<comments>\n")
    if skeletons.node_type is not None:
        for row in np.flatnonzero(skeletons.node_type):
            out.write(f'<comment node="{row + 1}" content="{NEURITE_TYPES[skeletons.node_type[row]]}"/>\n')
    out.write("</comments>\n</things>\n")
    content = '<?xml version="1.0" encoding="UTF-8"?>\n' + out.getvalue()
    if Path(path).suffix == ".nml":
        Path(path).write_text(content, encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("annotation.nml", content)
