//! Logs of a process's output, in the format of the CRI, of docker's json-file, as raw bytes, or in systemd's journal.
//!
//! A log that cannot be written never blocks the process. Lost bytes are counted, and each write tries again, if
//! necessary on a file that is opened anew.

pub(crate) mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub(crate) mod journald;
pub(crate) mod json;
mod k8s;
mod stream;

use std::os::fd::OwnedFd;

use super::stdio::Log;
use windlass_sys::Result;
use windlass_sys::clock;

pub(crate) use json::Entry;
pub(crate) use k8s::parse;
pub(crate) use stream::Stream;

/// An open log.
#[derive(Debug)]
pub(crate) enum Logger {
    K8s(file::FileLog),
    Json(json::JsonLog),
    Raw(file::FileLog),
    Journald(journald::Journald),
}

/// Size of the buffer in which a logger assembles lines, in bytes.
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

    /// Writes the bytes of one read from a stream.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8], scratch: &mut [u8]) {
        match self {
            Logger::K8s(file) => k8s::write(file, stream, bytes, scratch, clock::wall()),
            Logger::Json(log) => log.write(stream, bytes, scratch, clock::wall()),
            Logger::Raw(file) => file.append(bytes),
            Logger::Journald(journal) => journal.write(stream, bytes),
        }
    }

    /// Writes what is buffered, after the end of the output and before the exit is recorded.
    pub(super) fn end(&mut self, scratch: &mut [u8]) {
        if let Logger::Json(log) = self {
            log.end(scratch, clock::wall());
        }
    }

    /// Opens the file by its name again, because another program may have renamed the old one.
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

    /// The file, if it must be synced at the end.
    pub(super) fn to_sync(&self) -> Option<OwnedFd> {
        match self {
            Logger::K8s(file) | Logger::Raw(file) => file.to_sync(),
            Logger::Json(log) => log.file.to_sync(),
            Logger::Journald(_) => None,
        }
    }
}
