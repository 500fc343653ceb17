-- A busy season: bookings are moved and cancelled, people log in, old rows go.

update bookings set
    status = 'cancelled',
    note = 'Moved by the desk; ticket ' || substr(md5(id::text || {seed}::text), 1, 8),
    updated_at = updated_at + interval '1 hour'
where hashint8extended(id, {seed}) & 3 = 0;

delete from bookings
where hashint8extended(id, {seed} + 1) & 15 = 0;

update users set last_login = date_trunc('day', now()) - interval '1 hour' * (hashtextextended(id::text, {seed}) & 63)
where hashtextextended(id::text, {seed} + 2) & 3 < 2 and status = 'active';
