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
    arguments = _parser().parse_args(argv)
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
    compare.add_argument("runs", nargs="+", type=Path, help="run folders, or folders of runs")
    compare.add_argument("--metric", action="append", help="name in summary.json, * allowed; may be repeated")
    compare.add_argument("--where", action="append", default=[], help="such as 'model.depth>=7'; may be repeated")
    compare.add_argument("--sort", help="metric or key to order by; --sort=-name for largest first")
    compare.add_argument("--format", choices=("text", "md", "csv", "json", "html"), default="text")
    compare.add_argument("--out", type=Path, help="write to a file instead of the terminal")

    report = command("report", _report, "(re)build report.html of a run or an evaluation")
    report.add_argument("run_dir", nargs="+", type=Path, metavar="run")

    board = command("board", _board, "open the local dashboard of all runs")
    board.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    board.add_argument("--port", type=int, help="default: the first free one from 7860")
    board.add_argument("--no-open", action="store_true", help="do not open a browser")

    doctor = command("doctor", _doctor, "say what is installed, what is missing, and what to do")
    doctor.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")

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
    return parser


def data_root() -> Path:
    """NISSL_DATA, or `data` in the current folder."""
    return Path(os.environ.get("NISSL_DATA", "data")).expanduser().resolve()


def _validate(arguments: argparse.Namespace) -> int:
    from nissl.runs.compose import conf_dir
    from nissl.runs.origins import ConfigTree
    from nissl.runs.problems import report
    from nissl.runs.validate import check_overrides, validate_all

    tree = ConfigTree(conf_dir())
    if arguments.all or not arguments.overrides:
        if arguments.overrides:
            raise ValueError("--all checks everything in conf/ and takes no overrides")
        count, problems = validate_all(tree)
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

    comparison = compare(arguments.runs, arguments.metric, arguments.where, arguments.sort)
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
        print(build_report(folder))
    return 0


def _board(arguments: argparse.Namespace) -> int:
    from nissl.runs.board import serve

    serve(arguments.runs, arguments.port, not arguments.no_open)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from nissl.datasets.catalogue import CATALOGUE
    from nissl.runs.doctor import diagnose

    data_sets = {entry.name: [file.path for file in entry.files] for entry in CATALOGUE if entry.files}
    findings = list(diagnose(arguments.runs, data_root(), data_sets))
    print(*findings, sep="\n")
    return 1 if any(finding.state == "problem" for finding in findings) else 0


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
    done = import_checkpoint(arguments.model, arguments.checkpoint, out, conf_dir())
    print(f"{done.path}: {done.num_tensors} tensors, {done.num_parameters:,} numbers")
    print("architecture: " + ", ".join(f"{key}={value}" for key, value in done.architecture.items()))
    print(f"use it: model={arguments.model} model.weights={done.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
