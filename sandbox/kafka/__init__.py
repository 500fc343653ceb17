"""
A double of a Kafka cluster: it speaks Kafka's wire protocol, but it is not Kafka.

One process plays all brokers, each on a port of its own, so clients find, lose and find again real TCP servers.
It keeps what real brokers keep (logs as files of record batches, topic configurations, committed offsets), survives a
restart, runs consumer groups with members, generations and rebalances, elects leaders, and refuses what the real
one refuses: unknown topics, unknown members, deletion of a group that is in use, invalid values of ``retention.ms``.

What it does not do: replicate bytes, delete by retention, compact, transactions, ACLs. It advertises only the protocol
versions that it implements (the last ones before the compact encoding), and clients adapt to that.

``python -m sandbox.kafka`` is the server, ``sandbox.kafka.application`` the consumers and the producer of a platform.
"""
