"""Run the study, or read the stored one (``python -m studies``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from glacier_utils.errors import GlacierError, plain


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    top = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run all trials; what is finished is not done again")
    run.add_argument("--landscapes", nargs="*", type=int, default=[1, 2, 3], metavar="N",
                     help="synthetic landscapes, numbers above 0 (default: 1 2 3)")  # fmt: skip
    run.add_argument("--confirm", default="", metavar="DATASET",
                     help="run the trials once more on this dataset, such as everest")  # fmt: skip
    run.add_argument("--folder", type=Path, default=Path("reports/study"),
                     help="of the results (default: reports/study)")  # fmt: skip
    show = commands.add_parser("show", help="print the tables and draw them")
    show.add_argument("--folder", type=Path, help="of the results (default: the stored tables)")
    show.add_argument("--figures", type=Path, metavar="FOLDER", help="write the figures here")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 for a mistake that the user can mend."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "run":
            from studies.evidence import run_study

            for name, table in run_study(
                options.landscapes, confirm=options.confirm, folder=options.folder
            ).items():
                print(f"{name}: {table['trial'].nunique()} trials, {options.folder}")
        else:
            _show(options.folder, options.figures)
    except GlacierError as error:
        print(f"studies: {plain(error)}", file=sys.stderr)
        return 2
    return 0


def _show(folder: Path | None, figures: Path | None) -> None:
    """Print each table with the best trial first, the order they share, and draw both."""
    from studies import charts, evidence

    tables = evidence.read_tables(folder)
    columns = ["trial", "group", "iou", "iou_low", "iou_high", "difference", "low", "high",
               "verdict", "seconds"]  # fmt: skip
    for name, table in tables.items():
        reference = table["reference"].iloc[0]
        best_first = table[table["reference"] == reference].sort_values("iou", ascending=False)
        print(f"{name}, against the {reference}:\n{best_first[columns].to_string(index=False)}\n")
        if figures:
            figures.mkdir(parents=True, exist_ok=True)
            charts.gains(table, reference=reference).savefig(figures / f"{name}.png", dpi=110)
    if len(tables) > 1:
        (one, here), (other, there) = list(tables.items())[:2]
        here, there = (t[t["reference"] == "labels"] for t in (here, there))
        tau = evidence.rank_correlation(here, there, groups=["baseline", "network"])
        print(f"order of the models in {one} and {other}: Kendall's tau {tau:.2f}")
        if figures:
            charts.order(here, there, names=(one, other)).savefig(figures / "order.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main())
