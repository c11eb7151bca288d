"""One tiny text per pathology: diagnosed under its own code, repaired to one tree, refused under `strict`."""

import os
from pathlib import Path

import numpy as np
import pytest

from nissl.datasets.cell_graph import CellGraph, path_length
from nissl.datasets.swc import merge_coincident, parse_swc, read_swc, write_swc
from nissl.datasets.swc_report import Rules, SwcError

FILES = Path(__file__).parent / "swc_files"  # one tiny file per pathology, named by its code
HOPELESS = ("empty", "not_a_number", "not_an_integer", "short_line", "soma_only")
HARMLESS = ("clean", "number_parsing")  # no finding
TEXTS = {path.stem: path.read_bytes().decode() for path in sorted(FILES.glob("*.swc"))}
REPAIRABLE = {code: text for code, text in TEXTS.items() if code not in (*HOPELESS, *HARMLESS)}
CLEAN = TEXTS["clean"]
# Every row of the specification's table that a file alone can show; `not_upright` cannot be seen in one.
SPECIFIED = """several_roots child_before_parent missing_parent parent_zero ids_from_zero gaps_in_ids duplicate_id
self_parent cycle float_id number_parsing tabs coincident_nodes no_soma soma_unlabelled soma_not_root
soma_with_neurite_parent several_somata soma_points soma_rule_broken soma_bifurcates soma_displaced custom_types
all_type_zero wrong_unit disconnected_after_conversion non_finite non_positive_radius empty soma_only""".split()
RULES = Rules(root="first", soma="first")
ALSO = {"wrong_unit": {"soma_displaced"}}


def cell_of(text: str, rules: Rules = RULES) -> CellGraph:
    cell, _ = parse_swc(text, "cell.swc", rules)
    assert cell is not None
    return cell


def cable_um(cell: CellGraph) -> float:
    return float(cell.edge_length_um.sum())


def assert_is_a_tree(cell: CellGraph) -> None:
    assert cell.parent[0] == -1 and np.sum(cell.parent < 0) == 1
    assert np.all(cell.parent[1:] < np.arange(1, len(cell)))


def test_every_specified_pathology_has_a_file() -> None:
    assert set(SPECIFIED) <= set(TEXTS)


def test_long_decimals_are_read_exactly_and_are_no_finding() -> None:
    cell, report = parse_swc(TEXTS["number_parsing"], "cell.swc")
    assert cell is not None and report.codes == [] and cell.parent.tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(cell.pos[1], np.float32([-0.0017926065475997177, 20.000000000000004, 1e-3]))
    np.testing.assert_array_equal(cell.pos[2], np.float32([-17.926065475997177, 40.0, 0.5]))


def test_a_clean_file_has_no_findings() -> None:
    cell, report = parse_swc(CLEAN, "cell.swc")
    assert report.codes == [] and cell is not None
    assert cable_um(cell) == pytest.approx(20 + 20 + 2 * np.hypot(10, 20) + 30)


@pytest.mark.parametrize("code", [*REPAIRABLE, *HOPELESS])
def test_diagnosis_finds_exactly_the_pathology(code: str) -> None:
    cell, report = parse_swc(TEXTS[code], "cell.swc", Rules(policy="diagnose"))
    assert cell is None
    assert [c for c in report.codes if c not in ALSO.get(code, set())] == [code]
    assert all(finding.fix == "" for finding in report.findings)


@pytest.mark.parametrize("code", REPAIRABLE)
def test_repair_gives_one_tree_rooted_at_node_0(code: str) -> None:
    cell, report = parse_swc(REPAIRABLE[code], "cell.swc", RULES)
    assert cell is not None and code in report.codes
    assert_is_a_tree(cell)
    finding = next(f for f in report.findings if f.code == code)
    assert finding.fix or finding.advice, "a finding says what was done or what to do"


@pytest.mark.parametrize("code", HOPELESS)
def test_what_cannot_be_repaired_raises_with_file_and_advice(code: str) -> None:
    with pytest.raises(SwcError, match=f"{code} in 'cell.swc'.*: .+"):
        parse_swc(TEXTS[code], "cell.swc", RULES)


@pytest.mark.parametrize("code", REPAIRABLE)
def test_strict_raises_on_errors_and_on_nothing_less(code: str) -> None:
    _, report = parse_swc(REPAIRABLE[code], "cell.swc", Rules(policy="diagnose", root="first"))
    strict = Rules(policy="strict", root="first", soma="first")
    if any(f.severity == "error" for f in report.findings):
        with pytest.raises(SwcError, match=f"{code} in 'cell.swc'"):
            parse_swc(REPAIRABLE[code], "cell.swc", strict)
    else:
        parse_swc(REPAIRABLE[code], "cell.swc", strict)


@pytest.mark.parametrize(("code", "advice"), [("no_soma", "root='first'"), ("several_somata", "soma='first'"),
                                              ("all_type_zero", "root='first'")])  # fmt: skip
def test_a_choice_about_the_soma_is_never_guessed(code: str, advice: str) -> None:
    with pytest.raises(SwcError, match=advice):
        parse_swc(REPAIRABLE[code], "cell.swc", Rules())


def test_shuffled_lines_and_other_ids_give_the_same_tree() -> None:
    reference = cell_of(CLEAN)
    lines = CLEAN.splitlines()[1:]
    for order in ([5, 3, 0, 4, 1, 2], [4, 5, 3, 2, 1, 0]):
        shuffled = cell_of("\n".join(lines[k] for k in order))
        assert {tuple(p) for p in shuffled.pos} == {tuple(p) for p in reference.pos}
        assert cable_um(shuffled) == pytest.approx(cable_um(reference))
    renamed = "\n".join(
        " ".join([str(int(f[0]) * 10 + 3), *f[1:6], f[6] if f[6] == "-1" else str(int(f[6]) * 10 + 3)])
        for f in map(str.split, lines)
    )
    np.testing.assert_array_equal(cell_of(renamed).pos, reference.pos)
    np.testing.assert_array_equal(cell_of(renamed).parent, reference.parent)


