-- A term's end: attempts are scored again, sessions are prolonged and dropped.

update attempts set
    ability = round((ability * 0.9)::numeric, 6),
    response = response || jsonb_build_object('scored_again', substr(md5(id::text || {seed}::text), 1, 6))
where hashint8extended(id, {seed}) & 3 = 0;

delete from attempts
where hashint8extended(id, {seed} + 1) & 15 = 0;

update user_sessions set expires_at = expires_at + interval '1 day'
where hashtextextended(id::text, {seed} + 2) & 1 = 0;
