from pathlib import Path

import pytest

from nissl.runs import signatures
from nissl.runs.origins import ConfigTree
from nissl.runs.signatures import TargetError, module_file, signature


def write(tree: ConfigTree, module: str, source: str) -> None:
    (tree.folder.parent / "nissl" / f"{module}.py").write_text(source)
    signatures._tree.cache_clear()
    signatures.module_file.cache_clear()
    signatures.signature.cache_clear()


def test_signatures_equal_what_inspect_finds() -> None:
    import inspect

    import torch

    for name in ("AdamW", "SGD", "RMSprop"):
        found = signature(f"torch.optim.{name}")
        real = inspect.signature(getattr(torch.optim, name)).parameters
        assert list(found.parameters) == list(real)
        assert [p.required for p in found.parameters.values()] == [p.default is p.empty for p in real.values()]


def test_reexports_and_renames_are_followed(tree: ConfigTree) -> None:
    write(tree, "first", "class A:\n    def __init__(self, x: int): ...\n")
    write(tree, "second", "from .first import A as B\nC = B\n")
    write(tree, "third", "from nissl.second import *\n")
    assert list(signature("nissl.second.C").parameters) == ["x"]
    assert list(signature("nissl.third.B").parameters) == ["x"]
    assert signature("pytorch_lightning.Trainer").where.split("/")[-1].startswith("trainer.py:")


def test_arguments_are_inherited_through_a_module_alias(tree: ConfigTree) -> None:
    write(tree, "first", "class A:\n    def __init__(self, x, *, y=1): ...\n")
    write(tree, "second", "import nissl.first as f\nclass B(f.A):\n    pass\n")
    found = signature("nissl.second.B")
    assert {name: p.required for name, p in found.parameters.items()} == {"x": True, "y": False}


def test_dataclass_fields_are_arguments(tree: ConfigTree) -> None:
    write(
        tree,
        "first",
        "@dataclass\nclass A:\n    x: int\n    kind: ClassVar[str] = 'a'\n"
        "@dataclass(frozen=True)\nclass B(A):\n    y: list = field(default_factory=list)\n"
        "    z: int = field(init=False)\n",
    )
    assert {name: p.required for name, p in signature("nissl.first.B").parameters.items()} == {"x": True, "y": False}


def test_keyword_arguments_and_unreadable_bases_leave_a_signature_open(tree: ConfigTree) -> None:
    write(tree, "first", "class A:\n    def __init__(self, x, **rest): ...\nclass B(Unknown): ...\nclass C: ...\n")
    assert signature("nissl.first.A").is_open and signature("nissl.first.B").is_open
    assert not signature("nissl.first.C").is_open and signature("nissl.first.C").parameters == {}


def test_metrics_are_read_from_the_class_or_its_base_and_unknown_if_computed(tree: ConfigTree) -> None:
    write(
        tree,
        "first",
        "class A:\n    metrics: dict = {'a': 'min'}\nclass B(A): ...\nclass C(A):\n    metrics = dict(a='min')\n",
    )
    assert signature("nissl.first.B").literals == {"metrics": {"a": "min"}}
    assert signature("nissl.first.C").literals == {"metrics": None}


def test_optional_imports_are_looked_into(tree: ConfigTree) -> None:
    write(tree, "first", "class A: ...\n")
    write(tree, "second", "try:\n    from nissl.first import A\nexcept ImportError:\n    A = None\n")
    assert signature("nissl.second.A").where.endswith("first.py:1")


def test_a_circle_of_imports_is_no_class(tree: ConfigTree) -> None:
    write(tree, "first", "from nissl.second import A\n")
    write(tree, "second", "from nissl.first import A\n")
    with pytest.raises(TargetError, match="no class 'A'"):
        signature("nissl.first.A")


def test_a_module_is_found_without_running_its_package(tree: ConfigTree) -> None:
    package = tree.folder.parent / "nissl" / "boom"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError\n")
    (package / "inner.py").touch()
    signatures.module_file.cache_clear()
    assert module_file("nissl.boom.inner") == package / "inner.py"
    assert module_file("nissl.boom.outer") is None
    assert isinstance(module_file("math"), Path | None)
