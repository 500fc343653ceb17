-- A busy season: bookings are moved and cancelled, the campus gets a new domain for its mail, old rows go.

update bookings set
    status = 'cancelled',
    note = 'Moved by the desk; ticket ' || substr(md5(id::text || {seed}::text), 1, 8),
    updated_at = updated_at + interval '1 hour'
where hashint8extended(id, {seed}) & 3 = 0;

delete from bookings
where hashint8extended(id, {seed} + 1) & 15 = 0;

-- An indexed column, so that PostgreSQL cannot tidy up by itself when it next reads the page.
update users set email = split_part(email, '@', 1) || '@new.' || split_part(email, '@', 2)
where hashtextextended(id::text, {seed} + 2) & 1 = 0;
