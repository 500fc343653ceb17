-- Functions from which the sample data is made; they live as long as the loader's session.
--
-- Everything follows from hashes of a row's number, so the same seed gives the same rows in any order.
-- The loader puts the seed and the scale in.

create function pg_temp.rows(at_scale_1 int) returns int
language sql immutable return greatest(4, ceil(at_scale_1 * {scale}::float8)::int);

-- Between 0 (included) and 1, another for each salt.
create function pg_temp.dice(i bigint, salt int) returns float8
language sql immutable
return (hashint8extended(i, {seed} * 1000 + salt) & 9007199254740991)::float8 / 9007199254740992;

create function pg_temp.whole(i bigint, salt int, below int) returns int
language sql immutable return floor(pg_temp.dice(i, salt) * below)::int;

create function pg_temp.hex(i bigint, salt int) returns text
language sql immutable return md5(i::text || (':' || salt::text || ':' || {seed}::text));

-- The identifier of row i of a kind.
create function pg_temp.uid(kind int, i bigint) returns uuid
language sql immutable return md5(i::text || (':' || kind::text || ':' || {seed}::text))::uuid;

create function pg_temp.pick(choices text[], i bigint, salt int) returns text
language sql immutable return choices[1 + pg_temp.whole(i, salt, cardinality(choices))];

-- Counted from midnight, so that two loads of one day agree; to the millisecond, as applications write it.
create function pg_temp.ago(days float8) returns timestamptz
language sql stable return date_trunc('day', now()) - make_interval(secs => floor(days * 86400000) / 1000);

-- A hash as bcrypt writes it: 60 characters, the work factor first.
create function pg_temp.password_hash(i bigint) returns text
language sql immutable return
    '$2b$12$' || translate(
        substr(encode(sha256(pg_temp.hex(i, 91)::bytea) || decode(pg_temp.hex(i, 92), 'hex'), 'base64'), 1, 53), '+=', '..'
    );

create function pg_temp.token(i bigint, salt int) returns text
language sql immutable return translate(encode(sha256(pg_temp.hex(i, salt)::bytea), 'base64'), '+/=', '-_');

create function pg_temp.first_name(i bigint) returns text
language sql immutable return pg_temp.pick(array[
    'Ada', 'Aiko', 'Alejandro', 'Amara', 'Anselm', 'Beatriz', 'Björn', 'Chidi', 'Chloé', 'Dalia', 'Dmitri', 'Elif',
    'Emeka', 'Farah', 'Finn', 'Giulia', 'Hana', 'Henrik', 'Ines', 'Ivan', 'Jasmin', 'Joaquín', 'Kaito', 'Karolina',
    'Lars', 'Leila', 'Lucía', 'Mateo', 'Maya', 'Mira', 'Naoko', 'Nikhil', 'Noor', 'Olumide', 'Oskar', 'Paloma', 'Priya',
    'Quentin', 'Rafael', 'Ravi', 'Rosa', 'Samira', 'Søren', 'Tadeo', 'Thandiwe', 'Uma', 'Viktor', 'Wanjiru', 'Xin',
    'Yara', 'Yusuf', 'Zofia'
], i, 11);

create function pg_temp.last_name(i bigint) returns text
language sql immutable return pg_temp.pick(array[
    'Abe', 'Adeyemi', 'Álvarez', 'Andersson', 'Banerjee', 'Bauer', 'Costa', 'Dąbrowski', 'Diallo', 'Eriksen', 'Ferrari',
    'Fischer', 'García', 'Haddad', 'Hoffmann', 'Ivanova', 'Jansen', 'Kaya', 'Kim', 'Kovács', 'Kowalski', 'Lindqvist',
    'López', 'Martin', 'Mbeki', 'Mehta', 'Moreau', 'Müller', 'Nakamura', 'Ndlovu', 'Novak', 'O''Brien', 'Okafor', 'Olsen',
    'Patel', 'Pereira', 'Petrov', 'Ricci', 'Rossi', 'Sato', 'Schmidt', 'Silva', 'Singh', 'Tanaka', 'Torres', 'Tran',
    'van Dijk', 'Weber', 'Wójcik', 'Yılmaz', 'Zhang', 'Zimmermann'
], i, 12);

-- What somebody jots down. PostgreSQL inlines it as long as all of it is immutable (int || text is not) and arrays
-- are constant, which makes it five times as fast.
create function pg_temp.note(i bigint, salt int) returns text
language sql immutable return
    pg_temp.pick(array[
        'Needs a socket', 'Group work', 'Prefers the window', 'Quiet area please', 'Laptop is on loan', 'Exam on Friday',
        'Second screen', 'Will be late', 'Accessible desk', 'Brings own monitor', 'Thesis season', 'Language exchange',
        'Same seat as last week', 'Near the printer', 'Standing desk', 'Library card forgotten'
    ], i, salt)
    || case pg_temp.whole(i, salt + 1, 4)
        when 0 then '.'
        when 1 then '; called at ' || (8 + pg_temp.whole(i, salt + 2, 12))::text || ':'
            || (10 + pg_temp.whole(i, salt + 3, 50))::text
        when 2 then '; ticket ' || substr(pg_temp.hex(i, salt + 4), 1, 8)
        else '; asked ' || pg_temp.first_name(i + 7) || ' at the desk'
    end;
