import zipfile

import numpy as np
import pytest

from nissl.volumes.nml import parse_nml, read_tracings, skeletons_of, write_nml
from nissl.volumes.skeletons import Skeletons

# Two trees that use the same node ids; an edge to a node that is not there; anisotropic voxels; a spine by comment.
TRACING = b"""<?xml version="1.0" encoding="utf-8"?>
<things>
  <parameters><experiment name="x"/><scale x="11.0" y="11.0" z="25.0"/></parameters>
  <thing id="1" name="dendrite of cell 4" color.r="0.1">
    <nodes>
      <node id="1" x="10" y="20" z="3" radius="40" inVp="0" time="12"/>
      <node id="2" x="11" y="20" z="3"/>
      <node id="3" x="12" y="20" z="3"/>
      <node id="4" x="11" y="23" z="3"/>
    </nodes>
    <edges><edge source="1" target="2"/><edge source="2" target="3"/><edge source="4" target="2"/>
      <edge source="3" target="99"/></edges>
  </thing>
  <thing id="2" groupId="8">
    <nodes><node id="1" x="0" y="0" z="0"/><node id="2" x="0" y="0" z="2"/></nodes>
    <edges><edge source="1" target="2"/><edge source="2" target="1"/></edges>
  </thing>
  <thing id="3" name="empty"><nodes/><edges/></thing>
  <branchpoints><branchpoint id="2"/></branchpoints>
  <comments><comment node="4" content="spine head"/></comments>
  <groups><group id="5" name="Axons"><group id="8" name="thick"/></group></groups>
</things>"""


def test_a_tracing_is_read_in_nm_and_zyx_with_ids_that_repeat(caplog):
    skeletons, names = skeletons_of([parse_nml(TRACING, "t.nml")], name="t.nml")
    assert names == ["dendrite of cell 4", "Tree2"]
    assert skeletons.skeleton_of.tolist() == [1, 1, 1, 1, 2, 2]
    assert skeletons.nodes_zyx_nm[0].tolist() == [75, 220, 110]
    assert skeletons.edges.tolist() == [[0, 1], [1, 2], [1, 3], [4, 5]]  # the one drawn twice counts once
    assert skeletons.edge_lengths_nm.tolist() == [11, 11, 33, 50]
    assert skeletons.depth.tolist() == [0, 1, 2, 2, 0, 1]
    assert "1 edges name a node that is not there" in caplog.text


def test_types_come_from_names_groups_and_comments():
    skeletons, _ = skeletons_of([parse_nml(TRACING, "t.nml")])
    dendrite, spine, axon = 3, 4, 2
    assert skeletons.node_type.tolist() == [dendrite] * 3 + [spine] + [axon] * 2
    plain, _ = skeletons_of([parse_nml(TRACING, "t.nml")], type_patterns={"soma": "cell 4"})
    assert plain.node_type.tolist() == [1] * 4 + [0] * 2
    with pytest.raises(ValueError, match="unknown neurite types"):
        skeletons_of([parse_nml(TRACING, "t.nml")], type_patterns={"cilium": "x"})


def test_a_comment_reaches_to_the_tips_beyond_it():
    text = TRACING.replace(b'<comment node="4" content="spine head"/>', b'<comment node="2" content="axon starts"/>')
    skeletons, _ = skeletons_of([parse_nml(text.replace(b'groupId="8"', b""), "t.nml")])
    assert skeletons.node_type.tolist() == [3, 2, 2, 2, 0, 2]  # node ids repeat, so the second tree's node 2 as well


def test_coordinates_counted_from_one_another_scale_and_names_that_join():
    tracing = parse_nml(TRACING.replace(b'id="2" groupId="8"', b'id="2" name="dendrite of cell 4"'), "t.nml")
    skeletons, names = skeletons_of([tracing], scale_xyz_nm=(10, 10, 20), first_voxel=1, merge_names=True)
    assert skeletons.nodes_zyx_nm[0].tolist() == [40, 190, 90]
    assert names == ["dendrite of cell 4"] and set(skeletons.skeleton_of) == {1}


@pytest.mark.parametrize("ending", [".nml", ".nmx", ".k.zip"])
def test_a_written_tracing_reads_back_the_same(tmp_path, ending):
    nodes = np.array([[25.0, 11, 0], [50, 11, 11], [0, 0, 0], [12.5, 5.5, 33]])
    before = Skeletons(nodes, np.array([[0, 1], [2, 3]]), np.array([1, 1, 2, 2]), np.array([2, 2, 0, 4]))
    write_nml(tmp_path / f"t{ending}", before, (11.0, 11.0, 25.0), {1: 'a "quoted" & <odd> name'})
    after, names = skeletons_of(read_tracings(tmp_path / f"t{ending}"))
    assert after.nodes_zyx_nm == pytest.approx(before.nodes_zyx_nm)
    assert np.array_equal(after.edges, before.edges) and np.array_equal(after.skeleton_of, before.skeleton_of)
    assert np.array_equal(after.node_type, before.node_type)
    assert names[0] == 'a "quoted" & <odd> name'


def test_all_documents_of_a_zip_are_read_and_stay_apart(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.nmx", "w") as archive:
        archive.writestr("b.nml", TRACING)
        archive.writestr("a.nml", TRACING)
        archive.writestr("../evil.txt", "not read")
    skeletons, names = skeletons_of(read_tracings(tmp_path / "many.nmx"))
    assert len(names) == 4 and len(skeletons.skeleton_of) == 12


ENTITY = b'<!DOCTYPE things [<!ENTITY a "aaaa">]><things>&a;</things>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENTITY, "declares a document type or an entity"),
        (
            b"<things><thing><nodes><node id='1' x='1' y='2'/></nodes></thing></things>",
            "needs a number as 'z', came None",
        ),
        (b"<nodes/>", "its root is <nodes>"),
        (b"<things>", "is not XML"),
        (TRACING.replace(b"<scale", b"<scale unit='mile'"), "its scale in 'mile'"),
    ],
)
def test_what_is_wrong_with_a_tracing_is_said(content, message):
    with pytest.raises(ValueError, match=message):
        parse_nml(content, "bad.nml")


def test_a_tracing_needs_a_scale_and_a_node(tmp_path):
    with pytest.raises(ValueError, match="does not state its scale"):
        skeletons_of([parse_nml(TRACING.replace(b"scale", b"size"), "t.nml")])
    with pytest.raises(ValueError, match="no tree with a node"):
        skeletons_of([parse_nml(b"<things/>", "t.nml")], scale_xyz_nm=(1, 1, 1))
    (tmp_path / "no.nmx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is no zip file"):
        read_tracings(tmp_path / "no.nmx")
    with pytest.raises(FileNotFoundError):
        read_tracings(tmp_path / "gone.nml")


def test_a_document_beyond_the_limit_is_not_unpacked_further(tmp_path, monkeypatch):
    monkeypatch.setattr("nissl.volumes.nml.MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.nmx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.nml", b"<things>" + b" " * 10**6 + b"</things>")
    with pytest.raises(ValueError, match="MiB; at most"):
        read_tracings(tmp_path / "bomb.nmx")
