"""The present of each test of this folder."""

from tests.present import _present  # noqa: F401 - a fixture
