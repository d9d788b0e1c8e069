//! A pool that several heads share: the engine that knows of all their builds, and what happens while it is down.
//!
//! The engine is PostgreSQL. Its URL is that of libpq ("Connection URIs" in PostgreSQL's manual) without a password,
//! which is in a file or in the variable `PGPASSWORD`.

use std::path::PathBuf;

/// The setting `shared` of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPool {
    /// The URL of the database, without a password.
    pub url: String,
    /// The name of the pool. Heads with the same name and database share their machines.
    pub name: String,
    /// The slots that this head uses while the engine cannot be used.
    pub when_down: WhenDown,
    /// The file with the password; `None`: the variable `PGPASSWORD`, or no password.
    pub password_file: Option<PathBuf>,
}

impl Default for SharedPool {
    fn default() -> SharedPool {
        SharedPool { url: String::new(), name: "default".to_owned(), when_down: WhenDown::Share, password_file: None }
    }
}

/// The slots that a head uses while the engine cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// Uses its share of each machine: the slots divided by the heads that were last seen, and one at least.
    Share,
    /// Uses all slots, as a head alone.
    All,
    /// Builds locally what it may and can, and the rest as with `Share`.
    Local,
}

impl WhenDown {
    /// All values, in the order of the manual.
    pub const ALL: [WhenDown; 3] = [WhenDown::Share, WhenDown::All, WhenDown::Local];

    /// Returns the name that machine files use.
    pub fn name(self) -> &'static str {
        match self {
            WhenDown::Share => "share",
            WhenDown::All => "all",
            WhenDown::Local => "local",
        }
    }

    /// Returns how many of a machine's `slots` this head uses while the engine is down, if `heads` share them.
    pub fn usable_slots(self, slots: u32, heads: u32) -> u32 {
        match self {
            WhenDown::All => slots,
            WhenDown::Share | WhenDown::Local => (slots / heads.max(1)).max(1).min(slots),
        }
    }
}

/// How the connection with the engine is encrypted: `sslmode` of the URL, with the meanings of libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server offers it. The default.
    Prefer,
    /// Always. The certificate is not checked.
    Require,
    /// Always. An authority that this machine trusts has signed the certificate.
    VerifyCa,
    /// Always. As `VerifyCa`, and the certificate is that of the host in the URL.
    VerifyFull,
}

/// The parts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineUrl {
    /// The URL without the parameters below.
    pub base: String,
    pub tls: TlsMode,
    /// `sslrootcert`: the file with the authorities; `None`: those of the system.
    pub authorities: Option<PathBuf>,
}

/// A URL that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("expected a URL that begins with postgresql://")]
    Scheme,
    #[error("the URL has a password, which everyone who can read this file could use")]
    Password,
    #[error("unknown sslmode \"{0}\"; expected disable, prefer, require, verify-ca or verify-full")]
    Mode(String),
    #[error("the URL cannot be parsed: {0}")]
    Invalid(String),
    #[error("the URL has no name of a database after the host")]
    Database,
}

impl EngineUrl {
    /// Parses the URL as far as the program handles it itself. The client library parses `base`.
    pub fn parse(url: &str) -> Result<EngineUrl, UrlError> {
        let schemes = ["postgresql://", "postgres://"];
        let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or(UrlError::Scheme)?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = address.split_once('/').unwrap_or((address, ""));
        let account = authority.rsplit_once('@').map_or("", |(account, _)| account);
        if account.contains(':') {
            return Err(UrlError::Password);
        }
        let (mut tls, mut authorities, mut others) = (TlsMode::Prefer, None, Vec::new());
        let mut has_database = !database.is_empty();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("password", _) => return Err(UrlError::Password),
                ("sslmode", mode) => tls = tls_mode(mode).ok_or_else(|| UrlError::Mode(mode.to_owned()))?,
                ("sslrootcert", "system") => authorities = None,
                ("sslrootcert", file) => authorities = Some(PathBuf::from(file)),
                (name, _) => {
                    has_database |= name == "dbname";
                    others.push(parameter);
                }
            }
        }
        if !has_database {
            return Err(UrlError::Database);
        }
        let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
        let base = format!("postgresql://{address}{query}");
        check(&base)?;
        Ok(EngineUrl { base, tls, authorities })
    }
}

