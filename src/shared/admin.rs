//! The commands of an administrator: set up the database, look at it, drain for all heads.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use tokio::runtime::Builder;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::connection::{check_server, check_version, classify, open, version, within};
use super::overview::Overview;
use super::schema::{VERSION, migration};
use super::{Error, statements};
use crate::machine::SharedPool;
use crate::state::shared_pool::HeadName;

/// The time limit of such a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Held while the tables are created or changed, so that two commands do not do it at the same time. The number is "offload"
/// in ASCII.
const MIGRATION_LOCK: i64 = 0x006f_6666_6c6f_6164;

/// How many connections the server still accepts from accounts without special rights.
const FREE_CONNECTIONS: &str = "select current_setting('max_connections')::bigint \
    - current_setting('superuser_reserved_connections')::bigint - (select count(*) from pg_stat_activity \
    where backend_type = 'client backend')";

/// The heads of a pool, as JSON.
const HEADS: &str = "select coalesce(json_agg(json_build_object('name', name, 'program', program, \
    'seen', offload.milliseconds(seen)) order by name, head), '[]')::text from offload.head \
    where pool = $1 and seen > now() - interval '30 days'";

/// Those who have slots, as JSON. A row without a lock is an old one.
const HOLDERS: &str = "select coalesce(json_agg(json_build_object('host', h.host, 'slot', h.slot, 'head', n.name, \
    'derivation', h.derivation, 'user', h.login, 'since', offload.milliseconds(h.since)) order by h.host, h.slot), \
    '[]')::text from offload.holder h join offload.head n using (pool, head) where h.pool = $1 and exists (select \
    from pg_locks l where l.locktype = 'advisory' and l.objsubid = 2 and l.granted and l.pid = h.backend \
    and l.classid = h.key::oid and l.objid = h.slot::oid)";

/// Those who wait, as JSON.
const WAITING: &str = "select coalesce(json_agg(json_build_object('host', w.host, 'head', n.name, \
    'derivation', w.derivation, 'user', w.login, 'since', offload.milliseconds(w.since)) order by w.since, w.host), \
    '[]')::text from offload.waiting w join offload.head n using (pool, head) where w.pool = $1 \
    and w.renewed > now() - interval '5 seconds'";

