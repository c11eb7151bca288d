"""Public data sets nissl knows: what they are, whose they are, how to get them, and what their files look like.

Nothing is downloaded. Sets with files are those that experiments and tests here use; `nissl data check` verifies them
below the data root (`catalogue_check`). Sets without files are known to fit and must be fetched and converted by hand.
Sizes in bytes, shapes in the order of the file's own axes (zyx for volumes, time first for movies).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Shape = tuple[int, ...]


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes:
        path: below the data root.
        shapes: array name -> shape; for an archive the number of SWC files, for a table its rows.
    """

    path: str
    num_bytes: int
    sha256: str
    shapes: dict[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One data set; `files` is empty where nothing here describes its files."""

    name: str
    kind: Literal["em", "morphology", "calcium", "weights"]
    what: str
    licence: str
    citation: str
    how: str
    files: tuple[File, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        name="em_fib25",
        kind="em",
        what=(
            "Drosophila medulla, FIB-SEM, 165 x 250 x 250 at 10 nm isotropic; dense proofread labels, "
            "skeletons, published FFN segmentation"
        ),
        licence="CC BY (FlyEM, HHMI Janelia); the reference segmentation Apache-2.0",
        citation=(
            "Takemura et al. 2015 PNAS 112:13711; Parag et al. 2015 PLoS ONE 10:e0125825; Januszewski et al. "
            "2018 Nat Methods 15:605"
        ),
        how=(
            "github.com/janelia-flyem/neuroproof_examples, training_sample2 (grayscale_maps, "
            "groundtruth.h5.gz with its transforms); github.com/google/ffn, results/fib25/sample-"
            "training2.npz"
        ),
        files=(
            File(
                "em/fib25_train.h5",
                10_661_543,
                "20ccb4c3b8fad18db16c32aed87754f0100b4a9d7cff8c7dbd7ee9882ec81c91",
                {"ffn_reference_segmentation": (165, 250, 250), "labels": (165, 250, 250), "raw": (165, 250, 250)},
            ),
            File(
                "em/fib25_train_skeletons.npz",
                190_140,
                "1039895924af7c5d117ce522cc57ecffde79427afd343ff6e1404c401a758114",
                {
                    "nodes_zyx_nm": (23823, 3),
                    "edges": (23661, 2),
                    "node_label": (23823,),
                    "node_radius_nm": (23823,),
                    "labels": (154,),
                    "resolution_nm_zyx": (3,),
                },
            ),
        ),
    ),
    Entry(
        name="em_gala",
        kind="em",
        what=(
            "Drosophila medulla, FIB-SEM, 50 x 100 x 200, nominally 10 nm isotropic; labels, watershed "
            "supervoxels, skeletons"
        ),
        licence="BSD-style, Copyright 2012 HHMI",
        citation="Nunez-Iglesias et al. 2013 PLoS ONE 8:e71715",
        how=("github.com/janelia-flyem/gala, tests/example-data (train-image.h5, train-gt.lzf.h5, train-ws.lzf.h5)"),
        files=(
            File(
                "em/gala_train.h5",
                1_172_979,
                "30ed33c09de99c90292af1732944565c8784185c315ff9c719a3a4cdbc6c7277",
                {"labels": (50, 100, 200), "oversegmentation": (50, 100, 200), "raw": (50, 100, 200)},
            ),
            File(
                "em/gala_train_skeletons.npz",
                23_209,
                "14a93316d7d01f78c77e08b22e4b939eaaba6ad048db324a894ffabe3a35be8c",
                {
                    "nodes_zyx_nm": (2930, 3),
                    "edges": (2887, 2),
                    "node_label": (2930,),
                    "node_radius_nm": (2930,),
                    "labels": (43,),
                    "resolution_nm_zyx": (3,),
                },
            ),
        ),
    ),
    Entry(
        name="em_mouse_v1",
        kind="em",
        what=("mouse visual cortex, 256^3 at 40 x 16 x 16 nm; automated labels and skeletons only, no raw image"),
        licence="carrying repository GPL-3; data MICrONS phase 1, public",
        citation="Turner et al. 2022 Cell 185:1082",
        how="github.com/seung-lab/kimimaro, benchmarks/connectomics.npy.ckl.gz, central 256^3",
        files=(
            File(
                "em/mouse_v1_labels_only.h5",
                2_938_763,
                "44e1e2d592eecc1721fab29ed20e0db393750858d6436ecacf68e654ed1a0493",
                {"labels": (256, 256, 256)},
            ),
            File(
                "em/mouse_v1_labels_only_skeletons.npz",
                473_750,
                "480700c0e5c1fa6cfbabb6bea919e8fc924395a7b07dc6a5422e883488f3a221",
                {
                    "nodes_zyx_nm": (65951, 3),
                    "edges": (65570, 2),
                    "node_label": (65951,),
                    "node_radius_nm": (65951,),
                    "labels": (314,),
                    "resolution_nm_zyx": (3,),
                },
            ),
        ),
    ),
    Entry(
        name="em_vnc",
        kind="em",
        what=(
            "Drosophila larva nerve cord, serial-section TEM, 20 x 768 x 640 at 50 x 4.6 x 4.6 nm; tissue "
            "classes, derived labels (no accuracy claims)"
        ),
        licence="CC BY-NC-SA 3.0: NON-COMMERCIAL",
        citation="Gerhard et al. 2013, figshare 10.6084/m9.figshare.856713",
        how="github.com/unidesigner/groundtruth-drosophila-vnc, stack1",
        files=(
            File(
                "em/vnc_sstem_train.h5",
                10_604_420,
                "8a12bf07743716fb610cc7e78418ac7e5c38dfcd7fd89fe8f16185906c38084c",
                {"classes": (20, 768, 640), "labels": (20, 768, 640), "raw": (20, 768, 640)},
            ),
        ),
    ),
    Entry(
        name="morphology_rat_s1",
        kind="morphology",
        what="237 neurons, rat somatosensory cortex: 119 principal cells, 118 interneurons",
        licence=("NeuroMorpho.Org terms of use (free reuse, citing the original article and NeuroMorpho.Org)"),
        citation="Ascoli et al. 2007 J Neurosci 27:9247 and the papers in metadata.csv",
        how="neuromorpho.org; columns of metadata.csv name the files",
        files=(
            File(
                "swc/rat_s1.tar.gz",
                11_106_628,
                "b3b41f2d6dfbfe748cbb5fb75d2faf355e66a80ebdd283f4c8f49f67e5e99dc4",
                {"*.swc": (237,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="morphology_allen",
        kind="morphology",
        what="70 neurons, mouse visual cortex, 10 Cre lines, spiny and aspiny",
        licence="Allen Institute terms of use: research and NON-COMMERCIAL, with citation",
        citation="Allen Institute for Brain Science, Allen Cell Types Database",
        how="celltypes.brain-map.org",
        files=(
            File(
                "swc/allen_visual.tar.gz",
                5_263_706,
                "977c5a801d0d9f28b201fc8657ff9addd72eb2ce3f9ecc45f08534b223a11253",
                {"*.swc": (70,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="morphology_fly_medulla",
        kind="morphology",
        what="272 neurons, Drosophila medulla, 89 types; positions in voxels",
        licence=("NeuroMorpho.Org terms of use (free reuse, citing the original article and NeuroMorpho.Org)"),
        citation="Takemura et al. 2015 PNAS 112:13711; Ascoli et al. 2007 J Neurosci 27:9247",
        how="neuromorpho.org; columns of metadata.csv name the files",
        files=(
            File(
                "swc/fly_medulla.tar.gz",
                5_731_489,
                "c1ae459345589d0c3867e8da6058057f31e8dedce5b02529aa407d89087fabcf",
                {"*.swc": (272,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="morphology_fly_pn",
        kind="morphology",
        what="23 olfactory projection neurons, Drosophila, 4 types",
        licence="GPL-3 (package nat)",
        citation="see metadata.csv",
        how="data of the R package nat",
        files=(
            File(
                "swc/fly_pn.tar.gz",
                78_488,
                "fb1cc6c5317e4b7cab1d3e39981b5c9bbfa2df0910b7adbb2a45c35bde7991ce",
                {"*.swc": (23,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="morphology_four_families",
        kind="morphology",
        what="88 trees of 4 families: olivocerebellar, hippocampal interneuron, Purkinje, motoneuron",
        licence=("NeuroMorpho.Org terms of use (free reuse, citing the original article and NeuroMorpho.Org)"),
        citation="Ascoli et al. 2007 J Neurosci 27:9247 and the papers in metadata.csv",
        how="neuromorpho.org; columns of metadata.csv name the files",
        files=(
            File(
                "swc/four_families.tar.gz",
                4_104_461,
                "14b5cce10ad214459eeacfc49aa175699d8e055246aec5ea20a6935409a1dd47",
                {"*.swc": (88,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="morphology_hemibrain_da1",
        kind="morphology",
        what="5 DA1 projection neurons of the hemibrain, Drosophila",
        licence="CC BY 4.0; carrying repository GPL-3",
        citation="see metadata.csv",
        how="data of an R package; columns of metadata.csv",
        files=(
            File(
                "swc/hemibrain_da1.tar.gz",
                275_278,
                "2dbea8a5a894c6e6557472eb8daa3dccf8caca439b4d4c91c9a3a5b5ca0c38e2",
                {"*.swc": (5,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="morphology_l6b",
        kind="morphology",
        what="28 neurons, rat barrel cortex layer 6B, 5 shapes",
        licence=("NeuroMorpho.Org terms of use (free reuse, citing the original article and NeuroMorpho.Org)"),
        citation="Ascoli et al. 2007 J Neurosci 27:9247 and the papers in metadata.csv",
        how="neuromorpho.org; columns of metadata.csv name the files",
        files=(
            File(
                "swc/l6b.tar.gz",
                4_437_525,
                "bd326fce7a4fdf4448983c649c7908ad7b365761d8f99221b44c9ebcf2b62f40",
                {"*.swc": (28,)},
            ),
            File(
                "swc/metadata.csv",
                328_669,
                "cf71debf48b8b87006cab1a8955617f1d85dea0567bd2db24e620385077befd1",
                {"rows": (723,)},
            ),
        ),
    ),
    Entry(
        name="calcium_mouse_s1",
        kind="calcium",
        what=(
            "two-photon, mouse barrel cortex in a tactile corridor, 350 frames of 64 x 64, running speed and "
            "corridor position"
        ),
        licence="Apache-2.0",
        citation="Sofroniew et al. 2015 eLife 4:e12559; Freeman et al. 2014 Nat Methods 11:941",
        how="github.com/thunder-project/thunder, commit 51ba87ce, thunder/utils/data/mouse",
        files=(
            File(
                "calcium/mouse_s1_navigation.h5",
                1_279_900,
                "b8090db288fab6df3e55e24240a2e81fd9e413f05f442360a27b7131ef96bb34",
                {"corridor_position": (350,), "movie": (350, 64, 64), "running_speed": (350,)},
            ),
        ),
    ),
    Entry(
        name="calcium_zebrafish",
        kind="calcium",
        what="light-sheet, larval zebrafish brain, 240 frames of 2 x 76 x 87, no labels",
        licence="Apache-2.0",
        citation="Vladimirov et al. 2014 Nat Methods 11:883; Freeman et al. 2014 Nat Methods 11:941",
        how="github.com/thunder-project/thunder, thunder/utils/data/fish/series",
        files=(
            File(
                "calcium/zebrafish_lightsheet.h5",
                924_822,
                "23ad837f8b4e7d4dffea2ed263502e873f9442015f81156a2523f2b486c497e1",
                {"movie": (240, 2, 76, 87)},
            ),
        ),
    ),
    Entry(
        name="weights_ffn_fib25",
        kind="weights",
        what=(
            "flood-filling network published for FIB-25: depth 12, 32 features, field of view 33^3; outputs "
            "to compare with"
        ),
        licence="Apache-2.0",
        citation="Januszewski et al. 2018 Nat Methods 15:605",
        how=("github.com/google/ffn, models/fib25; then: nissl import ffn <prefix> --out <file>.safetensors"),
        files=(
            File(
                "weights/ffn_fib25/model.ckpt-27465036.data-00000-of-00001",
                2_553_784,
                "a2910768255bbb1dc5be27a947e4107dd29ccd221646b676ec225981af5526f1",
            ),
            File(
                "weights/ffn_fib25/model.ckpt-27465036.index",
                2_343,
                "6c7b66baa8dae766907f86ca068517fedcfdd85fb7e322d05cd2401ab7b252cc",
            ),
            File(
                "weights/ffn_fib25/parity.npz",
                931_734,
                "4706e5c698b186dcf9b03fda5611bd9764aca588d475c235770e34beaf8b86bf",
            ),
        ),
    ),
    Entry(
        name="weights_graph_dino_allen",
        kind="weights",
        what=(
            "GraphDINO published for the Allen cells: 200 nodes, 32 dimensions, depth 7, 1000 prototypes; "
            "outputs to compare with"
        ),
        licence="MIT",
        citation="Weis et al. 2023 Transactions on Machine Learning Research",
        how=("github.com/marissaweis/ssl_neuron; then: nissl import graph_dino <ckpt.pt> --out <file>.safetensors"),
        files=(
            File(
                "weights/graph_dino_allen/ckpt.pt",
                3_530_567,
                "73212927b78359e520a6f47d79b506548a85ba9a00e3b516b7b36d7ff60ad21c",
            ),
            File(
                "weights/graph_dino_allen/parity.npz",
                129_484,
                "0f2982e5fabcdf404f25d063546efafeb00a26c116b2fda3f4889505776f5125",
            ),
        ),
    ),
    Entry(
        name="cremi",
        kind="em",
        what=("Drosophila brain (FAFB), ssTEM, three 125 x 1250 x 1250 training volumes at 40 x 4 x 4 nm with labels"),
        licence="see the site",
        citation="CREMI challenge, MICCAI 2016",
        how="cremi.org, HDF5; use dataset=em_volume",
    ),
    Entry(
        name="snemi3d",
        kind="em",
        what="mouse somatosensory cortex, 100 x 1024 x 1024 at 30 x 6 x 6 nm with labels",
        licence="see the site",
        citation="Kasthuri et al. 2015 Cell 162:648",
        how="snemi3d.grand-challenge.org; convert to HDF5, use dataset=em_volume",
    ),
    Entry(
        name="microns",
        kind="em",
        what="mouse visual cortex, cubic millimetre; imagery, segmentation, skeletons",
        licence="see the site",
        citation="MICrONS Consortium 2025 Nature 640:435",
        how="microns-explorer.org (precomputed volumes)",
    ),
    Entry(
        name="neuromorpho",
        kind="morphology",
        what="reconstructions of many species and areas, SWC",
        licence="NeuroMorpho.Org terms of use (free reuse, citing the original article and NeuroMorpho.Org)",
        citation="Ascoli et al. 2007 J Neurosci 27:9247",
        how=(
            "neuromorpho.org: one laboratory's archive as .zip (CNG version), labels by folder or a CSV with "
            "file and label; then dataset=morphology_neuromorpho dataset.path=<zip or folder>"
        ),
    ),
    Entry(
        name="bbp",
        kind="morphology",
        what="rat somatosensory cortex of the Blue Brain Project; m-types are not in the files",
        licence="see the site",
        citation="Ramaswamy et al. 2015 Front Neural Circuits 9:44",
        how=(
            "neuromorpho.org, archive Markram, or the NMC portal; SWC in swc/bbp and swc/bbp/metadata.csv "
            "with file and mtype; then dataset=morphology_bbp"
        ),
    ),
    Entry(
        name="m1_patchseq",
        kind="morphology",
        what="mouse motor cortex, Patch-seq cells with transcriptomic types",
        licence="see the site",
        citation="Scala et al. 2021 Nature 598:144",
        how=(
            "links in github.com/berenslab/mini-atlas (reconstructions at BIL, types in its tables); SWC in "
            "swc/m1_patchseq and metadata.csv with file and type; then dataset=morphology_m1_patchseq"
        ),
    ),
    Entry(
        name="allen_cell_types",
        kind="morphology",
        what="mouse and human cortex, the whole database",
        licence="Allen Institute terms of use: research and NON-COMMERCIAL, with citation",
        citation=(
            "Allen Institute for Brain Science, Allen Cell Types Database; angles: Gouwens et al. 2019 Nat "
            "Neurosci 22:1182, supplementary data 3"
        ),
        how=(
            "celltypes.brain-map.org: SWC by specimen in swc/allen_cell_types and metadata.csv with file, "
            "dendrite_type, upright_angle and estimated_slice_angle; then dataset=morphology_allen_cell_types"
        ),
    ),
    Entry(
        name="bil",
        kind="morphology",
        what="whole mouse brain, full morphologies",
        licence="see the site",
        citation="Peng et al. 2021 Nature 598:174",
        how=(
            "brainimagelibrary.org: *reg.swc in swc/bil and metadata.csv with file and "
            "structure_merge__acronym; files named *__reg.swc are in voxels (0.114, 0.114, 0.28 um); then "
            "dataset=morphology_bil"
        ),
    ),
    Entry(
        name="mouselight",
        kind="morphology",
        what="whole mouse brain, long-range axons",
        licence="CC BY-NC 4.0: NON-COMMERCIAL",
        citation="Winnubst et al. 2019 Cell 179:268",
        how=(
            "ml-neuronbrowser.janelia.org: JSON as downloaded in swc/mouselight and metadata.csv with file "
            "and label; then dataset=morphology_mouselight"
        ),
    ),
    Entry(
        name="jml",
        kind="morphology",
        what="the selection of MouseLight cells of TreeMoCo, 4 regions, SWC",
        licence="CC BY-NC 4.0: NON-COMMERCIAL",
        citation="Winnubst et al. 2019 Cell 179:268; Chen et al. 2022 NeurIPS 35",
        how=(
            "github.com/TencentAILabHealthcare/NeuronRepresentation lists the cells and folds (copies of the "
            "fold files disagree); SWC in swc/jml and metadata.csv with file and label; then "
            "dataset=morphology_jml"
        ),
    ),
    Entry(
        name="retina_ganglion_cells",
        kind="morphology",
        what="ganglion cells of the mouse retina from electron microscopy, by type",
        licence="see the site",
        citation="Bae et al. 2018 Cell 173:1293",
        how=(
            "museum.eyewire.org: skeletons as SWC with z through the inner plexiform layer, and a CSV with "
            "file and label; then dataset=morphology_retina dataset.path=<folder> dataset.metadata=<csv>"
        ),
    ),
    Entry(
        name="botanical_trees",
        kind="morphology",
        what="trees as graphs, by species: a check of the method without neurons",
        licence="see the site",
        citation="Seidel et al. 2021 Front Plant Sci 12:635440",
        how=(
            "from the article: node tables in the columns of SWC (id type x y z radius parent, m) and a CSV "
            "with file and label; then dataset=morphology_trees dataset.path=<folder> dataset.metadata=<csv>"
        ),
    ),
)
