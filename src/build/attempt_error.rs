//! The reasons why an attempt on a machine fails, and what follows from each of them.

use std::error::Error;

use super::reach::daemon_failed;
use crate::daemon;
use crate::error::{Failure, with_causes};
use crate::remote::{self, DaemonStream};
use crate::transfer::{DownloadError, UploadError};

/// The reason why an attempt failed. The texts are messages for people.
#[derive(Debug)]
pub enum AttemptError {
    /// This machine is at fault.
    Head(String),
    /// Earlier builds have found the machine to fail, for this reason.
    BackingOff(String),
    /// The machine, its daemon or the connection failed.
    Machine(String),
    /// The process that owns the session has ended or is stopped.
    OwnerLost(String),
    /// The SSH server closed the channel for its silence. It would close the channel of this build again. Other builds
    /// have more to say.
    ChannelTimeout(String),
    /// Another process builds the derivation on the machine, or this machine itself waits for it.
    NotStarted(String),
    /// An output, or the text of the check before a build, is signed with a key that is not authorized.
    UnauthorizedKey(String),
    /// The machine's daemon has reported that the build failed, which means this. The machine responds.
    Reported(Failure),
}

/// The way in which the stream to a daemon ended, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    OwnerLost,
    ChannelTimeout,
    /// It is open, or the machine or the link ended it.
    Other,
}

impl StreamEnd {
    pub(super) fn of(stream: &DaemonStream) -> StreamEnd {
        match (stream.is_channel_timeout(), stream.has_lost_owner()) {
            (true, _) => StreamEnd::ChannelTimeout,
            (false, true) => StreamEnd::OwnerLost,
            (false, false) => StreamEnd::Other,
        }
    }
}

impl AttemptError {
    /// Returns the error of a machine whose stream ended in this way.
    pub(super) fn of_machine(cause: String, end: StreamEnd) -> AttemptError {
        match end {
            StreamEnd::OwnerLost => AttemptError::OwnerLost(cause),
            StreamEnd::ChannelTimeout => AttemptError::ChannelTimeout(cause),
            StreamEnd::Other => AttemptError::Machine(cause),
        }
    }

    /// Returns the error of a daemon that failed in `phase`.
    pub(super) fn of_daemon(phase: &str, error: &daemon::Error, end: StreamEnd) -> AttemptError {
        let cause = daemon_failed(phase, error);
        match error {
            daemon::Error::Link { cause: inner, .. } if remote::Error::is_not_started(inner) => {
                AttemptError::NotStarted(cause)
            }
            _ => AttemptError::of_machine(cause, end),
        }
    }

    pub(super) fn of_upload(error: &UploadError, end: StreamEnd) -> AttemptError {
        AttemptError::of_transfer("sending inputs", error.is_of_machine(), error, end)
    }

    pub(super) fn of_download(error: &DownloadError, end: StreamEnd) -> AttemptError {
        AttemptError::of_signature("retrieving outputs", error, end)
    }

    pub(super) fn of_signing_key(error: &DownloadError, end: StreamEnd) -> AttemptError {
        AttemptError::of_signature("checking its signing key", error, end)
    }

    fn of_signature(phase: &str, error: &DownloadError, end: StreamEnd) -> AttemptError {
        match AttemptError::of_transfer(phase, error.is_of_machine(), error, end) {
            AttemptError::Machine(cause) if error.is_of_key() => AttemptError::UnauthorizedKey(cause),
            other => other,
        }
    }

    fn of_transfer(phase: &str, is_of_machine: bool, error: &dyn Error, end: StreamEnd) -> AttemptError {
        let cause = with_causes(error);
        match is_of_machine {
            true => AttemptError::of_machine(format!("{phase}: {cause}"), end),
            false => AttemptError::Head(cause),
        }
    }

