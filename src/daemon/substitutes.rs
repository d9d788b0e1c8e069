//! Queries for the items that a daemon can fetch from substitute servers, and for its servers.
//!
//! The daemon asks a helper, `guix substitute`, which it starts for the first query on a connection. The helper gets the
//! options of that moment; options that are set later do not reach it. Only items signed by a key in the access-control
//! list of the daemon's machine are substitutable.
//!
//! A query has no time limit of its own: if a server accepts connections and is silent, the daemon waits until the
//! client closes the connection. The limit is that of the stream.
//!
//! Source: `LocalStore::querySubstitutablePathInfos` and `querySubstitutablePaths` in `libstore/local-store.cc`, and
//! `guix/scripts/substitute.scm`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use super::client::{Client, MAX_PATHS};
use super::error::Error;
use super::operation::{Operation, WireRequest};
use super::version::Version;
use crate::store::path::StorePath;

/// The limit of the references of all items of a reply together.
const MAX_REFERENCES: usize = 1 << 18;
/// The first version with `SubstituteURLs`: that of Guix 1.5.0.
const WITH_SUBSTITUTE_URLS: Version = Version(0x164);
/// The limit of substitute servers in a reply.
const MAX_URLS: usize = 1000;

/// What a substitute server says about an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubstitutablePathInfo {
    pub deriver: Option<StorePath>,
    pub references: BTreeSet<StorePath>,
    /// The bytes to download; 0 if the server does not say.
    pub download_size: u64,
    /// The length of its nar; 0 if the server does not say.
    pub nar_size: u64,
}

impl<S: Read + Write> Client<S> {
    /// Returns those of `paths` that the daemon can fetch, and what is known about them.
    pub fn query_substitutable_path_infos(
        &mut self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, SubstitutablePathInfo>, Error> {
        let request = WireRequest::new(Operation::QuerySubstitutablePathInfos).paths(paths.iter());
        self.call(&request, |link, store| {
            let count = link.u64()?;
            if count > paths.len() as u64 {
                return Err(link.unexpected(format!("{count} items, of {} that were queried", paths.len())));
            }
            let mut infos = BTreeMap::new();
            let mut references_left = MAX_REFERENCES;
            for _ in 0..count {
                let path = link.path(store)?;
                if !paths.contains(&path) {
                    return Err(link.unexpected(format!("{path}, which was not queried")));
                }
                let deriver = link.optional_path(store)?;
                let references = link.paths(store, references_left.min(MAX_PATHS))?;
                references_left -= references.len();
                let references = references.into_iter().collect();
                let (download_size, nar_size) = (link.u64()?, link.u64()?);
                infos.insert(path, SubstitutablePathInfo { deriver, references, download_size, nar_size });
            }
            Ok(infos)
        })
    }

    /// Returns those of `paths` that the daemon can fetch.
    pub fn query_substitutable_paths(&mut self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, Error> {
        self.query_subset(Operation::QuerySubstitutablePaths, paths)
    }

    /// Fetches `path` if it is not valid; an error of the daemon if it is not valid afterwards.
    pub fn ensure_path(&mut self, path: &StorePath) -> Result<(), Error> {
        self.call(&WireRequest::new(Operation::EnsurePath).path(path), |link, _| link.done())
    }

    /// Returns the URLs of the substitute servers that the daemon would ask; none if substitutes are off. `None`: it is
    /// older than Guix 1.5, which cannot say.
    pub fn substitute_urls(&mut self) -> Result<Option<Vec<String>>, Error> {
        if self.version() < WITH_SUBSTITUTE_URLS {
            return Ok(None);
        }
        self.call(&WireRequest::new(Operation::SubstituteUrls), |link, _| {
            let urls = link.names(MAX_URLS)?;
            Ok(Some(urls.iter().map(|url| String::from_utf8_lossy(url).into_owned()).collect()))
        })
    }
}
