"""Problems with SQLite's file."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

PROBLEMS = (
    failure(
        "sqlite-no-folder",
        "the folder of the file is not there",
        why="SQLite makes the file, and no folder.",
        remedy="Make the folder, or correct DB_PATH.",
    ),
    failure(
        "sqlite-read-only-folder",
        "the folder of the file cannot be written",
        why="SQLite keeps its log beside the file (-wal, -shm): without the right to make it, nothing is stored.",
        remedy="Give the workers' user the right to write in the folder.",
    ),
    failure(
        "sqlite-read-only-file",
        "the file cannot be written",
        why="Every result is refused.",
        remedy="Give the workers' user the right to write the file, and its -wal and -shm.",
    ),
    failure(
        "sqlite-not-a-database",
        "the file is no SQLite database",
        why="It is something else, or damaged.",
        remedy="Correct DB_PATH, or move the file away.",
    ),
    failure(
        "sqlite-locked",
        "another program keeps the file locked",
        why="Nobody can store while it holds the lock.",
        remedy="End the program that holds a transaction open (`fuser FILE` names it).",
    ),
    failure(
        "sqlite-no-wal",
        "the file cannot be in WAL mode",
        why="Readers and writers would keep each other waiting, or a network file system would damage the file.",
        remedy="Put the file on a local disk.",
    ),
    warning(
        "sqlite-network-disk",
        "the file is on a network file system",
        why="SQLite's locks are not to be trusted there: two machines can damage the file.",
        remedy="Put the file on a local disk, or use PostgreSQL for several machines.",
    ),
    warning(
        "sqlite-little-room",
        "the disk is nearly full",
        why="When it is full, results are refused.",
        remedy="Give the disk room.",
    ),
)
