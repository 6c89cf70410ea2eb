"""Tests of retention: rules, cleanup, holds, the older table and the archive."""
