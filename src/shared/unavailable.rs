//! What replaces the sessions in a program without the cargo feature `shared`: each attempt is an error. The machine file
//! cannot have the field `shared` there, so this is never called.

/// In place of a session, which is never started.
pub(super) mod session {
    use crate::machine::SharedPool;
    use crate::shared::Error;
    use crate::shared::keys::Place;
    use crate::shared::messages::{Build, Entered, Outcome};
    use crate::state::shared_pool::HeadName;

    #[derive(Clone)]
    pub(in crate::shared) struct Session;

    impl Session {
        pub fn start(_: &SharedPool, _: &HeadName) -> Result<Session, Error> {
            Err(Error::NotBuilt)
        }

        pub fn enter(&self) -> Result<Entered, Error> {
            Err(Error::NotBuilt)
        }

        pub fn take(&self, _: u64, _: Place, _: Build) -> Result<Outcome, Error> {
            Err(Error::NotBuilt)
        }

        pub fn adopt(&self, _: u64, _: Place, _: Build) {}

        pub fn release(&self, _: u64) {}

        pub fn wait(&self, _: Vec<String>, _: Build) {}

        pub fn leave(&self) {}

        pub fn is_connected(&self) -> bool {
            false
        }

        pub fn may_be_free(&self, _: &str) -> bool {
            true
        }

        pub fn take_drains(&self) -> Option<String> {
            None
        }
    }
}

/// In place of the commands of an administrator.
pub(super) mod admin {
    use std::time::Duration;

    use crate::machine::SharedPool;
    use crate::shared::{Error, Overview};
    use crate::state::shared_pool::HeadName;

    pub fn init(_: &SharedPool) -> Result<i32, Error> {
        Err(Error::NotBuilt)
    }

    pub fn overview(_: &SharedPool) -> Result<Overview, Error> {
        Err(Error::NotBuilt)
    }

    pub fn check(_: &SharedPool, _: &HeadName) -> Result<Overview, Error> {
        Err(Error::NotBuilt)
    }

    pub fn drain(_: &SharedPool, _: &[String], _: &str, _: Option<Duration>) -> Result<(), Error> {
        Err(Error::NotBuilt)
    }

    pub fn undrain(_: &SharedPool, _: &[String]) -> Result<Vec<String>, Error> {
        Err(Error::NotBuilt)
    }
}
