"""Stores results that are too large for a record: in a folder, or in any storage that fsspec supports."""

from rootcellar.payloads.blobs.references import REFERENCE, BlobSpiller, size_of, size_of_result
from rootcellar.payloads.blobs.storage import Blobs, open_blobs

__all__ = ["REFERENCE", "BlobSpiller", "Blobs", "open_blobs", "size_of", "size_of_result"]
