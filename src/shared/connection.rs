//! A connection with the database.
//!
//! The settings of the session bound how long the database keeps the slots of a head that it cannot reach:
//!
//! - The client asks something every [`HEARTBEAT`]. The server ends a session that has asked nothing for 20 s
//!   (`idle_session_timeout`). This also detects links that a proxy holds open, and heads that are suspended.
//! - TCP keep-alives of the server detect a cut link within 20 s, even if a statement runs.

use std::future::{Future, poll_fn};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, Socket};

use super::schema::VERSION;
use super::{CONNECT_TIMEOUT, Error, tls};
use crate::error::with_causes;
use crate::machine::{EngineUrl, SharedPool, TlsMode};

/// How often a session that holds slots shows the server that it lives.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The settings of each session, and the version of the database.
const SETTINGS: &str = "set idle_session_timeout = '20s'; set tcp_keepalives_idle = 8; set tcp_keepalives_interval = 4; \
    set tcp_keepalives_count = 3; set statement_timeout = '15s'; set client_min_messages = warning; \
    set search_path = offload, pg_catalog";

/// The oldest version of the server, in the form of `server_version_num`: it has `idle_session_timeout`.
const OLDEST_SERVER: i64 = 140_000;

/// What a connection reports while no statement runs.
#[derive(Debug)]
pub(super) enum Report {
    /// A slot of this host was released.
    Released(String),
    /// The connection with this number has ended.
    Lost(u64),
}

/// Opens a connection, and sets the session up. The version of the database is not checked. Reports go to `reports`, with
/// the number of the connection.
pub(super) async fn open(
    shared: &SharedPool,
    limit: Duration,
    number: u64,
    reports: Option<UnboundedSender<Report>>,
) -> Result<Client, Error> {
    let (config, url) = config(shared)?;
    match url.tls {
        TlsMode::Disable => within(limit, set_up(&config, NoTls, number, reports)).await,
        _ => within(limit, set_up(&config, tls::connector(&url)?, number, reports)).await,
    }
}

/// Connects, with this encryption.
async fn set_up<T>(
    config: &Config,
    encryption: T,
    number: u64,
    reports: Option<UnboundedSender<Report>>,
) -> Result<Client, Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(encryption).await.map_err(|error| classify(&error))?;
    tokio::spawn(async move {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(released))) => {
                    let released = Report::Released(released.payload().to_owned());
                    reports.as_ref().map(|reports| reports.send(released));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
        reports.map(|reports| reports.send(Report::Lost(number)));
    });
    client.batch_execute(SETTINGS).await.map_err(|error| match error.code() {
        // An older server does not know a setting.
        Some(&SqlState::UNDEFINED_OBJECT) => Error::TooOld("older".to_owned()),
        _ => classify(&error),
    })?;
    Ok(client)
}

/// Fails unless the database has the version of this program.
pub(super) async fn check_version(client: &Client) -> Result<(), Error> {
    match version(client).await? {
        VERSION => Ok(()),
        0 => Err(Error::NoSchema),
        found => Err(Error::Version { found }),
    }
}

/// Returns the version of the database; 0 if it has not been set up.
pub(super) async fn version(client: &Client) -> Result<i32, Error> {
    match client.simple_query("select version from offload.version").await {
        Ok(rows) => Ok(first(&rows).and_then(|text| text.parse().ok()).unwrap_or(0)),
        Err(error) if is_missing(&error) => Ok(0),
        Err(error) => Err(classify(&error)),
    }
}

/// Fails if the server is too old. Returns its version.
pub(super) async fn check_server(client: &Client) -> Result<String, Error> {
    let ask = "select current_setting('server_version'), current_setting('server_version_num')";
    let rows = client.simple_query(ask).await.map_err(|error| classify(&error))?;
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.parse::<i64>().ok()?)),
        _ => None,
    });
    match row {
        Some((version, number)) if number >= OLDEST_SERVER => Ok(version),
        Some((version, _)) => Err(Error::TooOld(version)),
        None => Err(Error::TooOld("unknown".to_owned())),
    }
}

/// Awaits `work`, but not for longer than `limit`.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, work).await.unwrap_or(Err(Error::Silent(limit.as_secs())))
}

fn config(shared: &SharedPool) -> Result<(Config, EngineUrl), Error> {
    let url = EngineUrl::parse(&shared.url).map_err(|error| Error::Url(error.to_string()))?;
    let mut config: Config = url.base.parse().map_err(|error| Error::Url(with_causes(&error)))?;
    match &shared.password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| Error::password(file, &error))?;
            config.password(text.trim_end_matches(['\n', '\r']));
        }
        None => {
            if let Ok(password) = std::env::var("PGPASSWORD") {
                config.password(password);
            }
        }
    }
    config.ssl_mode(tls::ssl_mode(url.tls)).connect_timeout(CONNECT_TIMEOUT).application_name("offload");
    config.keepalives(true).keepalives_idle(Duration::from_secs(8)).keepalives_interval(Duration::from_secs(4));
    config.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(20));
    Ok((config, url))
}

/// Returns the meaning of an error of the client library.
pub(super) fn classify(error: &tokio_postgres::Error) -> Error {
    let Some(database) = error.as_db_error() else { return Error::Unreachable(with_causes(error)) };
    let message = database.message().to_owned();
    match database.code() {
        &SqlState::INVALID_PASSWORD
        | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        | &SqlState::INVALID_CATALOG_NAME => Error::Login(message),
        &SqlState::TOO_MANY_CONNECTIONS => Error::TooManyConnections(message),
        &SqlState::READ_ONLY_SQL_TRANSACTION => Error::ReadOnly,
        &SqlState::INSUFFICIENT_PRIVILEGE => Error::Rights(message),
        _ if is_missing(error) => Error::NoSchema,
        _ => Error::Statement(message),
    }
}

fn is_missing(error: &tokio_postgres::Error) -> bool {
    let missing = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME];
    error.code().is_some_and(|code| missing.contains(code))
}

/// Returns the first value of the first row.
fn first(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}
