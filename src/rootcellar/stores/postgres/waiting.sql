-- notify: after the commit of these tasks, notify the listeners that wait for them, also if another writer has locked the listener's row
WITH waiting AS MATERIALIZED (
    SELECT l.id FROM {listener} AS l
    WHERE l.armed AND l.id IN (
        SELECT w.listener FROM {waiter} AS w
        WHERE w.task_id = ANY(%(task_ids)s::text[]) AND (w.kind = 2 OR w.task_id = ANY(%(ready_ids)s::text[]))
    )
), cleared AS (
    UPDATE {listener} SET armed = false WHERE id = ANY(ARRAY(
        SELECT id FROM {listener} WHERE armed AND id IN (SELECT id FROM waiting) FOR UPDATE SKIP LOCKED
    ))
)
SELECT pg_notify('rootcellar_' || id, '') FROM waiting

-- notify_for_one: the same for one task, which costs half as much if no listener waits
WITH waiting AS MATERIALIZED (
    SELECT l.id FROM {waiter} AS w JOIN {listener} AS l ON l.id = w.listener
    WHERE w.task_id = %(task_id)s::text AND (w.kind = 2 OR %(is_ready)s::boolean) AND l.armed
), cleared AS (
    UPDATE {listener} SET armed = false WHERE id = ANY(ARRAY(
        SELECT id FROM {listener} WHERE armed AND id IN (SELECT id FROM waiting) FOR UPDATE SKIP LOCKED
    ))
)
SELECT pg_notify('rootcellar_' || id, '') FROM waiting

-- begin_listening: create the listener, under a lock that ends with the session
INSERT INTO {listener} (id, armed)
SELECT %(listener)s::integer, true FROM (SELECT pg_advisory_lock(7247034, %(listener)s::integer)) AS locked
ON CONFLICT (id) DO UPDATE SET armed = true

-- end_listening: delete the listener and its registrations
WITH registered AS (DELETE FROM {waiter} WHERE listener = %(listener)s)
DELETE FROM {listener} WHERE id = %(listener)s

-- want_notification: set the flag, without waiting for a writer that has locked the row to clear it
UPDATE {listener} SET armed = true WHERE id = %(listener)s AND NOT armed

-- register: wait for these tasks; if the listener waits for a task already, choose the kind that serves both waiters
INSERT INTO {waiter} AS w (task_id, listener, kind)
SELECT task_id, %(listener)s::integer, %(kind)s::smallint FROM unnest(%(task_ids)s::text[]) AS u (task_id)
ORDER BY task_id
ON CONFLICT (task_id, listener) DO UPDATE
SET kind = CASE WHEN w.kind = excluded.kind THEN w.kind WHEN 2 IN (w.kind, excluded.kind) THEN 2 ELSE 0 END

-- unregister: stop waiting for these tasks
DELETE FROM {waiter} WHERE listener = %(listener)s AND task_id = ANY(%(task_ids)s)

-- read_all: read what a listener is sent of all tasks for which it waits; the kind in the table decides what that is
SELECT task_id AS id, w.kind = 1 AS is_id_only, {sent_columns} FROM {waiter} AS w JOIN {task} USING (task_id)
WHERE w.listener = %(listener)s AND (w.kind = 2 OR date_done IS NOT NULL)

-- read_some: the same, of these tasks only
SELECT task_id AS id, w.kind = 1 AS is_id_only, {sent_columns} FROM {waiter} AS w JOIN {task} USING (task_id)
WHERE w.listener = %(listener)s AND (w.kind = 2 OR date_done IS NOT NULL) AND task_id = ANY(%(task_ids)s::text[])

-- drop_dead_listeners: delete the listeners whose session has ended, and their registrations
WITH dead AS (
    DELETE FROM {listener} WHERE id = ANY(ARRAY(
        SELECT id FROM {listener} WHERE id <> %(listener)s AND pg_try_advisory_xact_lock(7247034, id)
    ))
    RETURNING id
)
DELETE FROM {waiter} WHERE listener IN (SELECT id FROM dead)
