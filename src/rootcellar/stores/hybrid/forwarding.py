"""Forwards the methods for groups and chords, for both hybrid stores."""

from __future__ import annotations

from collections.abc import Sequence

from rootcellar.records import ChordPart, ChordProgress, ChordRecord, GroupRecord, PartResult
from rootcellar.stores.base import Store


class ForwardingStore(Store):
    """Forwards groups to one store, and chords to one.

    Attributes:
        durable: the store that keeps groups.
        chords: the store that keeps chords.
    """

    durable: Store
    chords: Store

    def put_group(self, group: GroupRecord) -> None:
        self.durable.put_group(group)

    def get_group(self, group_id: str) -> GroupRecord | None:
        return self.durable.get_group(group_id)

    def delete_group(self, group_id: str) -> None:
        self.durable.delete_group(group_id)

    def begin_chord(self, chord: ChordRecord) -> None:
        self.chords.begin_chord(chord)

    def size_chord(self, group_id: str, size: int, *, relative: bool = False, key: str | None = None) -> None:
        self.chords.size_chord(group_id, size, relative=relative, key=key)

    def count_part(self, part: ChordPart, *, lease: float = 30.0) -> ChordProgress:
        return self.chords.count_part(part, lease=lease)

    def claim_chord(self, group_id: str, claimant: str, *, lease: float = 30.0) -> bool:
        return self.chords.claim_chord(group_id, claimant, lease=lease)

    def get_chord(self, group_id: str) -> ChordRecord | None:
        return self.chords.get_chord(group_id)

    def chord_parts(self, group_id: str) -> Sequence[PartResult]:
        return self.chords.chord_parts(group_id)

    def finish_chord(self, group_id: str) -> None:
        self.chords.finish_chord(group_id)

    def orphaned_chords(self, owner: str, limit: int = 100) -> Sequence[str]:
        return self.chords.orphaned_chords(owner, limit)
