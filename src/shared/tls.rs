//! TLS for the connection with the database, with the meanings of libpq's `sslmode`.

use std::path::Path;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::MakeTlsConnector;
use tokio_postgres::config::SslMode;

use super::Error;
use crate::machine::{EngineUrl, TlsMode};

/// Returns the mode of the client library: whether TLS is used.
pub(super) fn ssl_mode(mode: TlsMode) -> SslMode {
    match mode {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
    }
}

/// Returns what encrypts the connection and checks the certificate.
pub(super) fn connector(url: &EngineUrl) -> Result<MakeTlsConnector, Error> {
    let failed = |cause: openssl::error::ErrorStack| Error::Tls(cause.to_string());
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    if let Some(file) = &url.authorities {
        let unreadable = |cause| Error::Tls(format!("{}: {cause}", file.display()));
        // OpenSSL names neither the file nor the cause.
        // libpq trusts only the authorities of the file, and `builder` has those of the system.
        builder.set_cert_store(X509StoreBuilder::new().map_err(failed)?.build());
        std::fs::metadata::<&Path>(file).map_err(|error| unreadable(error.to_string()))?;
        builder.set_ca_file(file).map_err(|_| unreadable("it has no certificate in PEM form".to_owned()))?;
    }
    // libpq checks the authority if a file names it, whatever the mode.
    let checks_authority = matches!(url.tls, TlsMode::VerifyCa | TlsMode::VerifyFull)
        || url.tls == TlsMode::Require && url.authorities.is_some();
    builder.set_verify(if checks_authority { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
    let mut connector = MakeTlsConnector::new(builder.build());
    let checks_name = url.tls == TlsMode::VerifyFull;
    connector.set_callback(move |configuration, _| {
        configuration.set_verify_hostname(checks_name);
        Ok(())
    });
    Ok(connector)
}
