//! Where output is written down: the CRI's lines, docker's objects, the bytes as they are, or
//! systemd's journal.
//!
//! Writing a log never stops the reading of the pipe: what cannot be written is counted, and the
//! next piece is tried again, on a file opened anew if need be.

mod file;
mod journald;
mod json;
mod k8s;
mod stream;

use std::os::fd::OwnedFd;

use super::stdio::Log;
use windlass_sys::Result;

pub use json::Entry;
pub use k8s::{Line, parse};
pub use stream::Stream;

/// An open log.
#[derive(Debug)]
pub(super) enum Logger {
    K8s(file::FileLog),
    Json(json::JsonLog),
    Raw(file::FileLog),
    Journald(journald::Journald),
}

/// Scratch memory that a logger may use to put lines together.
pub(super) const SCRATCH: usize = 128 * 1024;

impl Logger {
    pub(super) fn open(log: &Log) -> Result<Logger> {
        Ok(match log {
            Log::K8s(file) => Logger::K8s(file::FileLog::open(file)?),
            Log::Json(file) => Logger::Json(json::JsonLog::new(file::FileLog::open(file)?)),
            Log::Raw(file) => Logger::Raw(file::FileLog::open(file)?),
            Log::Journald(journal) => Logger::Journald(journald::Journald::open(journal)?),
        })
    }

    /// Writes what was read at once from one stream.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], scratch: &mut [u8]) {
        match self {
            Logger::K8s(file) => k8s::write(file, stream, bytes, scratch, std::time::SystemTime::now()),
            Logger::Json(log) => log.write(stream, bytes, scratch, std::time::SystemTime::now()),
            Logger::Raw(file) => file.append(bytes),
            Logger::Journald(journal) => journal.write(stream, bytes),
        }
    }

    /// Nothing more comes; the record of the end is about to be written.
    pub(super) fn end(&mut self, scratch: &mut [u8]) {
        if let Logger::Json(log) = self {
            log.end(scratch, std::time::SystemTime::now());
        }
    }

    /// Opens the file by its name again; the old one may have been renamed by somebody.
    pub(super) fn reopen(&mut self) {
        match self {
            Logger::K8s(file) | Logger::Raw(file) => file.reopen(),
            Logger::Json(log) => log.file.reopen(),
            Logger::Journald(_) => {}
        }
    }

    /// Bytes that could not be written.
    pub(super) fn dropped(&self) -> u64 {
        match self {
            Logger::K8s(file) | Logger::Raw(file) => file.dropped,
            Logger::Json(log) => log.file.dropped,
            Logger::Journald(journal) => journal.dropped,
        }
    }

    /// The file, if it is to be synced at the end.
    pub(super) fn to_sync(&self) -> Option<OwnedFd> {
        match self {
            Logger::K8s(file) | Logger::Raw(file) => file.to_sync(),
            Logger::Json(log) => log.file.to_sync(),
            Logger::Journald(_) => None,
        }
    }
}
