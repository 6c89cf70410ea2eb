"""The Lua scripts, each of which the server runs as one step."""

from __future__ import annotations

from importlib import resources

from rootcellar.stores.redis.wire import Script

_PACKAGE = "rootcellar.stores.redis"


def _load(name: str, *shared: str) -> Script:
    folder = resources.files(_PACKAGE).joinpath("lua")
    texts = [folder.joinpath(f"{part}.lua").read_text(encoding="utf-8") for part in (*shared, name)]
    return Script(name, "\n".join(texts))


PUT = _load("put", "tasks")
PUT_PART = _load("put_part", "tasks", "chords")
REPLACE = _load("replace")
EXPIRE = _load("expire", "tasks")
COUNT_PART = _load("count_part", "chords")
BEGIN_CHORD = _load("begin_chord", "chords")
SIZE_CHORD = _load("size_chord", "chords")
CLAIM_CHORD = _load("claim_chord", "chords")
FINISH_CHORD = _load("finish_chord", "chords")
ORPHANED_CHORDS = _load("orphaned_chords", "chords")
PUT_NOTED = _load("put_noted", "tasks", "journal")
PUT_PART_NOTED = _load("put_part_noted", "tasks", "journal", "chords")
FORGET_NOTED = _load("forget_noted", "journal")
SETTLE = _load("settle", "tasks")
RELEASE = _load("release")
