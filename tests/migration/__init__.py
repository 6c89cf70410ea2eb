"""Tests of copying, verifying and migrating results between stores."""
