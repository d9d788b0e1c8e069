//! The statements of a session. Each is one round trip.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::Error;
use super::connection::classify;
use super::keys::Place;
use super::messages::{Build, Entered, Outcome};
use crate::state::shared_pool::HeadName;

/// A parameter of a statement, and its type.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

async fn row(client: &Client, statement: &str, parameters: &[Parameter<'_>]) -> Result<Row, Error> {
    client.query_typed_one(statement, parameters).await.map_err(|error| classify(&error))
}

/// Returns a value of a row.
fn value<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, Error> {
    row.try_get(index).map_err(|error| classify(&error))
}

/// Records that this head is here.
pub(super) async fn enter(client: &Client, pool: &str, head: &HeadName) -> Result<Entered, Error> {
    let program = env!("CARGO_PKG_VERSION");
    let parameters: &[Parameter<'_>] =
        &[(&pool, Type::TEXT), (&head.id, Type::TEXT), (&head.name, Type::TEXT), (&program, Type::TEXT)];
    let row = row(client, "select * from offload.enter($1, $2, $3, $4)", parameters).await?;
    let heads: i32 = value(&row, 0)?;
    Ok(Entered { heads: heads.unsigned_abs(), drains: value(&row, 1)?, backend: value(&row, 2)? })
}

/// Takes a slot of `place`, none of `mine`. `again`: the build runs there already.
pub(super) async fn take(
    client: &Client,
    (pool, head): (&str, &HeadName),
    place: &Place,
    mine: &[i32],
    again: bool,
    build: &Build,
) -> Result<Outcome, Error> {
    let parameters: &[Parameter<'_>] = &[
        (&pool, Type::TEXT),
        (&place.host, Type::TEXT),
        (&place.key, Type::INT4),
        (&place.slots, Type::INT4),
        (&mine, Type::INT4_ARRAY),
        (&again, Type::BOOL),
        (&build.ignores_drains, Type::BOOL),
        (&head.id, Type::TEXT),
        (&build.derivation, Type::TEXT),
        (&build.user, Type::TEXT),
    ];
    let row = row(client, "select * from offload.take($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", parameters).await?;
    let outcome: &str = value(&row, 0)?;
    Ok(match outcome {
        "slot" => Outcome::Slot(value(&row, 1)?),
        "drained" => Outcome::Drained,
        // Full, or the free slots are for other heads.
        _ => Outcome::Full,
    })
}

/// Releases a slot.
pub(super) async fn release(client: &Client, pool: &str, place: &Place, slot: i32) -> Result<(), Error> {
    let parameters: &[Parameter<'_>] =
        &[(&pool, Type::TEXT), (&place.host, Type::TEXT), (&place.key, Type::INT4), (&slot, Type::INT4)];
    row(client, "select offload.release($1, $2, $3, $4)", parameters).await.map(|_| ())
}

/// Records that a build waits for `hosts`, and for no others. Returns the drained hosts.
pub(super) async fn wait(
    client: &Client,
    (pool, head): (&str, &HeadName),
    hosts: &[String],
    build: &Build,
) -> Result<String, Error> {
    let parameters: &[Parameter<'_>] = &[
        (&pool, Type::TEXT),
        (&hosts, Type::TEXT_ARRAY),
        (&head.id, Type::TEXT),
        (&build.derivation, Type::TEXT),
        (&build.user, Type::TEXT),
    ];
    value(&row(client, "select offload.wait($1, $2, $3, $4, $5)", parameters).await?, 0)
}

/// Returns the number of the server's process. In one session it never changes.
pub(super) async fn backend(client: &Client) -> Result<i32, Error> {
    value(&row(client, "select pg_backend_pid()", &[]).await?, 0)
}
