"""Problems with the broker, and with results by RPC."""

from __future__ import annotations

from rootcellar.checks.register.entry import failure, warning

#: the title of these problems in docs/troubleshooting.md
TITLE = "Brokers and RPC"
PROBLEMS = (
    failure(
        "broker-vhost-missing",
        "RabbitMQ has no such virtual host, or the user may not use it",
        why="Tasks can be neither sent nor received.",
        remedy="Correct BROKER_VHOST, or create it: `rabbitmqctl add_vhost NAME` and `rabbitmqctl set_permissions`.",
    ),
    failure(
        "broker-no-rights",
        "the broker's user may not do all that workers and clients do",
        why="Workers create queues, send to them and receive from them.",
        remedy="`rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'`; on Redis, allow the broker's commands and "
        "keys in the ACL.",
    ),
    failure(
        "broker-round-trip",
        "a message that was sent did not come back",
        why="Tasks that are sent may not run.",
        remedy="See the broker's log. RabbitMQ blocks senders when memory or disk run low (`rabbitmq-diagnostics "
        "alarms`).",
    ),
    failure(
        "broker-blocked",
        "RabbitMQ blocks senders",
        why="Its memory or its disk ran low. No task can be sent until it has more.",
        remedy="See `rabbitmq-diagnostics alarms`, and give it memory or disk.",
    ),
    failure(
        "broker-eviction",
        "Redis may delete tasks when its memory is full",
        why="With any maxmemory-policy except noeviction Redis may delete a queue with its tasks.",
        remedy="Set `maxmemory-policy noeviction` in redis.conf.",
    ),
    warning(
        "broker-persistence",
        "the Redis that is the broker keeps nothing on disk",
        why="A restart loses every waiting task.",
        remedy="Set `appendonly yes` in redis.conf.",
    ),
    warning(
        "broker-memory",
        "the memory of the Redis that is the broker is nearly full",
        why="When maxmemory is reached, no task can be sent.",
        remedy="Raise maxmemory, and check that workers keep up with the queues.",
    ),
    warning(
        "broker-visibility-timeout",
        "tasks may run longer than the broker waits for them",
        why="With acks_late, a task that takes longer than the visibility timeout is delivered to another worker too: "
        "it runs twice.",
        remedy="Raise BROKER_VISIBILITY_TIMEOUT above the longest task (and the longest countdown), or set "
        "CELERY_TASK_TIME_LIMIT below it.",
    ),
    warning(
        "broker-unknown",
        "this kind of broker has no checks of its own",
        why="Only the connection and one message are checked.",
        remedy="Use redis or rabbitmq, or see Celery's documentation of the transport.",
    ),
    failure(
        "rpc-no-amqp",
        "results by RPC need RabbitMQ",
        why="They are sent as AMQP messages.",
        remedy="Set CELERY_BROKER=rabbitmq, or another CELERY_RESULT_BACKEND.",
    ),
    failure(
        "rpc-round-trip",
        "a result that was sent did not come back",
        why="A client would wait for ever.",
        remedy="See the broker's log, the setting result_exchange, and the user's rights.",
    ),
    failure(
        "rpc-worker",
        "a test worker did not run its task",
        why="Your workers would not run their tasks, either.",
        remedy="See the lines above and the message.",
    ),
)
