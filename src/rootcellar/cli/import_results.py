"""``rootcellar import``: reads results from a file or folder of Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rootcellar.cli.copy import MissingOnlyOption, RestartOption, run_copy
from rootcellar.cli.endpoints import GroupsOption, RateOption, TargetArgument, opened_end
from rootcellar.cli.options import DryRunOption, FilterArgument, JsonOption, filter_text
from rootcellar.cli.output import WrongUse
from rootcellar.migration.endpoints import PARQUET

EXAMPLES = """\b
Examples:
  rootcellar import results.d postgresql://localhost/results
  rootcellar import march.parquet app:shop.celery task:shop.pay --dry-run
"""


def import_results(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="What `rootcellar export --exact` wrote", show_default=False)
    ],
    target: TargetArgument,
    words: FilterArgument = None,
    rate: RateOption = None,
    missing_only: MissingOnlyOption = False,
    groups: GroupsOption = True,
    restart: RestartOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy results from a file or folder of Parquet into a store, or those that a filter finds.

    It does what `rootcellar copy` does: the newer result wins, expired ones are left out, and an interrupted import
    goes on if you run it again. Files of an archive can be read too; they still have the results that were restored or
    forgotten since.

    Exit status 0 if all was copied, 1 after an error, or if a result was left out because it cannot be read or the
    target cannot store it.
    """
    if not path.exists():
        raise WrongUse(f"{path} does not exist")
    with opened_end(f"{PARQUET}{path}", "FILE") as one, opened_end(target, "TARGET") as other:
        run_copy(
            one,
            other,
            filter_text(words),
            rate=rate,
            newer_wins=not missing_only,
            groups=groups,
            restart=restart,
            dry_run=dry_run,
            as_json=as_json,
        )
