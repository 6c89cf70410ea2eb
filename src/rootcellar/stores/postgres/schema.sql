-- lock: let one process at a time create, upgrade or adopt
SELECT pg_advisory_xact_lock(7247033)

-- find_table: return the name of a table if it exists; only by reading pg_class, a session that waited for the lock sees the tables that others made
SELECT (SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.oid = to_regclass(%(table)s))

-- find_schema: return a row if the schema exists
SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s

-- indexes_of: return the names of a table's indexes
SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s)

-- complete_indexes_of: return the names of a table's indexes, without those whose creation was interrupted
SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s) AND i.indisvalid

-- indexing: return a row if another session creates an index of this table
SELECT 1 FROM pg_stat_progress_create_index WHERE relid = to_regclass(%(table)s)

-- size_of: return the bytes of a table's rows
SELECT pg_relation_size(to_regclass(%(table)s))

-- make_registry: create the table that lists rootcellar's tables and their versions
CREATE TABLE IF NOT EXISTS {registry} (
    task_table   text PRIMARY KEY,
    group_table  text NOT NULL,
    version      integer NOT NULL,
    old_task     text,
    old_group    text,
    old_keep     double precision,
    date_made    timestamptz NOT NULL DEFAULT now()
)

-- read_registry: return the version of our tables, and Celery's tables if they were adopted
SELECT version, old_task, old_group, old_keep FROM {registry} WHERE task_table = %(task)s

-- register: store the version of our tables
INSERT INTO {registry} AS r (task_table, group_table, version, old_task, old_group, old_keep)
VALUES (%(task)s, %(group)s, %(version)s, %(old_task)s, %(old_group)s, %(keep)s)
ON CONFLICT (task_table) DO UPDATE SET version = excluded.version

-- register_literally: the same, for a DBA's script
INSERT INTO {registry} (task_table, group_table, version)
VALUES ({task_literal}, {group_literal}, {version_literal})

-- unregister: delete the entry of tables that were dropped
DELETE FROM {registry} WHERE task_table = %(task)s

-- count_registered: count the registered tables
SELECT count(*) FROM {registry}

-- columns_of: return the names of a table's columns
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped

-- typed_columns_of: return the columns of a table in their order: the name, the quoted name, the definition
SELECT a.attname, quote_ident(a.attname), concat(
    format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation
        THEN format(' COLLATE %%s.%%I', c.collnamespace::regnamespace, c.collname) END,
    CASE WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END,
    CASE WHEN a.attnotnull THEN ' NOT NULL' END
), format_type(a.atttypid, a.atttypmod)
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid LEFT JOIN pg_collation AS c ON c.oid = a.attcollation
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum

-- count_task: count the results of tasks
SELECT count(*) FROM {task}

-- count_group: count the saved groups
SELECT count(*) FROM {group}

-- count_holds: count the holds that are active
SELECT count(*) FROM {hold} WHERE released_at IS NULL
