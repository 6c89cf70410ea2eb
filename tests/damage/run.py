"""The number of rounds of each kind for each place, and the printed summary."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping

from tests.damage.places import Place
from tests.damage.rounds import Trial

Counts = Counter[tuple[str, str, str]]
#: the shares of rounds for headers and for chords; the others are for rows
HEADERS, CHORDS = 0.08, 0.01
#: the shares of the stores; the MongoDB server of the tests is slow
SHARES = dict.fromkeys(("postgres", "mysql", "sqlite", "redis", "write-through", "write-behind"), 0.16) | {
    "mongodb": 0.04
}


def run(
    places: Mapping[str, Callable[[], Place]], rounds: int, seed: int, say: Callable[[str], object] = lambda text: None
) -> Counts:
    """Run the share of ``rounds`` for these places.

    Returns:
        the number of reads by (store, damaged field, reader).

    Raises:
        Harmed: another record was affected.
    """
    counts: Counts = Counter()
    total = 0
    for name, open_place in places.items():
        started, done = time.monotonic(), 0
        place = open_place()
        try:
            trial = Trial(place, random.Random(f"{seed} {name}"), counts)
            trial.begin()
            wanted = round(rounds * SHARES[name])
            for kind, share in ((trial.headers, HEADERS), (trial.chords, CHORDS), (trial.rows, 1.0)):
                until = wanted if kind == trial.rows else done + round(wanted * share)
                # each kind at least once
                done += kind()
                while done < until:
                    done += kind()
        finally:
            place.close()
        total += done
        say(f"{name}: {done:,} rounds in {time.monotonic() - started:.0f} s")
    say(f"{total:,} rounds with seed {seed}: no other record was affected")
    return counts


def report(counts: Counts) -> str:
    """Return the counts as a text: by store, by damaged field, by header and by reader."""
    lines = []
    for title, place in (("by reader", 2), ("by damaged field", 1)):
        lines.append(f"\n{title}, reads of a damaged row or header among nine good ones")
        for store in dict.fromkeys(key[0] for key in counts):
            sums: Counter[str] = Counter()
            for key, count in counts.items():
                if key[0] == store:
                    sums[key[place]] += count
            lines.append(f"  {store}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(sums.items())))
    return "\n".join(lines)
