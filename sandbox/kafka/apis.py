"""The requests that the double answers, with the fields of each in the protocol's own order."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.kafka.wire import Type, array, boolean, data, int8, int16, int32, int64, string, struct_of


@dataclass(frozen=True)
class Api:
    """One kind of request, and the versions of it that are implemented."""

    key: int
    name: str
    least: int
    most: int
    request: Type
    response: Type


APIS: dict[int, Api] = {}


def _api(key: int, name: str, least: int, most: int, request: Type, response: Type) -> Api:
    APIS[key] = Api(key, name, least, most, request, response)
    return APIS[key]


_THROTTLE = "throttle_ms"

PRODUCE = _api(
    0, "produce", 3, 7,
    struct_of(
        ("transactional_id", string), ("acks", int16), ("timeout_ms", int32),
        ("topics", array(("name", string), ("partitions", array(("index", int32), ("records", data))))),
    ),
    struct_of(
        ("topics", array(
            ("name", string),
            ("partitions", array(
                ("index", int32), ("error", int16), ("base_offset", int64), ("log_append_time", int64),
                ("log_start", int64, 5),
            )),
        )),
        (_THROTTLE, int32),
    ),
)  # fmt: skip

FETCH = _api(
    1, "fetch", 4, 11,
    struct_of(
        ("replica_id", int32), ("max_wait_ms", int32), ("min_bytes", int32), ("max_bytes", int32), ("isolation", int8),
        ("session_id", int32, 7), ("session_epoch", int32, 7),
        ("topics", array(
            ("name", string),
            ("partitions", array(
                ("index", int32), ("leader_epoch", int32, 9), ("offset", int64), ("log_start", int64, 5),
                ("max_bytes", int32),
            )),
        )),
        ("forgotten", array(("name", string), ("partitions", array(int32))), 7),
        ("rack", string, 11),
    ),
    struct_of(
        (_THROTTLE, int32), ("error", int16, 7), ("session_id", int32, 7),
        ("topics", array(
            ("name", string),
            ("partitions", array(
                ("index", int32), ("error", int16), ("high_watermark", int64), ("last_stable", int64),
                ("log_start", int64, 5), ("aborted", array(("producer_id", int64), ("first_offset", int64))),
                ("preferred_replica", int32, 11), ("records", data),
            )),
        )),
    ),
)  # fmt: skip

LIST_OFFSETS = _api(
    2, "list_offsets", 1, 5,
    struct_of(
        ("replica_id", int32), ("isolation", int8, 2),
        ("topics", array(
            ("name", string),
            ("partitions", array(("index", int32), ("leader_epoch", int32, 4), ("timestamp", int64))),
        )),
    ),
    struct_of(
        (_THROTTLE, int32, 2),
        ("topics", array(
            ("name", string),
            ("partitions", array(
                ("index", int32), ("error", int16), ("timestamp", int64), ("offset", int64), ("leader_epoch", int32, 4)
            )),
        )),
    ),
)  # fmt: skip

METADATA = _api(
    3, "metadata", 0, 8,
    struct_of(
        ("topics", array(string)), ("auto_create", boolean, 4), ("cluster_operations", boolean, 8),
        ("topic_operations", boolean, 8),
    ),
    struct_of(
        (_THROTTLE, int32, 3),
        ("brokers", array(("id", int32), ("host", string), ("port", int32), ("rack", string, 1))),
        ("cluster_id", string, 2), ("controller_id", int32, 1),
        ("topics", array(
            ("error", int16), ("name", string), ("is_internal", boolean, 1),
            ("partitions", array(
                ("error", int16), ("index", int32), ("leader", int32), ("leader_epoch", int32, 7),
                ("replicas", array(int32)), ("isr", array(int32)), ("offline", array(int32), 5),
            )),
            ("operations", int32, 8),
        )),
        ("operations", int32, 8),
    ),
)  # fmt: skip

OFFSET_COMMIT = _api(
    8, "offset_commit", 2, 6,
    struct_of(
        ("group", string), ("generation", int32), ("member", string), ("retention_ms", int64, 2, 4),
        ("topics", array(
            ("name", string),
            ("partitions", array(
                ("index", int32), ("offset", int64), ("leader_epoch", int32, 6), ("metadata", string)
            )),
        )),
    ),
    struct_of(
        (_THROTTLE, int32, 3),
        ("topics", array(("name", string), ("partitions", array(("index", int32), ("error", int16))))),
    ),
)  # fmt: skip

OFFSET_FETCH = _api(
    9, "offset_fetch", 1, 5,
    struct_of(("group", string), ("topics", array(("name", string), ("partitions", array(int32))))),
    struct_of(
        (_THROTTLE, int32, 3),
        ("topics", array(
            ("name", string),
            ("partitions", array(
                ("index", int32), ("offset", int64), ("leader_epoch", int32, 5), ("metadata", string), ("error", int16)
            )),
        )),
        ("error", int16, 2),
    ),
)  # fmt: skip

FIND_COORDINATOR = _api(
    10, "find_coordinator", 0, 2,
    struct_of(("key", string), ("key_type", int8, 1)),
    struct_of(
        (_THROTTLE, int32, 1), ("error", int16), ("message", string, 1), ("id", int32), ("host", string),
        ("port", int32),
    ),
)  # fmt: skip

JOIN_GROUP = _api(
    11, "join_group", 0, 3,
    struct_of(
        ("group", string), ("session_timeout_ms", int32), ("rebalance_timeout_ms", int32, 1), ("member", string),
        ("protocol_type", string), ("protocols", array(("name", string), ("metadata", data))),
    ),
    struct_of(
        (_THROTTLE, int32, 2), ("error", int16), ("generation", int32), ("protocol", string), ("leader", string),
        ("member", string), ("members", array(("id", string), ("metadata", data))),
    ),
)  # fmt: skip

HEARTBEAT = _api(
    12, "heartbeat", 0, 2,
    struct_of(("group", string), ("generation", int32), ("member", string)),
    struct_of((_THROTTLE, int32, 1), ("error", int16)),
)  # fmt: skip

LEAVE_GROUP = _api(
    13, "leave_group", 0, 2,
    struct_of(("group", string), ("member", string)),
    struct_of((_THROTTLE, int32, 1), ("error", int16)),
)  # fmt: skip

SYNC_GROUP = _api(
    14, "sync_group", 0, 2,
    struct_of(
        ("group", string), ("generation", int32), ("member", string),
        ("assignments", array(("member", string), ("assignment", data))),
    ),
    struct_of((_THROTTLE, int32, 1), ("error", int16), ("assignment", data)),
)  # fmt: skip

DESCRIBE_GROUPS = _api(
    15, "describe_groups", 0, 4,
    struct_of(("groups", array(string)), ("operations", boolean, 3)),
    struct_of(
        (_THROTTLE, int32, 1),
        ("groups", array(
            ("error", int16), ("group", string), ("state", string), ("protocol_type", string), ("protocol", string),
            ("members", array(
                ("id", string), ("instance_id", string, 4), ("client_id", string), ("client_host", string),
                ("metadata", data), ("assignment", data),
            )),
            ("operations", int32, 3),
        )),
    ),
)  # fmt: skip

LIST_GROUPS = _api(
    16, "list_groups", 0, 2,
    struct_of(),
    struct_of(
        (_THROTTLE, int32, 1), ("error", int16), ("groups", array(("group", string), ("protocol_type", string)))
    ),
)  # fmt: skip

SASL_HANDSHAKE = _api(
    17, "sasl_handshake", 1, 1,
    struct_of(("mechanism", string)),
    struct_of(("error", int16), ("mechanisms", array(string))),
)  # fmt: skip

API_VERSIONS = _api(18, "api_versions", 0, 3, struct_of(), struct_of())
"""Answered by hand, because its third version is in the compact encoding."""

CREATE_TOPICS = _api(
    19, "create_topics", 0, 4,
    struct_of(
        ("topics", array(
            ("name", string), ("partitions", int32), ("replication", int16),
            ("assignments", array(("index", int32), ("brokers", array(int32)))),
            ("configs", array(("name", string), ("value", string))),
        )),
        ("timeout_ms", int32), ("validate_only", boolean, 1),
    ),
    struct_of((_THROTTLE, int32, 2), ("topics", array(("name", string), ("error", int16), ("message", string, 1)))),
)  # fmt: skip

DELETE_TOPICS = _api(
    20, "delete_topics", 0, 3,
    struct_of(("names", array(string)), ("timeout_ms", int32)),
    struct_of((_THROTTLE, int32, 1), ("topics", array(("name", string), ("error", int16)))),
)  # fmt: skip

DELETE_RECORDS = _api(
    21, "delete_records", 0, 1,
    struct_of(
        ("topics", array(("name", string), ("partitions", array(("index", int32), ("offset", int64))))),
        ("timeout_ms", int32),
    ),
    struct_of(
        (_THROTTLE, int32),
        ("topics", array(
            ("name", string), ("partitions", array(("index", int32), ("low_watermark", int64), ("error", int16)))
        )),
    ),
)  # fmt: skip

_RESOURCE = (("type", int8), ("name", string))
_ALTERED = struct_of((_THROTTLE, int32), ("resources", array(("error", int16), ("message", string), *_RESOURCE)))

DESCRIBE_CONFIGS = _api(
    32, "describe_configs", 0, 2,
    struct_of(("resources", array(*_RESOURCE, ("keys", array(string)))), ("synonyms", boolean, 1)),
    struct_of(
        (_THROTTLE, int32),
        ("resources", array(
            ("error", int16), ("message", string), *_RESOURCE,
            ("configs", array(
                ("name", string), ("value", string), ("read_only", boolean), ("is_default", boolean, 0, 0),
                ("source", int8, 1), ("is_sensitive", boolean),
                ("synonyms", array(("name", string), ("value", string), ("source", int8)), 1),
            )),
        )),
    ),
)  # fmt: skip

ALTER_CONFIGS = _api(
    33, "alter_configs", 0, 1,
    struct_of(
        ("resources", array(*_RESOURCE, ("configs", array(("name", string), ("value", string))))),
        ("validate_only", boolean),
    ),
    _ALTERED,
)  # fmt: skip

DESCRIBE_LOG_DIRS = _api(
    35, "describe_log_dirs", 0, 1,
    struct_of(("topics", array(("name", string), ("partitions", array(int32))))),
    struct_of(
        (_THROTTLE, int32),
        ("dirs", array(
            ("error", int16), ("path", string),
            ("topics", array(
                ("name", string),
                ("partitions", array(
                    ("index", int32), ("size", int64), ("offset_lag", int64), ("is_future", boolean)
                )),
            )),
        )),
    ),
)  # fmt: skip

SASL_AUTHENTICATE = _api(
    36, "sasl_authenticate", 0, 0,
    struct_of(("auth", data)),
    struct_of(("error", int16), ("message", string), ("auth", data)),
)  # fmt: skip

DELETE_GROUPS = _api(
    42, "delete_groups", 0, 1,
    struct_of(("groups", array(string))),
    struct_of((_THROTTLE, int32), ("groups", array(("group", string), ("error", int16)))),
)  # fmt: skip

INCREMENTAL_ALTER_CONFIGS = _api(
    44, "incremental_alter_configs", 0, 0,
    struct_of(
        ("resources", array(*_RESOURCE, ("configs", array(("name", string), ("operation", int8), ("value", string))))),
        ("validate_only", boolean),
    ),
    _ALTERED,
)  # fmt: skip

CONTROL = _api(9000, "control", 0, 0, struct_of(("order", string)), struct_of(("error", int16), ("message", string)))
"""Not Kafka's: how faults are switched on in the double. It is not advertised."""
