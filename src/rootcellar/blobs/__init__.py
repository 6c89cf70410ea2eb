"""Where results are kept that are too large for a record: in a folder, or anywhere that fsspec reaches."""

from rootcellar.blobs.places import Blobs, open_blobs
from rootcellar.blobs.spilling import REFERENCE, Spilling, size_of

__all__ = ["REFERENCE", "Blobs", "Spilling", "open_blobs", "size_of"]