def test_writing_and_reading_is_the_identity(tmp_path: Path) -> None:
    cell = cell_of(REPAIRABLE["non_positive_radius"].replace("10 60", "10.1234567 -0.0017926065475997177"))
    write_swc(cell, tmp_path / "cell.swc")
    again, _ = read_swc(tmp_path / "cell.swc")
    assert again is not None
    for name in ("pos", "radius", "type", "parent"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cell, name))


def test_tabs_crlf_bom_commas_comments_and_exponents_parse_exactly() -> None:
    text = "\ufeff# header\r\n1\t1\t0\t0\t0\t5\t-1 # soma\r\n\r\n2,3,1e1,-0.0017926065475997177,0,1,1\r\n"
    cell = cell_of(text)
    np.testing.assert_array_equal(cell.pos[1], np.float32([10.0, -0.0017926065475997177, 0.0]))


def test_a_thin_node_is_not_taken_for_the_soma_if_a_radius_is_asked_for() -> None:
    text = TEXTS["soma_not_root"].replace("3 1 0 0 0 5", "3 3 0 0 0 5")
    thick = cell_of(text, Rules(root="largest_radius", min_soma_radius_um=4.0))
    np.testing.assert_array_equal(thick.pos[0], 0.0)
    with pytest.raises(SwcError, match="largest radius is 5 um, below min_soma_radius_um=6"):
        cell_of(text, Rules(root="largest_radius", min_soma_radius_um=6.0))


def test_ids_from_zero_keep_all_neurites() -> None:
    assert len(cell_of(REPAIRABLE["ids_from_zero"])) == 3


def test_a_three_point_soma_becomes_one_node_and_the_neurite_keeps_its_length() -> None:
    cell = cell_of(REPAIRABLE["soma_points"])
    assert len(cell) == 3 and cable_um(cell) == pytest.approx(40.0)


def test_a_contour_becomes_its_centroid() -> None:
    contour = "1 1 10 0 0 1 -1\n2 1 0 10 0 1 1\n3 1 -10 0 0 1 2\n4 1 0 -10 0 1 3\n5 3 0 30 0 1 4\n"
    cell = cell_of(contour)
    np.testing.assert_allclose(cell.pos[0], 0.0, atol=1e-6)
    assert cell.radius[0] == pytest.approx(10.0) and len(cell) == 2


def test_joined_gaps_are_reported_with_number_and_length() -> None:
    _, report = parse_swc(REPAIRABLE["several_roots"], "cell.swc", RULES)
    assert "joined 1 pieces over 20.0 um" in report.findings[0].fix  # from (10, 60) to (30, 60)


def test_loose_axon_is_dropped_when_axon_is_unwanted_and_far_pieces_beyond_the_gap_limit() -> None:
    loose_axon = CLEAN + "7 2 30 60 0 1 -1\n8 2 40 60 0 1 7\n"
    assert len(cell_of(loose_axon, Rules(drop_types=[2]))) == 6
    assert len(cell_of(loose_axon, Rules(max_gap_um=19.0))) == 6
    assert len(cell_of(loose_axon, Rules(max_gap_um=21.0))) == 8


def test_coincident_nodes_merge_on_request() -> None:
    text = CLEAN + "7 3 0 -30 0 1 6\n8 3 0 -30 0 1 7\n9 3 0 -50 0 1 8\n"
    kept, merged = cell_of(text), cell_of(text, Rules(merge_coincident=True))
    assert (len(kept), len(merged)) == (9, 7)
    assert cable_um(merged) == pytest.approx(cable_um(kept))
    assert len(merge_coincident(merged)) == 7


def test_positions_are_scaled_to_um() -> None:
    np.testing.assert_allclose(cell_of(CLEAN, Rules(scale_um=[2, 1, 1])).pos[:, 0], cell_of(CLEAN).pos[:, 0] * 2)


@pytest.mark.parametrize(("field", "value"), [("policy", "guess"), ("root", "soma"), ("soma", "all"), ("scale_um", 0)])
def test_a_wrong_rule_is_an_error_that_says_what_is_allowed(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one"):
        Rules(**{field: value})  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such SWC file"):
        read_swc(tmp_path / "nowhere.swc")


def test_binary_rubbish_is_an_error_not_a_crash() -> None:
    with pytest.raises(SwcError):
        parse_swc(bytes(range(256)) * 4, "cell.swc")


def test_the_report_is_json_and_a_table() -> None:
    _, report = parse_swc(REPAIRABLE["cycle"], "cell.swc", RULES)
    assert '"code": "cycle"' in report.to_json()
    assert report.rows()[0]["code"] == "cycle" and "error cycle (1, line 8)" in str(report)


def test_path_length_adds_up_edges() -> None:
    cell = cell_of(CLEAN)
    assert path_length(cell.parent, cell.edge_length_um).max() == pytest.approx(40 + np.hypot(10, 20))


@pytest.mark.data
def test_real_files_load() -> None:
    root = Path(os.environ.get("NISSL_DATA", "data")) / "swc" / "hemibrain_da1.tar.gz"
    if not root.is_file():
        pytest.skip(f"needs {root}; set NISSL_DATA")
    import tarfile

    with tarfile.open(root) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                cell, report = parse_swc(stream.read(), member.name, Rules(root="first", scale_um=0.008))
                assert cell is not None and len(cell) > 4000
                assert_is_a_tree(cell)
                assert "wrong_unit" not in report.codes