/// Creates the tables, or brings them to the version of this program. Returns the version that was there, 0 for none.
pub fn init(shared: &SharedPool) -> Result<i32, Error> {
    block_on(async {
        let mut client = open(shared, COMMAND_TIMEOUT, 0, None).await?;
        check_server(&client).await?;
        let failed = |error: tokio_postgres::Error| classify(&error);
        let transaction = client.transaction().await.map_err(failed)?;
        let lock: &[(&(dyn ToSql + Sync), Type)] = &[(&MIGRATION_LOCK, Type::INT8)];
        transaction.query_typed("select pg_advisory_xact_lock($1)", lock).await.map_err(failed)?;
        let exists = "select to_regclass('offload.version') is not null";
        let exists: bool = transaction.query_one(exists, &[]).await.map_err(failed)?.get(0);
        let before = match exists {
            true => transaction.query_one("select version from offload.version", &[]).await.map_err(failed)?.get(0),
            false => 0,
        };
        let statements = migration(before).map_err(|found| Error::Version { found })?;
        if !statements.is_empty() {
            transaction.batch_execute(&statements).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(before)
    })
}

/// Looks at the database. The version of the tables may be another one: then only the first fields are known.
pub fn overview(shared: &SharedPool) -> Result<Overview, Error> {
    block_on(look(shared))
}

/// Looks at the database, and checks that this head can use it.
pub fn check(shared: &SharedPool, head: &HeadName) -> Result<Overview, Error> {
    block_on(async {
        let client = ready(shared).await?;
        statements::enter(&client, &shared.name, head).await?;
        look(shared).await
    })
}

async fn look(shared: &SharedPool) -> Result<Overview, Error> {
    let client = open(shared, COMMAND_TIMEOUT, 0, None).await?;
    let server = check_server(&client).await?;
    let version = version(&client).await?;
    let before = now();
    let server_time: i64 = number(&client, "select (extract(epoch from clock_timestamp()) * 1000)::bigint").await?;
    let clock_ahead = server_time - (before + now()) / 2;
    let mut overview = Overview {
        server,
        version,
        clock_ahead,
        is_pooled: is_pooled(shared, &client).await?,
        free_connections: number(&client, FREE_CONNECTIONS).await?,
        heads: Vec::new(),
        holders: Vec::new(),
        waiting: Vec::new(),
        drains: Vec::new(),
    };
    if version == VERSION {
        let pool = shared.name.as_str();
        overview.heads = list(&client, HEADS, pool).await?;
        overview.holders = list(&client, HOLDERS, pool).await?;
        overview.waiting = list(&client, WAITING, pool).await?;
        overview.drains = list(&client, "select offload.drains($1)", pool).await?;
    }
    Ok(overview)
}

/// Drains hosts for all heads, for `time` or until they are undrained. The clock is that of the server.
pub fn drain(shared: &SharedPool, hosts: &[String], head: &str, time: Option<Duration>) -> Result<(), Error> {
    let statement = "insert into offload.drain select $1, host, $3, now(), now() + $4 * interval '1 second' \
        from unnest($2) as host on conflict on constraint drain_pkey do update set \
        head_name = excluded.head_name, since = excluded.since, until = excluded.until";
    let seconds = time.map(|time| time.as_secs_f64());
    block_on(async {
        let client = ready(shared).await?;
        let parameters: &[(&(dyn ToSql + Sync), Type)] =
            &[(&shared.name, Type::TEXT), (&hosts, Type::TEXT_ARRAY), (&head, Type::TEXT), (&seconds, Type::FLOAT8)];
        client.query_typed(statement, parameters).await.map(|_| ()).map_err(|error| classify(&error))
    })
}

/// Undrains hosts for all heads. Returns those that were drained.
pub fn undrain(shared: &SharedPool, hosts: &[String]) -> Result<Vec<String>, Error> {
    let statement = "delete from offload.drain where pool = $1 and host = any ($2) returning host";
    block_on(async {
        let client = ready(shared).await?;
        let parameters: &[(&(dyn ToSql + Sync), Type)] = &[(&shared.name, Type::TEXT), (&hosts, Type::TEXT_ARRAY)];
        let rows = client.query_typed(statement, parameters).await.map_err(|error| classify(&error))?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| classify(&error))).collect()
    })
}

async fn ready(shared: &SharedPool) -> Result<Client, Error> {
    let client = open(shared, COMMAND_TIMEOUT, 0, None).await?;
    check_version(&client).await?;
    Ok(client)
}

/// Returns whether two clients have the same session. A pooler in the mode `transaction` gives the session of one client to
/// another one as soon as no transaction runs.
async fn is_pooled(shared: &SharedPool, client: &Client) -> Result<bool, Error> {
    const BACKEND: &str = "select pg_backend_pid()::bigint";
    let first = number(client, BACKEND).await?;
    let other = open(shared, COMMAND_TIMEOUT, 0, None).await?;
    let second = number(&other, BACKEND).await?;
    Ok(first == second || number(client, BACKEND).await? != first)
}

async fn number(client: &Client, statement: &str) -> Result<i64, Error> {
    let row = client.query_typed_one(statement, &[]).await.map_err(|error| classify(&error))?;
    row.try_get(0).map_err(|error| classify(&error))
}

async fn list<T: DeserializeOwned>(client: &Client, statement: &str, pool: &str) -> Result<Vec<T>, Error> {
    let row = client.query_typed_one(statement, &[(&pool, Type::TEXT)]).await.map_err(|error| classify(&error))?;
    let text: &str = row.try_get(0).map_err(|error| classify(&error))?;
    serde_json::from_str(text).map_err(|error| Error::Statement(error.to_string()))
}

fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| Error::Thread(error.to_string()))?;
    let result = runtime.block_on(within(COMMAND_TIMEOUT, work));
    runtime.shutdown_background();
    result
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}
