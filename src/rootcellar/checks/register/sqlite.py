"""Problems with SQLite's file."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "SQLite"
PROBLEMS = (
    failure(
        "sqlite-no-folder",
        "the folder of the file does not exist",
        why="SQLite creates the file, but not the folder.",
        remedy="Create the folder, or correct DB_PATH.",
    ),
    failure(
        "sqlite-read-only-folder",
        "the folder of the file cannot be written",
        why="SQLite creates the files -wal and -shm there, and stores nothing without them.",
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
        "the file is not a SQLite database",
        why="It is another kind of file, or damaged.",
        remedy="Correct DB_PATH, or move the file away.",
    ),
    failure(
        "sqlite-locked",
        "another program keeps the file locked",
        why="No result can be stored while the lock is held.",
        remedy="End the program that keeps a transaction open (`fuser FILE` prints its process).",
    ),
    failure(
        "sqlite-no-wal",
        "the file cannot be in WAL mode",
        why="Readers and writers would wait for each other, or a network file system could damage the file.",
        remedy="Put the file on a local disk.",
    ),
    warning(
        "sqlite-network-disk",
        "the file is on a network file system",
        why="SQLite's locks are not reliable there: two machines can damage the file.",
        remedy="Put the file on a local disk, or use PostgreSQL for several machines.",
    ),
    warning(
        "sqlite-little-room",
        "the disk is nearly full",
        why="When it is full, results are refused.",
        remedy="Free space on the disk.",
    ),
)
