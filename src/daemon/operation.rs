//! Requests: the numbers of the operations of the worker protocol that are used here, and their arguments.

use crate::store::path::StorePath;

/// An operation; its name in errors is that of the daemon's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    IsValidPath = 1,
    QueryReferrers = 6,
    AddToStore = 7,
    AddTextToStore = 8,
    BuildPaths = 9,
    EnsurePath = 10,
    AddTempRoot = 11,
    AddIndirectRoot = 12,
    ExportPath = 16,
    SetOptions = 19,
    CollectGarbage = 20,
    QueryPathInfo = 26,
    ImportPaths = 27,
    QuerySubstitutablePathInfos = 30,
    QueryValidPaths = 31,
    QuerySubstitutablePaths = 32,
    VerifyStore = 35,
    SubstituteUrls = 81,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::IsValidPath => "IsValidPath",
            Operation::QueryReferrers => "QueryReferrers",
            Operation::AddToStore => "AddToStore",
            Operation::AddTextToStore => "AddTextToStore",
            Operation::BuildPaths => "BuildPaths",
            Operation::EnsurePath => "EnsurePath",
            Operation::AddTempRoot => "AddTempRoot",
            Operation::AddIndirectRoot => "AddIndirectRoot",
            Operation::ExportPath => "ExportPath",
            Operation::SetOptions => "SetOptions",
            Operation::CollectGarbage => "CollectGarbage",
            Operation::QueryPathInfo => "QueryPathInfo",
            Operation::ImportPaths => "ImportPaths",
            Operation::QuerySubstitutablePathInfos => "QuerySubstitutablePathInfos",
            Operation::QueryValidPaths => "QueryValidPaths",
            Operation::QuerySubstitutablePaths => "QuerySubstitutablePaths",
            Operation::VerifyStore => "VerifyStore",
            Operation::SubstituteUrls => "SubstituteURLs",
        }
    }
}

/// A request, collected as a whole so that it is sent in one write.
pub(super) struct WireRequest {
    pub operation: Operation,
    pub bytes: Vec<u8>,
}

impl WireRequest {
    pub fn new(operation: Operation) -> WireRequest {
        WireRequest { operation, bytes: Vec::new() }.u64(operation as u64)
    }

    pub fn u64(mut self, value: u64) -> WireRequest {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn int(self, value: u32) -> WireRequest {
        self.u64(u64::from(value))
    }

    pub fn bool(self, value: bool) -> WireRequest {
        self.u64(u64::from(value))
    }

    pub fn bytes(self, value: &[u8]) -> WireRequest {
        let mut request = self.u64(value.len() as u64);
        request.bytes.extend_from_slice(value);
        request.bytes.resize(request.bytes.len().next_multiple_of(8), 0);
        request
    }

    pub fn path(self, path: &StorePath) -> WireRequest {
        self.bytes(path.as_str().as_bytes())
    }

    pub fn paths<'a>(self, paths: impl ExactSizeIterator<Item = &'a StorePath>) -> WireRequest {
        let request = self.u64(paths.len() as u64);
        paths.fold(request, WireRequest::path)
    }
}
