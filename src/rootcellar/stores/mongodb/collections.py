"""The collections of a store."""

from __future__ import annotations

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo.collection import Collection

from rootcellar.stores.mongodb import driver
from rootcellar.stores.mongodb.chords import ChordDocuments
from rootcellar.stores.mongodb.driver import Document


def _options(client: driver.Client) -> CodecOptions[Document]:
    """Return how documents are read: a date or a text that Python cannot store must not make a whole read fail."""
    return client.codec_options.with_options(
        datetime_conversion=DatetimeConversion.DATETIME_CLAMP, unicode_decode_error_handler="surrogateescape"
    )


class Collections:
    """The collections, through one client."""

    def __init__(self, client: driver.Client, settings: driver.Settings) -> None:
        database = client.get_database(settings.database, codec_options=_options(client))
        self.task: Collection[Document] = database[settings.task_collection]
        self.group: Collection[Document] = database[settings.group_collection]
        self.chord: Collection[Document] = database[f"{settings.task_collection}_chords"]
        self.part: Collection[Document] = database[f"{settings.task_collection}_parts"]
        self.buried: Collection[Document] = database[f"{settings.task_collection}_buried"]
        self.shared: Collection[Document] = database[f"{settings.task_collection}_shared"]
        self.chords = ChordDocuments(self.chord, self.part, self.task)
