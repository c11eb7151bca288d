"""The `nissl` program. Each subcommand imports what it needs when it runs, so that help and listings are quick.

Training and evaluation are `python train.py` and `python evaluate.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

Command = Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; the exit status is 0 when all is well, 1 on a problem, 2 on a wrong command line."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes what stands before the first option; overrides may also come after it.
    if rest and ("overrides" not in arguments or any(word.startswith("--") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    run: Command = arguments.run
    try:
        return run(arguments)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `nissl data list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nissl",
        description="Check, compare and look at runs. Training is 'python train.py', evaluation 'python evaluate.py'.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        found.set_defaults(run=run)
        return found

    validate = command("validate", _validate, "check configurations without importing torch")
    validate.add_argument("overrides", nargs="*", help="as after train.py; none: everything in conf/")
    validate.add_argument("--all", action="store_true", help="everything in conf/")
    validate.add_argument("-m", "--multirun", action="store_true", help="overrides are a grid: check every point")
    validate.add_argument("--root", choices=("train", "evaluate"), default="train", help="whose command line it is")

    explain = command("explain", _explain, "say which file or override set a value")
    explain.add_argument("key", help="such as model.depth; a section such as model for all its values")
    explain.add_argument("overrides", nargs="*", help="as after train.py")
    explain.add_argument("--root", choices=("train", "evaluate"), default="train")

    compare = command("compare", _compare, "runs side by side: statistics over seeds and the keys that differ")
    compare.add_argument("runs", nargs="*", type=Path, help="run folders, or folders of runs")
    compare.add_argument("--sweep", help="all trainings of a sweep: its folder, or its name below runs/sweeps")
    compare.add_argument("--metric", action="append", help="name in summary.json, * allowed; may be repeated")
    compare.add_argument("--where", action="append", default=[], help="such as 'model.depth>=7'; may be repeated")
    compare.add_argument("--sort", help="metric or key to order by; --sort=-name for largest first")
    compare.add_argument("--format", choices=("text", "md", "csv", "json", "html"), default="text")
    compare.add_argument("--out", type=Path, help="write to a file instead of the terminal")

    report = command("report", _report, "(re)build report.html of a run, an evaluation or a sweep")
    report.add_argument("run_dir", nargs="+", type=Path, metavar="folder")

    sweep = command("sweep", _sweep, "search configurations; starting it again continues it")
    sweep.add_argument("name", help="a file of conf/sweep, or the path of one")
    sweep.add_argument("overrides", nargs="*", help="sweep.trials=9 changes the search, others go to every training")
    sweep.add_argument("--folder", type=Path, help="where everything goes (default: runs/sweeps/<name>)")
    sweep.add_argument("--name", dest="rename", help="another name, for a changed search")
    sweep.add_argument("--resume", action="store_true", help="continue only: an error if there is nothing")
    sweep.add_argument("--retry-failed", action="store_true", help="train the failed trials again, as new ones")
    sweep.add_argument("--add-trials", type=int, default=0, metavar="N", help="N more than asked before")
    sweep.add_argument("--status", action="store_true", help="only print the table of trials")
    sweep.add_argument("--check", action="store_true", help="only check every point, and say how many there are")
    sweep.add_argument("--wandb", action="store_true", help="only write the same search for wandb's agents")

    verify = command("verify", _verify, "say what has changed since a run: code, data, packages")
    verify.add_argument("run_dir", type=Path, metavar="run")

    rerun = command("rerun", _rerun, "train a run again from its folder, and say whether the numbers agree")
    rerun.add_argument("run_dir", type=Path, metavar="run")
    rerun.add_argument("overrides", nargs="*", help="as after train.py, such as run_dir=runs/again")

    sync = command("sync", _sync, "replay runs into a dashboard, once")
    sync.add_argument("runs", nargs="+", type=Path, help="run folders, or folders of runs")
    sync.add_argument("--to", choices=("wandb", "trackio", "tensorboard"), required=True)

    board = command("board", _board, "open the local dashboard of all runs")
    board.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    board.add_argument("--sweep", type=Path, help="optuna's dashboard of this sweep's folder instead")
    board.add_argument("--port", type=int, help="default: the first free one from 7860")
    board.add_argument("--no-open", action="store_true", help="do not open a browser")

    doctor = command("doctor", _doctor, "say what is installed, what is missing, and what to do")
    doctor.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    patients = doctor.add_subparsers(title="commands", metavar="swc")
    swc = patients.add_parser("swc", help="what is wrong with SWC files, and what reading them would do")
    swc.add_argument("paths", nargs="+", type=Path, help="folders, .tar(.gz) or .zip archives, or files")
    swc.add_argument("--strict", action="store_true", help="refuse every error instead of repairing it")
    swc.add_argument("--root", choices=("error", "first", "largest_radius"), default="error",
                     help="what stands for a missing soma (default: error)")  # fmt: skip
    swc.add_argument("--soma", choices=("error", "first", "largest"), default="error",
                     help="which of several somata (default: error)")  # fmt: skip
    swc.add_argument("--scale-um", type=float, default=1.0, help="um per unit of the files (default: 1)")
    swc.add_argument("--pattern", default="*.swc", help="paths inside that are neurons (default: *.swc)")
    swc.add_argument("--long", action="store_true", help="every finding of every file, not the table alone")
    swc.add_argument("--csv", type=Path, help="also write one row per file and finding")
    swc.add_argument("--write", type=Path, metavar="FOLDER", help="also write the repaired files there")
    swc.set_defaults(run=_doctor_swc)

    data = command("data", _data_list, "known public data sets")
    data_commands = data.add_subparsers(title="commands", required=True, metavar="list|check")
    listing = data_commands.add_parser("list", help="size, licence, citation and how to get each")
    listing.add_argument("--long", action="store_true", help="with citation and origin in full")
    listing.set_defaults(run=_data_list)
    check = data_commands.add_parser("check", help="verify the files below NISSL_DATA by shape and checksum")
    check.add_argument("names", nargs="*", help="data sets; none: all")
    check.set_defaults(run=_data_check)

    importing = command("import", _import, "convert a published checkpoint to safetensors")
    importing.add_argument("model", help="a name in conf/model, such as ffn or graph_dino")
    importing.add_argument("checkpoint", type=Path, help="file, or prefix of a TensorFlow checkpoint")
    importing.add_argument("--out", type=Path, help="file to write; default: weights/<folder of it>.safetensors")
    importing.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what the checkpoint does not hold, such as fov_zyx=[17,33,33]; may be repeated",
    )

    exporting = command("export", _export, "write the network of a run as safetensors or ONNX")
    exporting.add_argument("run_dir", type=Path, metavar="run")
    exporting.add_argument("--out", type=Path, required=True, help="file ending in .safetensors or .onnx")
    exporting.add_argument("--weights", choices=("best", "last"), default="best")
    exporting.add_argument("--input", action="append", default=[], help="shape of an ONNX input, such as 1,64,64")

    skeletons = command("skeletonize", _skeletonize, "make skeletons of a label volume, where none were traced")
    skeletons.add_argument("volume", type=Path, help="HDF5 file")
    skeletons.add_argument("--labels", default="labels", help="its label dataset (default: labels)")
    skeletons.add_argument("--out", type=Path, required=True, help="npz file to write, for dataset.skeletons")
    skeletons.add_argument("--min-voxels", type=int, default=1000, help="smaller labels get none (default: 1000)")
    skeletons.add_argument("--scale", type=float, default=1.5, help="of TEASAR (default: 1.5)")
    skeletons.add_argument("--const-nm", type=float, default=100.0, help="of TEASAR (default: 100)")
    return parser


def data_root() -> Path:
    """NISSL_DATA, or `data` in the current folder."""
    return Path(os.environ.get("NISSL_DATA", "data")).expanduser().resolve()


def _validate(arguments: argparse.Namespace) -> int:
    from nissl.runs.compose import conf_dir
    from nissl.runs.origins import ConfigTree
    from nissl.runs.problems import report
    from nissl.runs.sweep_check import check_sweeps
    from nissl.runs.validate import check_overrides, validate_all

    tree = ConfigTree(conf_dir())
    if arguments.all or not arguments.overrides:
        if arguments.overrides:
            raise ValueError("--all checks everything in conf/ and takes no overrides")
        count, problems = validate_all(tree)
        num_sweeps, wrong_sweeps = check_sweeps(tree)
        count, problems = count + num_sweeps, problems + wrong_sweeps
        done = f"{count} configurations in {tree.folder} are valid"
    else:
        problems = check_overrides(arguments.root, arguments.overrides, tree, arguments.multirun)
        done = "this configuration is valid"
    print(report(problems) if problems else done, file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


def _explain(arguments: argparse.Namespace) -> int:
    from nissl.runs.compose import conf_dir
    from nissl.runs.origins import ConfigTree, explain
    from nissl.runs.overrides import compose_checked

    composed = compose_checked(arguments.root, arguments.overrides, ConfigTree(conf_dir()))
    print("\n".join(explain(composed, arguments.key)))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from nissl.runs.compare import compare
    from nissl.runs.tables import render

    runs = list(arguments.runs)
    if arguments.sweep:
        folder = Path(arguments.sweep)
        runs.append((folder if folder.is_dir() else Path("runs/sweeps") / arguments.sweep) / "trials")
    if not runs:
        raise ValueError("name run folders, or --sweep <name>")
    comparison = compare(runs, arguments.metric, arguments.where, arguments.sort)
    text = render(comparison, arguments.format)
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text)
        print(arguments.out)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from nissl.runs.report import build_report

    for folder in arguments.run_dir:
        if (folder / "sweep.yaml").exists():
            from nissl.runs.sweep_report import build_sweep_report

            print(build_sweep_report(folder))
        else:
            print(build_report(folder))
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from nissl.runs.sweep_check import checked_spec
    from nissl.runs.sweep_export import wandb_sweep

    spec = checked_spec(arguments.name, arguments.overrides, arguments.rename)
    folder = (arguments.folder or Path("runs/sweeps") / spec.name).resolve()
    if arguments.check:
        print(f"{spec.num_trials} trials of {len(spec.parts())} trainings each are valid")
        return 0
    if arguments.wandb:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "wandb_sweep.yaml"
        file.write_text(wandb_sweep(spec))
        print(f"{file}\nwandb sweep {file}   then, in this clone: wandb agent <what it prints>")
        return 0
    if (arguments.resume or arguments.status) and not (folder / "study.db").exists():
        raise ValueError(f"no sweep to continue in {folder}: leave out --resume, or name its --folder")
    from nissl.runs.executors import build_executor
    from nissl.runs.sweep import Sweep, open_study
    from nissl.runs.sweep_display import status_table
    from nissl.runs.sweep_report import build_sweep_report

    if arguments.status:
        study = open_study(folder, spec.name, spec.objective["direction"])
        print(status_table(study, spec.num_trials + int(study.user_attrs.get("extra", 0))), end="")
        return 0
    sweep = Sweep(spec, folder, build_executor(spec.executor, folder))
    print(f"{spec.num_trials} trials of {len(spec.parts())} trainings each in {folder}", flush=True)
    try:
        sweep.run(arguments.add_trials, arguments.retry_failed)
    finally:
        print(f"Report: {build_sweep_report(folder)}", flush=True)
    print(status_table(sweep.study, sweep.target), end="")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from nissl.runs.compose import read_config
    from nissl.runs.drift import verify
    from nissl.runs.migration import relocated_files

    moved = relocated_files(arguments.run_dir, read_config(arguments.run_dir), data_root())
    found = verify(arguments.run_dir, moved)
    print(*found, sep="\n", end="\n" if found else "")
    wrong = sum(drift.matters for drift in found)
    print(f"{wrong} differences can change the numbers" if wrong else "nothing that can change the numbers has changed")
    return 1 if wrong else 0


def _rerun(arguments: argparse.Namespace) -> int:
    import subprocess

    from nissl.runs.compose import conf_dir
    from nissl.runs.folder import new_name
    from nissl.runs.rerun import agreement, rerun_overrides

    chosen = [text.partition("=")[2] for text in arguments.overrides if text.startswith("run_dir=")]
    folder = Path(chosen[-1] if chosen else Path("runs") / new_name()).expanduser().resolve()
    more = arguments.overrides if chosen else [*arguments.overrides, f"run_dir={folder}"]
    overrides = rerun_overrides(arguments.run_dir, more)
    done = subprocess.run([sys.executable, str(conf_dir().parent / "train.py"), *overrides])
    if done.returncode != 0:
        return done.returncode
    answer = agreement(arguments.run_dir, folder)
    print(answer)
    return 1 if answer.different else 0


def _sync(arguments: argparse.Namespace) -> int:
    from nissl.runs.compare import find_runs
    from nissl.runs.sync import sync

    failed = 0
    for folder in find_runs(arguments.runs):
        try:
            print(sync(folder, arguments.to), flush=True)
        except ValueError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0


def _board(arguments: argparse.Namespace) -> int:
    from nissl.runs.board import serve, serve_sweep

    if arguments.sweep:
        serve_sweep(arguments.sweep, arguments.port)
        return 0
    serve(arguments.runs, arguments.port, not arguments.no_open)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nissl.datasets.catalogue import CATALOGUE
    from nissl.runs.doctor import diagnose

    data_sets = {entry.name: [file.path for file in entry.files] for entry in CATALOGUE if entry.files}
    findings = list(diagnose(arguments.runs, data_root(), data_sets))
    print(*findings, sep="\n")
    return 1 if any(finding.state == "problem" for finding in findings) else 0


def _doctor_swc(arguments: argparse.Namespace) -> int:
    from nissl.datasets.swc_doctor import diagnose_files, summary, write_clean, write_csv
    from nissl.datasets.swc_report import Rules

    rules = Rules(
        policy="strict" if arguments.strict else "repair",
        root=arguments.root,
        soma=arguments.soma,
        scale_um=arguments.scale_um,
    )
    seen = []
    for diagnosis in diagnose_files(arguments.paths, rules, arguments.pattern):
        seen.append(diagnosis)
        if arguments.long or diagnosis.outcome == "refused":
            print(diagnosis, flush=True)
    print(summary(seen))
    if arguments.csv is not None:
        write_csv(seen, arguments.csv)
        print(arguments.csv)
    if arguments.write is not None:
        print(f"{write_clean(seen, arguments.write)} files in {arguments.write}")
    return 1 if any(diagnosis.outcome == "refused" for diagnosis in seen) else 0


def _data_list(arguments: argparse.Namespace) -> int:
    from nissl.datasets.catalogue import CATALOGUE

    root = data_root()
    print(f"Data root: {root} ({'NISSL_DATA' if os.environ.get('NISSL_DATA') else 'default; set NISSL_DATA'})")
    print("Data keep their own licences; nothing is downloaded or packaged by nissl.\n")
    for entry in CATALOGUE:
        if entry.files:
            there = all((root / file.path).exists() for file in entry.files)
            place = f"{entry.num_bytes / 1e6:.1f} MB, {'present' if there else 'not here'}"
        else:
            place = "not bundled"
        print(f"{entry.name}  [{entry.kind}]  {place}\n    {entry.what}\n    licence: {entry.licence}")
        print(f"    cite: {entry.citation}\n    from: {entry.how}")
        if arguments.long:
            for file in entry.files:
                print(f"    file: {file.path}  {file.num_bytes} bytes  sha256 {file.sha256}")
    return 0


def _data_check(arguments: argparse.Namespace) -> int:
    from nissl.datasets.catalogue import CATALOGUE
    from nissl.datasets.catalogue_check import check_files
    from nissl.runs.problems import nearest

    entries = {entry.name: entry for entry in CATALOGUE if entry.files}
    for name in arguments.names:
        if name not in entries:
            close = nearest(name, entries)
            raise ValueError(
                f"no data set '{name}'" + (f"; did you mean '{close}'?" if close else "; see nissl data list")
            )
    chosen = [entries[name] for name in arguments.names] or list(entries.values())
    root = data_root()
    wrong = 0
    for checked in check_files(chosen, root):
        wrong += checked.state != "ok"
        line = f"{checked.state:<11}  {checked.file.path}" + (f"  ({checked.detail})" if checked.detail else "")
        print(
            line if checked.state == "ok" else f"{line}\n{'':13}{checked.entry}, from {entries[checked.entry].how}",
            flush=True,
        )
    print(f"not as they should be: {wrong} files of {root}" if wrong else f"all files of {root} are as they should be")
    return 1 if wrong else 0


def _import(arguments: argparse.Namespace) -> int:
    from nissl.runs.compose import conf_dir
    from nissl.runs.foreign import import_checkpoint

    out = arguments.out or Path("weights") / f"{arguments.checkpoint.resolve().parent.name}.safetensors"
    changed = _assignments(arguments.set)
    done = import_checkpoint(arguments.model, arguments.checkpoint, out, conf_dir(), changed)
    print(f"{done.path}: {done.num_tensors} tensors, {done.num_parameters:,} numbers")
    print("architecture: " + ", ".join(f"{key}={value}" for key, value in done.architecture.items()))
    print(f"use it: model={arguments.model} model.weights={done.path}")
    return 0


def _assignments(words: list[str]) -> dict[str, object]:
    """`key=value` as on train.py's command line: values are YAML."""
    import yaml

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {word}: expected KEY=VALUE, such as fov_zyx=[17,33,33]")
        found[key] = yaml.safe_load(value)
    return found


