"""Who may import whom, read from the sources; nothing is imported to find out."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/nissl"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))
FRAMEWORKS = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb", "trackio", "optuna"}
ARRAYS = {"numpy", "scipy", "jaxtyping", "numba"}


@dataclass(frozen=True)
class Room:
    """Rules of one room.

    Attributes:
        nissl: what of nissl it may import, beside itself.
        top: packages it may import at the top of a module.
        inside: further packages it may import inside functions.
    """

    nissl: tuple[str, ...]
    top: frozenset[str]
    inside: frozenset[str] = frozenset()


def room(*nissl: str, top: set[str], inside: set[str] | None = None) -> Room:
    return Room(nissl, frozenset(top), frozenset(inside or set()))


ROOMS = {
    "models": room(top={"torch", "torch_geometric", *ARRAYS}),
    "simulate": room("nissl.volumes", top=ARRAYS),
    "volumes": room(top={"h5py", *ARRAYS}, inside={"zarr", "tensorstore", "neuroglancer", "kimimaro"}),
    "datasets": room(
        "nissl.volumes",
        "nissl.simulate",
        top={"torch", "torch_geometric", "pandas", "h5py", "tifffile", *ARRAYS},
        inside={"yaml", "zarr", "pynwb", "PIL", "av"},
    ),
    "datasets/catalogue": room("nissl.datasets.catalogue", top=set()),
    "datasets/catalogue_check": room("nissl.datasets.catalogue", top=set(), inside={"h5py", "numpy"}),
    "datasets/datamodule": room(top={"torch", "pytorch_lightning", "numpy"}),
    "flood_fill": room("nissl.volumes", top={"torch", *ARRAYS}, inside={"daisy", "openvino", "nncf"}),
    "watershed": room(
        "nissl.volumes",
        "nissl.flood_fill.segmenter",
        "nissl.flood_fill.canvas.Origin",
        top={"torch", *ARRAYS},
        inside={"skimage", "waterz"},
    ),
    "tasks": room(
        "nissl.models",
        "nissl.flood_fill.movement",
        top={"torch", "torchmetrics", "pytorch_lightning", *ARRAYS},
        inside={"safetensors"},
    ),
    "evaluators": room(
        "nissl.flood_fill",
        "nissl.volumes",
        "nissl.watershed.prediction",
        top={"torch", "sklearn", "h5py", *ARRAYS},  # h5py: stored thresholds of an affinity volume
        inside={"matplotlib", "PIL", "safetensors"},
    ),
    "runs": room(
        "nissl.evaluators.result",
        top={"numpy", "omegaconf", "yaml"},
        inside={
            "torch",
            "pytorch_lightning",
            "hydra",
            "matplotlib",
            "PIL",
            "jinja2",
            "markupsafe",
            "packaging",
            "safetensors",
            "trackio",
            "optuna",
            "submitit",
            "rich",
            "onnx",
        },
    ),
    "runs/dry": room("nissl.datasets.datamodule", top=set()),  # builds all, as train.py does
    "cli": room("nissl", top=set(), inside={"yaml"}),
    "__init__": room(top=set()),
}
# Files of runs/ that stand at the border to a framework; everything else there starts in a fraction of a second.
HYDRA = {"compose", "validate", "overrides", "origins", "config_files", "evaluation_config"}
LIGHTNING = {
    "periodic",
    "callbacks",
    "dry",
    "loggers",
    "progress",
    "weights",
}  # weights are tensors; train.py imports them after validation


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    is_top: bool


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file; those under `if TYPE_CHECKING` are none."""
    package = "nissl." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts[:-1])

    def visit(node: ast.AST, is_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, is_top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    base = ".".join([*package.rstrip(".").split(".")[: 2 - child.level], base]).rstrip(".")
                yield from (Import(f"{base}.{alias.name}", child.lineno, is_top) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            else:
                yield from visit(child, is_top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(ast.parse(path.read_text()), True)


def rules_of(path: Path) -> tuple[str, Room]:
    """The rules of a file: its own, or its room's."""
    name = str(path.relative_to(PACKAGE).with_suffix(""))
    folder = name.split("/")[0]
    found = ROOMS.get(name) or ROOMS[folder]
    if folder == "runs" and (stem := path.stem) in HYDRA | LIGHTNING:
        more = {"hydra"} if stem in HYDRA else {"pytorch_lightning", "torch"}
        found = Room(found.nissl, found.top | more, found.inside)
    return folder, found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_room_allows(path: Path) -> None:
    folder, rules = rules_of(path)
    own = f"nissl.{folder}"
    wrong = []
    for found in imports(path):
        package = found.module.split(".")[0]
        if package in sys.stdlib_module_names:
            continue
        if package == "nissl":
            # Evaluators and data sets share arithmetic inside their room; a room does not reach into another.
            allowed = found.module == "nissl.__version__" or found.module.startswith((f"{own}.", *rules.nissl))
        elif found.is_top:
            allowed = package in rules.top
        else:
            allowed = package in rules.top | rules.inside
        if not allowed:
            wrong.append(f"line {found.line}: {found.module} {'at the top' if found.is_top else 'inside'}")
    assert not wrong, f"{path}: {wrong}"


@pytest.mark.parametrize("path", [ROOT / "train.py", ROOT / "evaluate.py"], ids=lambda path: path.name)
def test_an_entry_script_fits_on_a_screen_and_starts_light(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 60
    tops, names = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names.update(modules)
            if node.col_offset == 0:
                tops.update(module.split(".")[0] for module in modules)
    assert tops <= {"hydra", "omegaconf", "nissl", *sys.stdlib_module_names}
    ours = {name for name in names if name.startswith("nissl")}
    assert all(name.startswith(("nissl.runs", "nissl.datasets.datamodule")) for name in ours), ours


def test_dashboards_and_other_frameworks_stay_at_the_edge() -> None:
    users: dict[str, set[str]] = {}
    for path in SOURCES:
        for found in imports(path):
            package = found.module.split(".")[0]
            if package in FRAMEWORKS | {"wandb"}:
                users.setdefault(package, set()).add(str(path.relative_to(PACKAGE)))
    assert not users.get("wandb") and not users.get("lightning")
    assert users["trackio"] <= {"runs/board.py", "runs/loggers.py", "runs/sync.py"}
    rooms = {name.split("/")[0] for name in users["pytorch_lightning"]}
    assert rooms <= {"tasks", "runs", "datasets"} and "datasets/datamodule.py" in users["pytorch_lightning"]


def test_no_module_is_named_after_nothing() -> None:
    banned = {"utils", "helpers", "misc", "common", "legacy", "tools"}
    assert not [path for path in SOURCES if path.stem in banned or path.stem.startswith("old_")]


def test_every_module_says_what_it_is() -> None:
    assert not [
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
