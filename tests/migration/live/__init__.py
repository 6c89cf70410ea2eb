"""Migrations of an application that works: real workers and clients, old results, and what can go wrong."""
