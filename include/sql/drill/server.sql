-- What a server of a streaming pair is now.
--
-- Returns   one row: standby, timeline (a primary's own, a standby's as it receives it), system_identifier, place (end
--           of its log, as text), status, sender_host, sender_port (of its WAL receiver; null on a primary)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 13 or newer; pg_monitor, otherwise nothing is known of the WAL receiver

select
    mode.standby,
    case
        when mode.standby then coalesce(receiver.received_tli, control.timeline_id)
        -- Its control file knows the new timeline only after the next checkpoint.
        else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    end                                  as timeline,
    server.system_identifier::text       as system_identifier,
    case
        when mode.standby then coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        else pg_current_wal_lsn()
    end::text                            as place,
    receiver.status,
    receiver.sender_host,
    receiver.sender_port
from (select pg_is_in_recovery() as standby) as mode
cross join pg_control_system() as server
cross join pg_control_checkpoint() as control
left join pg_stat_wal_receiver as receiver on true
