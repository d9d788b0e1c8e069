//! Versions of the worker protocol.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The version this client speaks and announces: that of Guix 1.5.0.
pub(super) const VERSION: Version = Version(0x164);
/// The oldest version whose layouts this client writes: that of Guix 0.16 to 1.4.
pub(super) const OLDEST: Version = Version(0x163);

/// A version of the worker protocol, 0xMMmm: two that differ in the major part do not understand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32);

impl Version {
    pub(super) fn major(self) -> u32 {
        self.0 >> 8
    }

    /// Returns the releases of Guix whose daemons speak it.
    pub fn releases(self) -> &'static str {
        match self.0 {
            ..0x163 => "0.15 or older",
            0x163 => "0.16 to 1.4",
            0x164 => "1.5",
            _ => "newer than 1.5",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
