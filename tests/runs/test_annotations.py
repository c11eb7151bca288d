import ast
from typing import Any

import pytest

from nissl.runs.annotations import accepts


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -3], [1.0, True, "1", None, [1]]),
        ("float", [1, 1.5], [True, "1.5", None]),
        ("bool", [True], [1, "true", None]),
        ("str", ["a"], [1, None, ["a"]]),
        ("Path", ["a/b"], [1, None]),
        ("None", [None], [0]),
        ("int | None", [1, None], ["a"]),
        ("Optional[int]", [1, None], ["a"]),
        ("typing.Optional[Union[int, str]]", [1, "a", None], [1.5]),
        ("Literal['min', 'max']", ["min"], ["mni", 1]),
        ("list[int]", [[1, 2], []], [1, ["a"], [1, "a"]]),
        ("tuple[int, ...]", [[1, 2, 3]], [["a"], 1]),
        ("tuple[int, str]", [[1, "a"]], [[1], [1, 2], ["a", 1]]),
        ("Sequence[float]", [[1, 2.5]], [["a"], 3.0]),
        ("dict[str, int]", [{"a": 1}], [[1], "a"]),
        ("float | Tensor", [1.0], ["a", None]),
        ("'int'", [1], ["a"]),
        ("Annotated[int, 'positive']", [1], ["a"]),
    ],
)
def test_simple_types_are_told_apart(annotation: str, good: list[Any], bad: list[Any]) -> None:
    node = ast.parse(annotation, mode="eval").body
    assert all(accepts(node, value) for value in good)
    assert not any(accepts(node, value) for value in bad)


@pytest.mark.parametrize("annotation", ["Any", "Callable[..., Optimizer]", "_PATH", "Float[Tensor, 'b d']", "Anneal"])
def test_what_cannot_be_judged_passes(annotation: str) -> None:
    node = ast.parse(annotation, mode="eval").body
    assert accepts(node, 1) and accepts(node, "a") and accepts(node, {"_target_": "x"})
    assert accepts(None, 1)
