"""``python -m benchmarks``: measure all, print the table, and write ``benchmarks/RESULTS.md``.

With ``--against PATH`` it compares the CPU time with that of another checkout, see :mod:`benchmarks.against`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import against
from benchmarks.bed import Bed
from benchmarks.history.questions import section_of
from benchmarks.layers import measure as measure_layers
from benchmarks.layers import table
from benchmarks.machine import machine, versions
from benchmarks.report import Report
from benchmarks.rows import all_experiments
from benchmarks.rows.experiment import Experiment
from benchmarks.sizes import FULL, QUICK, Sizes
from rootcellar.onboarding.recommend import figures
from tests.servers import MissingServer

LAYERS = """\
## Layer by layer

One process, one result after the other, on PostgreSQL; each layer holds those that it uses. Printed by
`python -m benchmarks.layers`."""
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks; return the exit status."""
    names = [experiment.name for experiment in all_experiments(FULL)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what a result costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: only to check that it works")
    parser.add_argument("--rows", metavar="NAME,...", help=f"only these: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help=f"how often all is measured (default {FULL.rounds}, quick 1)")
    parser.add_argument("--against", type=Path, metavar="PATH", help="compare with the code of another checkout")
    options = parser.parse_args(arguments)

    if options.against:
        return _compare(parser, options)
    sizes = QUICK if options.quick else FULL
    chosen = options.rows.split(",") if options.rows else names
    if unknown := set(chosen) - set(names):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    experiments = [experiment for experiment in all_experiments(sizes) if experiment.name in chosen]
    try:
        bed = Bed()
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    heading = {
        "Date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "Command": f"`{shlex.join(['python', '-m', 'benchmarks', *arguments])}`",
        "Machine": machine(),
    }
    with bed:
        heading["Versions"] = versions(bed)
        report = run(bed, experiments, sizes, options.rounds or sizes.rounds, heading)
        if len(chosen) == len(names) and not options.quick:
            layers = "\n".join(table(measure_layers(bed.postgres.create_database())))
            print(f"\n{layers}")
            results = f"{report.markdown()}\n{LAYERS}\n\n{layers}\n"
            kept = section_of(RESULTS.read_text()) if RESULTS.exists() else ""
            RESULTS.write_text(f"{results}\n{kept}" if kept else results)
            # `rootcellar recommend` quotes them
            figures.FILE.write_text(figures.written(results))
    if len(chosen) == len(names) and not options.quick:
        print(f"\nWritten to {RESULTS}")
    return 0


def _compare(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Compare with another checkout; return the exit status."""
    rows = options.rows.split(",") if options.rows else list(against.ROWS)
    if unknown := set(rows) - set(against.ROWS):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; with --against: {', '.join(against.ROWS)}")
    if not (options.against / "src" / "rootcellar").is_dir():
        parser.error(f"{options.against} is no checkout of rootcellar: it has no src/rootcellar")
    pairs, turns = (1, 2) if options.quick else (options.rounds or against.PAIRS, against.TURNS)
    print(f"Machine: {machine()}\n{against.HEADING}")
    try:
        for line in against.compare(options.against, against.BACKENDS, rows, pairs=pairs, turns=turns):
            print(line, flush=True)
    except MissingServer as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def run(bed: Bed, experiments: Sequence[Experiment], sizes: Sizes, rounds: int, heading: dict[str, str]) -> Report:
    """Measure, and print each row when it is complete."""
    found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows = {row: title for experiment in experiments for row, title in experiment.rows.items()}
    report = Report(rows, found, heading, sizes)
    for name, text in heading.items():
        print(f"{name}: {text}")
    for experiment in experiments:
        measure(bed, experiment, sizes, rounds, found)
        for row in experiment.rows:
            print("\n".join(report.lines(row)), flush=True)
    return report


def measure(
    bed: Bed,
    experiment: Experiment,
    sizes: Sizes,
    rounds: int,
    found: defaultdict[str, defaultdict[str, list[float]]],
) -> None:
    """Measure every contender once in each round; each round begins with another contender."""
    find_place = bed.place_with_worker if experiment.has_worker else bed.empty_place
    places = {contender.column: find_place(contender) for contender in experiment.contenders}
    for number in range(rounds):
        first = number % len(experiment.contenders)
        for contender in (*experiment.contenders[first:], *experiment.contenders[:first]):
            if experiment.takes_part(contender, number):
                figures = experiment.measure(places[contender.column], contender, sizes)
                for row, figure in figures.items():
                    found[row][contender.column].append(figure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
