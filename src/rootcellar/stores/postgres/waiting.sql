-- ring: after the commit of these tasks, wake the listeners that wait for them, also where another writer has the listener's row locked
WITH asked AS MATERIALIZED (
    SELECT l.id FROM {listener} AS l
    WHERE l.armed AND l.id IN (
        SELECT w.listener FROM {waiter} AS w
        WHERE w.task_id = ANY(%(task_ids)s::text[]) AND (w.kind = 2 OR w.task_id = ANY(%(ready_ids)s::text[]))
    )
), disarmed AS (
    UPDATE {listener} SET armed = false WHERE id = ANY(ARRAY(
        SELECT id FROM {listener} WHERE armed AND id IN (SELECT id FROM asked) FOR UPDATE SKIP LOCKED
    ))
)
SELECT pg_notify('rootcellar_' || id, '') FROM asked

-- ring_for_one: the same for one task, which costs half as much where nobody waits
WITH asked AS MATERIALIZED (
    SELECT l.id FROM {waiter} AS w JOIN {listener} AS l ON l.id = w.listener
    WHERE w.task_id = %(task_id)s::text AND (w.kind = 2 OR %(is_ready)s::boolean) AND l.armed
), disarmed AS (
    UPDATE {listener} SET armed = false WHERE id = ANY(ARRAY(
        SELECT id FROM {listener} WHERE armed AND id IN (SELECT id FROM asked) FOR UPDATE SKIP LOCKED
    ))
)
SELECT pg_notify('rootcellar_' || id, '') FROM asked

-- begin_listening: come into being, under a lock that ends with the session
INSERT INTO {listener} (id, armed)
SELECT %(listener)s::integer, true FROM (SELECT pg_advisory_lock(7247034, %(listener)s::integer)) AS locked
ON CONFLICT (id) DO UPDATE SET armed = true

-- end_listening: leave nothing behind
WITH left_behind AS (DELETE FROM {waiter} WHERE listener = %(listener)s)
DELETE FROM {listener} WHERE id = %(listener)s

-- arm: ask to be woken again, without waiting for a writer that has the row locked to disarm it
UPDATE {listener} SET armed = true WHERE id = %(listener)s AND NOT armed

-- register: wait for these tasks; where one is waited for already, in a way that tells both waiters
INSERT INTO {waiter} AS w (task_id, listener, kind)
SELECT task_id, %(listener)s::integer, %(kind)s::smallint FROM unnest(%(task_ids)s::text[]) AS u (task_id)
ORDER BY task_id
ON CONFLICT (task_id, listener) DO UPDATE
SET kind = CASE WHEN w.kind = excluded.kind THEN w.kind WHEN 2 IN (w.kind, excluded.kind) THEN 2 ELSE 0 END

-- unregister: wait for these no more
DELETE FROM {waiter} WHERE listener = %(listener)s AND task_id = ANY(%(task_ids)s)

-- read_all: read what a listener wants of all tasks that it waits for; the kind in the table decides what that is
SELECT task_id AS id, w.kind = 1 AS is_id_only, {told_columns} FROM {waiter} AS w JOIN {task} USING (task_id)
WHERE w.listener = %(listener)s AND (w.kind = 2 OR date_done IS NOT NULL)

-- read_some: the same, of these tasks only
SELECT task_id AS id, w.kind = 1 AS is_id_only, {told_columns} FROM {waiter} AS w JOIN {task} USING (task_id)
WHERE w.listener = %(listener)s AND (w.kind = 2 OR date_done IS NOT NULL) AND task_id = ANY(%(task_ids)s::text[])

-- drop_dead_listeners: forget the listeners whose session is gone, and what they waited for
WITH dead AS (
    DELETE FROM {listener} WHERE id = ANY(ARRAY(
        SELECT id FROM {listener} WHERE id <> %(listener)s AND pg_try_advisory_xact_lock(7247034, id)
    ))
    RETURNING id
)
DELETE FROM {waiter} WHERE listener IN (SELECT id FROM dead)