    /// Returns why the build is to be retried over a new connection to the machine, if it is. `is_reused` means that
    /// an earlier build opened the session: the machine's daemon may still use the key that it had then.
    pub(super) fn retry_reason(&self, is_reused: bool) -> Option<&str> {
        match self {
            AttemptError::OwnerLost(cause) => Some(cause),
            AttemptError::UnauthorizedKey(_) if is_reused => {
                Some("over a persistent connection, the machine's daemon signs with a key that is not authorized here")
            }
            _ => None,
        }
    }

    /// Returns the failure that counts against the machine, if one does. If the new connection lost its owner, too, the
    /// machine may be the cause.
    pub(super) fn machine_fault(&self) -> Option<&str> {
        match self {
            AttemptError::Machine(cause) | AttemptError::OwnerLost(cause) | AttemptError::UnauthorizedKey(cause) => {
                Some(cause)
            }
            AttemptError::Head(_)
            | AttemptError::BackingOff(_)
            | AttemptError::ChannelTimeout(_)
            | AttemptError::NotStarted(_)
            | AttemptError::Reported(_) => None,
        }
    }

    /// Returns the failure of the attempt on `machine`.
    pub(super) fn into_failure(self, machine: &str) -> Failure {
        let machine = machine.to_owned();
        match self {
            AttemptError::Head(cause) => Failure::Head(cause),
            AttemptError::ChannelTimeout(cause) => Failure::Refused { machine, cause },
            AttemptError::BackingOff(cause)
            | AttemptError::Machine(cause)
            | AttemptError::OwnerLost(cause)
            | AttemptError::NotStarted(cause)
            | AttemptError::UnauthorizedKey(cause) => Failure::Machine { machine, cause },
            AttemptError::Reported(failure) => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::local::{AclError, DatabaseError};
    use crate::store::path::{StoreDir, StorePath};
    use crate::store::signature::PublicKey;
    use crate::transfer::RejectedOutput;

    const ENDS: [StreamEnd; 3] = [StreamEnd::OwnerLost, StreamEnd::ChannelTimeout, StreamEnd::Other];

    /// Returns whether an error causes a retry over a new connection, if the session was reused and if not; whether it is
    /// recorded as a failure of the machine; and the kind of the failure.
    fn consequence(error: AttemptError) -> ([bool; 2], bool, &'static str) {
        let retry = [true, false].map(|is_reused| error.retry_reason(is_reused).is_some());
        let is_recorded = error.machine_fault().is_some();
        let kind = match error.into_failure("b1") {
            Failure::Machine { machine, .. } if machine == "b1" => "machine",
            Failure::Refused { machine, .. } if machine == "b1" => "refused",
            Failure::Head(_) => "head",
            Failure::Build { .. } => "build",
            other => panic!("{other:?}"),
        };
        (retry, is_recorded, kind)
    }

    const OWNER_LOST: ([bool; 2], bool, &str) = ([true, true], true, "machine");
    const CHANNEL_CUT: ([bool; 2], bool, &str) = ([false, false], false, "refused");
    const MACHINE: ([bool; 2], bool, &str) = ([false, false], true, "machine");
    const UNRECORDED: ([bool; 2], bool, &str) = ([false, false], false, "machine");
    const UNAUTHORIZED: ([bool; 2], bool, &str) = ([true, false], true, "machine");
    const HEAD: ([bool; 2], bool, &str) = ([false, false], false, "head");
    /// The consequences of a fault of the machine, for each of [`ENDS`].
    const OF_MACHINE: [([bool; 2], bool, &str); 3] = [OWNER_LOST, CHANNEL_CUT, MACHINE];

    fn text() -> String {
        "why".to_owned()
    }

    fn item() -> StorePath {
        StorePath::parse(&StoreDir::default(), b"/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-x").unwrap()
    }

    fn lost() -> daemon::Error {
        daemon::Error::Link { operation: "BuildPaths", cause: io::ErrorKind::UnexpectedEof.into() }
    }

    #[test]
    fn each_error_has_its_consequences() {
        assert_eq!(consequence(AttemptError::BackingOff(text())), UNRECORDED);
        let build = Failure::Build { derivation: text(), machine: text(), message: text(), kept: None };
        assert_eq!(consequence(AttemptError::Reported(build)), ([false; 2], false, "build"));
        // The machine responds, so nothing is recorded whatever the report means.
        let nearly_full = Failure::Machine { machine: "b1".to_owned(), cause: text() };
        assert_eq!(consequence(AttemptError::Reported(nearly_full)), UNRECORDED);
        let refused = Failure::Refused { machine: "b1".to_owned(), cause: text() };
        assert_eq!(consequence(AttemptError::Reported(refused)), CHANNEL_CUT);
    }

    #[test]
    fn the_end_of_the_stream_explains_a_failed_daemon() {
        let protocol = || daemon::Error::Protocol { operation: "BuildPaths", position: 7, what: text() };
        let answered = || daemon::Error::Daemon { operation: "SetOptions", message: text(), status: 1 };
        for error in [lost(), protocol(), answered()] {
            assert_eq!(ENDS.map(|end| consequence(AttemptError::of_daemon("building", &error, end))), OF_MACHINE);
        }
        let AttemptError::Machine(cause) = AttemptError::of_daemon("building", &lost(), StreamEnd::Other) else {
            panic!()
        };
        assert!(cause.starts_with("building: BuildPaths: the connection to the daemon failed"), "{cause}");
    }

    #[test]
    fn a_build_that_has_not_started_is_not_the_machines_fault() {
        let of = |error: remote::Error| {
            let cause = io::Error::new(io::ErrorKind::TimedOut, error);
            let error = daemon::Error::Link { operation: "BuildPaths", cause };
            consequence(AttemptError::of_daemon("building", &error, StreamEnd::Other))
        };
        let (machine, wait) = (text(), Duration::from_secs(9));
        assert_eq!(of(remote::Error::NotStarted { machine: machine.clone(), wait }), UNRECORDED);
        assert_eq!(of(remote::Error::Silent { machine, silence: wait }), MACHINE);
    }

    #[test]
    fn an_upload_fails_for_the_machine_or_for_the_head() {
        let ends = |error: UploadError| ENDS.map(|end| consequence(AttemptError::of_upload(&error, end)));
        assert_eq!(ends(UploadError::Machine(lost())), OF_MACHINE);
        assert_eq!(ends(UploadError::Lost), OF_MACHINE);
        assert_eq!(ends(UploadError::NotAuthorized { key: PathBuf::from("/key") }), OF_MACHINE);
        assert_eq!(ends(UploadError::Database(DatabaseError::NotValid { path: item() })), [HEAD; 3]);
        assert_eq!(ends(UploadError::Source(io::ErrorKind::NotFound.into())), [HEAD; 3]);
        let cause = |error| match AttemptError::of_upload(&error, StreamEnd::Other) {
            AttemptError::Machine(cause) | AttemptError::Head(cause) => cause,
            other => panic!("{other:?}"),
        };
        assert!(cause(UploadError::Lost).starts_with("sending inputs: inputs were lost"));
        assert_eq!(cause(UploadError::Source(io::Error::other("damaged"))), "damaged");
    }

    #[test]
    fn a_download_fails_for_the_key_the_machine_or_the_head() {
        let ends = |error: DownloadError| ENDS.map(|end| consequence(AttemptError::of_download(&error, end)));
        let rejected =
            |cause: RejectedOutput| DownloadError::Refused { output: item(), machine: text(), cause: Box::new(cause) };
        let key = PublicKey::parse(b"(public-key (ecc (curve Ed25519) (q #0123#)))").unwrap();
        assert_eq!(ends(rejected(RejectedOutput::Revoked(key))), [OWNER_LOST, CHANNEL_CUT, UNAUTHORIZED]);
        assert_eq!(ends(rejected(RejectedOutput::NotSigned)), OF_MACHINE);
        assert_eq!(ends(DownloadError::Machine(lost())), OF_MACHINE);
        assert_eq!(ends(DownloadError::Acl(AclError::Missing { file: PathBuf::from("/acl") })), [HEAD; 3]);
    }
}
