-- Who we are on which server.
--
-- Returns   one row: version (170010), version_name, role (quoted where needed), database (likewise), superuser,
--           standby, encrypted, local (a Unix socket, or an address of this machine), preloaded (null when we may
--           not see it)
-- Params    none
-- Locks     none
-- Needs     PostgreSQL 10 or newer; any role

select
    current_setting('server_version_num')::int as version,
    current_setting('server_version') as version_name,
    quote_ident(current_user) as role,
    quote_ident(current_database()) as database,
    (select me.rolsuper from pg_roles as me where me.rolname = current_user) as superuser,
    pg_is_in_recovery() as standby,
    coalesce((select tls.ssl from pg_stat_ssl as tls where tls.pid = pg_backend_pid()), false) as encrypted,
    coalesce(inet_server_addr() = inet_client_addr(), true) as local,
    (select libraries.setting from pg_settings as libraries where libraries.name = 'shared_preload_libraries')
        as preloaded
