//! The error codes of libssh2.h that this program distinguishes, and their causes.

use std::io;

use ssh2::ErrorCode;

use super::error::Cause;

pub(super) const GENERAL: i32 = -1;
pub(super) const KEX_FAILURE: i32 = -5;
pub(super) const SOCKET_SEND: i32 = -7;
pub(super) const KEY_EXCHANGE_FAILURE: i32 = -8;
pub(super) const SOCKET_DISCONNECT: i32 = -13;
pub(super) const AUTHENTICATION_FAILED: i32 = -18;
pub(super) const PUBLICKEY_UNVERIFIED: i32 = -19;
pub(super) const CHANNEL_FAILURE: i32 = -21;
pub(super) const CHANNEL_REQUEST_DENIED: i32 = -22;
pub(super) const CHANNEL_CLOSED: i32 = -26;
pub(super) const CHANNEL_EOF_SENT: i32 = -27;
pub(super) const AGAIN: i32 = -37;
pub(super) const SOCKET_RECV: i32 = -43;

/// Returns libssh2's error for an error of [`std::io`]. The crate `ssh2` does not keep the code in it, but the session
/// does.
pub(super) fn code_of(error: &io::Error, ssh: &ssh2::Session) -> ssh2::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return again();
    }
    ssh2::Error::last_session_error(ssh).unwrap_or_else(ssh2::Error::unknown)
}

/// Returns the error EAGAIN.
pub(super) fn again() -> ssh2::Error {
    ssh2::Error::from_errno(ErrorCode::Session(AGAIN))
}

pub(super) fn is_again(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(AGAIN)
}

/// Returns the cause for an error of libssh2.
pub(super) fn cause(error: &ssh2::Error) -> Cause {
    match error.code() {
        ErrorCode::Session(SOCKET_SEND | SOCKET_DISCONNECT | SOCKET_RECV) => Cause::Closed,
        ErrorCode::Session(CHANNEL_CLOSED | CHANNEL_EOF_SENT) => Cause::ChannelClosed,
        ErrorCode::Session(number) => Cause::Ssh { code: number, message: error.message().to_owned() },
        ErrorCode::SFTP(number) => Cause::Ssh { code: number, message: error.message().to_owned() },
    }
}
