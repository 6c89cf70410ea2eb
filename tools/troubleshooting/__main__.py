"""``python -m tools.troubleshooting docs/troubleshooting.md``: write the page.

With ``--check`` nothing is written; the exit status is 1 if the page is not up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.troubleshooting.page import page

*options, name = sys.argv[1:]
path = Path(name)
if "--check" not in options:
    path.write_text(page(), encoding="utf-8")
elif not path.exists() or path.read_text(encoding="utf-8") != page():
    sys.exit(f"{path} is not up to date: run `make troubleshooting`")