def _export(arguments: argparse.Namespace) -> int:
    from nissl.runs.export import export_run

    shapes = [[int(size) for size in text.split(",")] for text in arguments.input]
    done = export_run(arguments.run_dir, arguments.out, arguments.weights, shapes)
    print(f"{done.path}: {done.num_parameters:,} parameters")
    if done.path.suffix == ".safetensors":
        print(f"use it: model.weights={done.path}")
    return 0


def _skeletonize(arguments: argparse.Namespace) -> int:
    from nissl.volumes.chunked import read_hdf5, read_resolution_nm
    from nissl.volumes.skeleton_files import describe, write_npz
    from nissl.volumes.skeletonize import skeletonize

    if arguments.out.suffix != ".npz":
        raise ValueError(f"--out {arguments.out}: the name of a skeleton file ends in .npz")
    labels = read_hdf5(arguments.volume, arguments.labels, "labels")
    size = read_resolution_nm(arguments.volume, arguments.labels)
    if size is None:
        raise ValueError(f"{arguments.volume} does not state its voxel size in an attribute resolution_nm (z, y, x)")
    skeletons = skeletonize(labels, size, arguments.min_voxels, arguments.scale, arguments.const_nm)
    write_npz(arguments.out, skeletons)
    print(f"{arguments.out}: {describe(skeletons)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
