"""``python -m rootcellar.troubleshooting docs/troubleshooting.md``: write the page."""

from __future__ import annotations

import sys
from pathlib import Path

from rootcellar.troubleshooting.page import page

Path(sys.argv[1]).write_text(page(), encoding="utf-8")
