"""Where results are kept that are too large for a record: in a folder, or anywhere that fsspec reaches."""

from rootcellar.payloads.blobs.references import REFERENCE, Spilling, size_of
from rootcellar.payloads.blobs.storage import Blobs, open_blobs

__all__ = ["REFERENCE", "Blobs", "Spilling", "open_blobs", "size_of"]
