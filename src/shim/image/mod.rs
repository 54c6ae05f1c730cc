//! The image: everything that a shim keeps, written down for the next program in its process.
//!
//! `format` defines how it is written, and how a field is added. The tables of the core's types are in `processes`,
//! `stdio` and `supervisor`; those of a front end are beside it. Descriptors are written as their numbers, which stay
//! the same across execve(2). State that the kernel drops at execve(2) (epoll(7), inotify(7)) is made again by
//! `watching`.

pub(crate) mod fault;
pub(crate) mod format;
#[cfg(feature = "next-image")]
mod next;
pub(crate) mod processes;
mod stdio;
pub(crate) mod supervisor;
mod values;
pub(crate) mod watching;

#[cfg(test)]
mod tests;