/// Fails if the client library refuses a URL, or finds a password in it that was not seen here.
#[cfg(feature = "shared")]
fn check(base: &str) -> Result<(), UrlError> {
    let config: tokio_postgres::Config = base.parse().map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        UrlError::Invalid(cause)
    })?;
    if config.get_password().is_some() { Err(UrlError::Password) } else { Ok(()) }
}

#[cfg(not(feature = "shared"))]
fn check(_: &str) -> Result<(), UrlError> {
    Ok(())
}

fn tls_mode(name: &str) -> Option<TlsMode> {
    Some(match name {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_uses_its_share_and_one_slot_at_least() {
        let share = |slots, heads| WhenDown::Share.usable_slots(slots, heads);
        assert_eq!([share(8, 2), share(8, 3), share(2, 5), share(4, 0), share(0, 2)], [4, 2, 1, 4, 0]);
        assert_eq!(WhenDown::Local.usable_slots(8, 2), 4);
        assert_eq!(WhenDown::All.usable_slots(8, 5), 8);
    }

    #[test]
    fn tls_is_taken_from_the_url_and_the_rest_stays() {
        let url = "postgres://farm@db:5433/offload?sslmode=verify-full&target_session_attrs=read-write&sslrootcert=/ca";
        let parsed = EngineUrl::parse(url).unwrap();
        assert_eq!(parsed.base, "postgresql://farm@db:5433/offload?target_session_attrs=read-write");
        assert_eq!((parsed.tls, parsed.authorities), (TlsMode::VerifyFull, Some("/ca".into())));
        let plain = EngineUrl::parse("postgresql:///farm?host=/run/postgresql").unwrap();
        assert_eq!((plain.base.as_str(), plain.tls), ("postgresql:///farm?host=/run/postgresql", TlsMode::Prefer));
        assert_eq!(EngineUrl::parse("postgresql://db/x?sslmode=disable").unwrap().base, "postgresql://db/x");
        for (mode, expected) in
            [("prefer", TlsMode::Prefer), ("require", TlsMode::Require), ("verify-ca", TlsMode::VerifyCa)]
        {
            assert_eq!(EngineUrl::parse(&format!("postgresql://db/x?sslmode={mode}")).unwrap().tls, expected);
        }
    }

    #[test]
    fn an_unusable_url_says_why() {
        let error = |url: &str| EngineUrl::parse(url).unwrap_err();
        assert_eq!(error("mysql://db/x"), UrlError::Scheme);
        assert_eq!(error("postgresql://me:secret@db/x"), UrlError::Password);
        assert_eq!(error("postgresql://me@db/x?password=secret"), UrlError::Password);
        assert_eq!(error("postgresql://db/x?sslmode=full"), UrlError::Mode("full".to_owned()));
        assert_eq!(
            [error("postgresql://db"), error("postgresql://db/?sslmode=disable")],
            [UrlError::Database, UrlError::Database]
        );
        assert!(EngineUrl::parse("postgresql://db?dbname=x").is_ok());
    }

    #[test]
    #[cfg(feature = "shared")]
    fn the_client_library_checks_the_rest_of_a_url() {
        let error = |url: &str| EngineUrl::parse(url).unwrap_err();
        assert_eq!(error("postgresql://me:se/cret@db/x"), UrlError::Password);
        assert_eq!(error("postgresql://db/x?pass%77ord=secret"), UrlError::Password);
        assert_eq!(error("postgresql://db/x?sslcert=/c"), UrlError::Invalid("unknown option `sslcert`".to_owned()));
    }
}
