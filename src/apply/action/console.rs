//! The terminal: a pseudoterminal of the container's own devpts.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, ResolveFlag};

use crate::context::Context;
use crate::resolve;
use windlass_base::error::{Error, Kind, Result, WithContext};
use windlass_base::spec::ConsoleSize;
use windlass_plan::RootPath;
use windlass_sys::terminal;
use windlass_sys::{descriptors, fd, mount, socket};

use super::{Stdio, device};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

pub(super) fn console(size: Option<&ConsoleSize>, node: bool, controlling: bool, cx: &mut Context<'_>) -> Result<()> {
    let master = open_master(cx)?;
    let peer = terminal::peer(master.as_fd()).with_context(|| "cannot open the terminal")?;
    if let Some(size) = size.filter(|size| (size.height, size.width) != (0, 0)) {
        let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        terminal::set_size(peer.as_fd(), cells(size.height), cells(size.width))
            .with_context(|| "cannot set the size of the terminal")?;
    }
    let dev = Path::new("dev");
    let exists = |dir| fd::stat_at(dir, "console").is_ok();
    if node && (!device::kept(dev, cx)?.callers || exists(device::directory(dev, cx)?)) {
        let copy =
            mount::clone_tree(peer.as_fd(), "", false).with_context(|| "cannot copy the terminal for /dev/console")?;
        let dir = device::directory(dev, cx)?;
        let target = device::empty_file(dir, "console".as_ref()).with_context(|| "cannot make /dev/console")?;
        mount::attach(copy.as_fd(), target.as_fd()).with_context(|| "cannot mount the terminal on /dev/console")?;
    }
    let socket =
        cx.console_socket.take().ok_or_else(|| Error::new(Kind::Protocol, "no console socket takes the terminal"))?;
    socket::send(socket.as_fd(), b"/dev/ptmx", &[master.as_fd()])
        .with_context(|| "cannot send the terminal to the console socket")?;
    for number in 0..3 {
        descriptors::install_at(peer.as_fd(), number).with_context(|| "cannot make the terminal stdio")?;
    }
    cx.stdio = Stdio::Terminal;
    if controlling { take(peer.as_fd()) } else { Ok(()) }
}

/// Makes the terminal the controlling one of our session, whose leader we are.
pub(super) fn take(terminal: BorrowedFd<'_>) -> Result<()> {
    terminal::take(terminal).with_context(|| "cannot take the terminal as the controlling one")
}

/// Opens the multiplexer of a devpts. The root filesystem may have anything at that path, so the file is examined
/// before it is opened (CVE-2025-52565).
fn open_master(cx: &mut Context<'_>) -> Result<OwnedFd> {
    let context = || "cannot open /dev/pts/ptmx";
    let path = RootPath::new("/dev/pts/ptmx").expect("no NUL");
    let found = resolve::find(cx.root()?, &path, resolve::NO_LINKS)
        .with_context(context)
        .map_err(|error| error.with_hint("a terminal needs a devpts mounted on /dev/pts"))?;
    let stat = fd::stat(found.as_fd()).with_context(context)?;
    let multiplexer = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(5, 2);
    if !multiplexer || fd::filesystem(found.as_fd()).with_context(context)? != DEVPTS_SUPER_MAGIC {
        return Err(Error::new(Kind::PermissionDenied, "/dev/pts/ptmx is not the multiplexer of a devpts"));
    }
    // The descriptor is opened again, so that it is the file that was examined.
    let link = format!("self/fd/{}", found.as_raw_fd());
    let proc = cx.procfs.open().with_context(|| "cannot make a private procfs")?;
    fd::openat2(proc, link.as_str(), OFlag::O_RDWR, 0, ResolveFlag::empty()).with_context(context)
}
