-- Slots are session-level advisory locks: (key of pool and host, number of the slot). PostgreSQL releases them when the
-- session ends. The tables only show them to people and to other heads, so most are unlogged:
-- after a crash of the server they are empty.

create table offload.version (version integer not null);

-- The heads of each pool, and when each last connected. Their number decides what a head uses during an outage, so it survives a
-- crash.
create table offload.head (
    pool text not null, head text not null, name text not null, program text not null, seen timestamptz not null,
    primary key (pool, head));

-- Who has which slot. A row is valid while the session `backend` has the lock.
create unlogged table offload.holder (
    pool text not null, host text not null, slot integer not null, key integer not null, head text not null,
    backend integer not null, derivation text not null, login text, since timestamptz not null,
    primary key (pool, host, slot));

-- The first build in the queue of each head, for each host. A row is valid for five seconds after it was renewed.
create unlogged table offload.waiting (
    pool text not null, host text not null, head text not null, backend integer not null, derivation text not null,
    login text, since timestamptz not null, renewed timestamptz not null,
    primary key (pool, host, head));

-- When each head last got a slot of a host.
create unlogged table offload.turn (
    pool text not null, host text not null, head text not null, served timestamptz not null,
    primary key (pool, host, head));

create table offload.drain (
    pool text not null, host text not null, head_name text not null, since timestamptz not null, until timestamptz,
    primary key (pool, host));

-- Milliseconds since 1970.
create function offload.milliseconds(timestamptz) returns bigint language sql stable
    return (extract(epoch from $1) * 1000)::bigint;

-- The drained hosts of a pool, as JSON.
create function offload.drains(pool_ text) returns text language sql stable
    return (select coalesce(json_agg(json_build_object(
            'host', host, 'head', head_name, 'since', offload.milliseconds(since),
            'until', offload.milliseconds(until)) order by host), '[]')::text
        from offload.drain where pool = pool_ and (until is null or until > now()));

-- Records that a head is here. Returns how many there were within a day, and the drained hosts.
create function offload.enter(pool_ text, head_ text, name_ text, program_ text)
returns table (heads integer, drains text, backend integer) language plpgsql as $$
begin
    insert into offload.head values (pool_, head_, name_, program_, now())
        on conflict on constraint head_pkey do update set name = name_, program = program_, seen = now();
    return query select (select count(*)::integer from offload.head h where h.pool = pool_ and h.seen > now() - interval '1 day'),
        offload.drains(pool_), pg_backend_pid();
end $$;

-- Counts the slots of a host that are taken. A lock of two numbers has the objsubid 2.
create function offload.taken(key_ integer, count_ integer) returns integer language sql volatile
    return (select count(*)::integer from pg_locks where locktype = 'advisory' and objsubid = 2 and granted
        and database = (select oid from pg_database where datname = current_database())
        and classid = key_::oid and objid < count_::oid);

-- Makes transactions of one head wait for each other: they change the same rows in different orders.
create function offload.one_at_a_time(pool_ text, head_ text) returns void language sql volatile
    begin atomic select pg_advisory_xact_lock(hashtextextended(pool_ || ' ' || head_, 0)); end;

-- Takes a free slot of a host, unless the host is drained or the free slots belong to heads that wait for them. `mine_`
-- are the slots that this session has: a session gets its own lock twice. `again_`: the build runs there already.
-- `ignores_drains_`: the build may use a drained host. Returns the slot; or 'full', 'behind' or 'drained'.
create function offload.take(pool_ text, host_ text, key_ integer, count_ integer, mine_ integer[], again_ boolean,
    ignores_drains_ boolean, head_ text, derivation_ text, login_ text)
returns table (outcome text, slot integer) language plpgsql as $$
declare
    before integer := 0;
begin
    perform offload.one_at_a_time(pool_, head_);
    if not again_ then
        if not ignores_drains_ and exists (select from offload.drain d
                where d.pool = pool_ and d.host = host_ and (d.until is null or d.until > now())) then
            return query select 'drained', null::integer;
            return;
        end if;
        with own as (select
            coalesce((select t.served from offload.turn t where t.pool = pool_ and t.host = host_ and t.head = head_),
                '-infinity') as served,
            coalesce((select w.since from offload.waiting w where w.pool = pool_ and w.host = host_ and w.head = head_),
                now()) as since)
        select count(*) into before from own, offload.waiting w
            left join offload.turn t on t.pool = w.pool and t.host = w.host and t.head = w.head
            where w.pool = pool_ and w.host = host_ and w.head <> head_
                and w.renewed > clock_timestamp() - interval '5 seconds'
                and (coalesce(t.served, '-infinity'), w.since, w.head) < (own.served, own.since, head_);
        if before > 0 and count_ - offload.taken(key_, count_) <= before then
            return query select 'behind', null::integer;
            return;
        end if;
    end if;
    for number in 0 .. count_ - 1 loop
        if number = any (mine_) or not pg_try_advisory_lock(key_, number) then
            continue;
        end if;
        insert into offload.holder values
            (pool_, host_, number, key_, head_, pg_backend_pid(), derivation_, login_, now())
            on conflict on constraint holder_pkey do update set key = key_, head = head_, backend = pg_backend_pid(),
                derivation = derivation_, login = login_, since = now();
        if not again_ then
            insert into offload.turn values (pool_, host_, head_, clock_timestamp())
                on conflict on constraint turn_pkey do update set served = clock_timestamp();
            delete from offload.waiting w where w.pool = pool_ and w.head = head_ and w.backend = pg_backend_pid();
        end if;
        return query select 'slot', number;
        return;
    end loop;
    return query select 'full', null::integer;
end $$;

-- Releases a slot, and wakes the builds that wait for this host.
create function offload.release(pool_ text, host_ text, key_ integer, slot_ integer) returns void language plpgsql as $$
begin
    delete from offload.holder h
        where h.pool = pool_ and h.host = host_ and h.slot = slot_ and h.backend = pg_backend_pid();
    perform pg_advisory_unlock(key_, slot_);
    if exists (select from offload.waiting w where w.pool = pool_ and w.host = host_) then
        perform pg_notify('offload', host_);
    end if;
end $$;

-- Records that a build waits for these hosts, and for no others, as the first of its head. Returns the drained hosts.
create function offload.wait(pool_ text, hosts_ text[], head_ text, derivation_ text, login_ text) returns text
language plpgsql as $$
begin
    perform offload.one_at_a_time(pool_, head_);
    delete from offload.waiting w where w.pool = pool_ and w.head = head_ and w.backend = pg_backend_pid()
        and w.host <> all (hosts_);
    insert into offload.waiting
        select pool_, host, head_, pg_backend_pid(), derivation_, login_, now(), clock_timestamp()
        from unnest(hosts_) as host order by host
        on conflict on constraint waiting_pkey do update set
            since = case when waiting.renewed > clock_timestamp() - interval '5 seconds' then waiting.since else now() end,
            backend = pg_backend_pid(), derivation = derivation_, login = login_, renewed = clock_timestamp();
    return offload.drains(pool_);
end $$;
