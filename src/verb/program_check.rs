//! Finds out beforehand whether execve(2) will refuse the program of a configuration.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use windlass_base::error::{Diagnostic, describe};
use windlass_base::spec::{Hooks, Mount, Process, Spec};
use windlass_plan::{DEFAULT_PATH, RootPath};
use windlass_sys::fd;

/// What makes the execution of the program impossible. Nothing is known if a mount or a hook may put it there.
pub(super) fn fault(process: &Process, spec: &Spec) -> Option<Diagnostic> {
    let may_bring = |mount: &Mount| match mount.is_bind() {
        true => Path::new(&mount.source).is_dir(),
        false => {
            !matches!(mount.kind.as_str(), "tmpfs" | "proc" | "sysfs" | "devpts" | "mqueue" | "cgroup" | "cgroup2")
        }
    };
    let has_hooks = |hooks: &Hooks| {
        !(hooks.prestart.is_empty() && hooks.create_runtime.is_empty() && hooks.create_container.is_empty())
    };
    if spec.mounts.iter().any(may_bring) || spec.hooks.as_ref().is_some_and(has_hooks) {
        return None;
    }
    let name = process.args.first().filter(|name| !name.is_empty())?;
    let root = fd::open(&spec.root.as_ref()?.path, OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
    let root = Root { root, mounts: &spec.mounts };
    let msg = if name.contains('/') { root.path(name, &process.cwd) } else { root.search(name, &process.env) };
    Some(Diagnostic { pointer: "/process/args/0".into(), msg: msg.err()? })
}

/// The root filesystem, and what will be mounted in it.
struct Root<'a> {
    root: OwnedFd,
    mounts: &'a [Mount],
}

/// A file of the container.
enum Found {
    Missing,
    /// It cannot be known before the mounts are made.
    Unknown,
    File(OwnedFd),
}

impl Root<'_> {
    fn find(&self, path: &str) -> Found {
        // A single file may be mounted, such as docker's init.
        if RootPath::new(path).is_some_and(|path| self.mounts.iter().any(|mount| path.is_below(&mount.destination))) {
            return Found::Unknown;
        }
        let inside = path.trim_start_matches('/');
        match fd::openat2(self.root.as_fd(), inside, OFlag::O_PATH, 0, ResolveFlag::RESOLVE_IN_ROOT) {
            Ok(found) => Found::File(found),
            Err(failed) if matches!(failed.errno, Errno::ENOENT | Errno::ENOTDIR) => Found::Missing,
            Err(_) => Found::Unknown,
        }
    }

    fn path(&self, name: &str, cwd: &str) -> Result<(), String> {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{cwd}/{name}") };
        match self.find(&path) {
            Found::Missing => Err(format!("exec: {name:?}: stat {name}: {}", describe(Errno::ENOENT))),
            Found::Unknown => Ok(()),
            Found::File(file) => match file_type(&file) {
                Some(FileType::Directory) => Err(format!("exec: {name:?}: is a directory: permission denied")),
                Some(FileType::Closed) => Err(format!("exec: {name:?}: {}", describe(Errno::EACCES))),
                Some(FileType::Program) => self.executable(name, &file),
                None => Ok(()),
            },
        }
    }

    /// Looks a name up in PATH.
    fn search(&self, name: &str, env: &[String]) -> Result<(), String> {
        let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let mut refused = false;
        for directory in path.split(':') {
            if !directory.starts_with('/') {
                return Ok(());
            }
            match self.find(&format!("{directory}/{name}")) {
                Found::Missing => {}
                Found::Unknown => return Ok(()),
                Found::File(file) => match file_type(&file) {
                    Some(FileType::Directory) => {}
                    Some(FileType::Closed) => refused = true,
                    Some(FileType::Program) => return self.executable(name, &file),
                    None => return Ok(()),
                },
            }
        }
        match refused {
            true => Err(format!("exec: {name:?}: {}", describe(Errno::EACCES))),
            false => Err(format!("exec: {name:?}: executable file not found in $PATH")),
        }
    }

    /// What execve(2) says of a file that may be executed, by its beginning.
    fn executable(&self, name: &str, file: &OwnedFd) -> Result<(), String> {
        let head = fd::reopen(file.as_fd(), OFlag::O_RDONLY).and_then(|file| fd::read_part(file.as_fd(), 0, 4096));
        let Ok(head) = head else { return Ok(()) };
        match Executable::of(&head) {
            // binfmt_misc may have a handler for any file.
            Executable::Foreign if !has_handlers() => Err(format!("exec {name}: {}", describe(Errno::ENOEXEC))),
            Executable::Interpreted(interpreter)
                if matches!(self.find(&interpreter), Found::Missing) && !has_handlers() =>
            {
                Err(format!("exec {name}: {}: its interpreter is {interpreter:?}", describe(Errno::ENOENT)))
            }
            _ => Ok(()),
        }
    }
}

/// What a file is to execve(2), whoever calls it.
enum FileType {
    Directory,
    /// Nobody may execute it.
    Closed,
    Program,
}

fn file_type(file: &OwnedFd) -> Option<FileType> {
    let mode = fd::stat(file.as_fd()).ok()?.st_mode;
    Some(match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFREG if mode & 0o111 != 0 => FileType::Program,
        _ => FileType::Closed,
    })
}

/// Whether binfmt_misc has an entry beside `register` and `status`. Without the filesystem it cannot have one.
fn has_handlers() -> bool {
    std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().count() > 2
}

/// What execve(2) makes of a program, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Executable {
    /// Neither a script nor a program for this processor.
    Foreign,
    /// A script or a program with an interpreter, by its path.
    Interpreted(String),
    /// Anything else, also what cannot be told from the beginning.
    Other,
}

/// The machines of programs (elf(5), `e_machine`) that this processor executes. Empty: it is not known.
const MACHINES: &[u16] = if cfg!(target_arch = "x86_64") {
    &[62, 3]
} else if cfg!(target_arch = "aarch64") {
    &[183, 40]
} else if cfg!(target_arch = "riscv64") {
    &[243]
} else if cfg!(target_arch = "s390x") {
    &[22]
} else {
    &[]
};

/// `PT_INTERP` of elf(5): the segment that has the interpreter's path.
const PT_INTERP: u64 = 3;

impl Executable {
    fn of(head: &[u8]) -> Executable {
        if head.starts_with(b"#!") {
            return Executable::script(head).unwrap_or(Executable::Other);
        }
        if head.starts_with(b"\x7fELF") {
            Executable::elf(head).unwrap_or(Executable::Other)
        } else {
            Executable::Foreign
        }
    }

    /// The kernel reads 256 bytes of a script (`BINPRM_BUF_SIZE`).
    fn script(head: &[u8]) -> Option<Executable> {
        let line = head[2..head.len().min(256)].split(|byte| *byte == b'\n').next()?;
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).filter(|word| !word.is_empty());
        let path = std::str::from_utf8(words.next()?).ok()?;
        path.starts_with('/').then(|| Executable::Interpreted(path.to_owned()))
    }

    fn elf(head: &[u8]) -> Option<Executable> {
        let (wide, big) = (*head.get(4)? == 2, *head.get(5)? == 2);
        let number = |at: usize, length: usize| {
            let bytes = head.get(at..at.checked_add(length)?)?;
            let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
            Some(if big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
        };
        let word = if wide { 8 } else { 4 };
        let machine = u16::try_from(number(18, 2)?).ok()?;
        if big != cfg!(target_endian = "big") || !(MACHINES.is_empty() || MACHINES.contains(&machine)) {
            return Some(Executable::Foreign);
        }
        let at = |value: u64| usize::try_from(value).ok();
        let first = at(number(if wide { 32 } else { 28 }, word)?)?;
        let size = at(number(if wide { 54 } else { 42 }, 2)?)?;
        let count = at(number(if wide { 56 } else { 44 }, 2)?)?;
        for index in 0..count {
            let header = first.checked_add(size.checked_mul(index)?)?;
            if number(header, 4)? != PT_INTERP {
                continue;
            }
            let path = at(number(header.checked_add(if wide { 8 } else { 4 })?, word)?)?;
            let length = at(number(header.checked_add(if wide { 32 } else { 16 })?, word)?)?;
            let path = head.get(path..path.checked_add(length)?)?;
            let path = path.split(|byte| *byte == 0).next()?;
            return Some(Executable::Interpreted(std::str::from_utf8(path).ok()?.to_owned()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Executable;

    #[test]
    fn scripts_have_an_interpreter() {
        let of = |text: &str| Executable::of(text.as_bytes());
        assert_eq!(of("#!/bin/sh\n"), Executable::Interpreted("/bin/sh".into()));
        assert_eq!(of("#! /usr/bin/env  python3\nx"), Executable::Interpreted("/usr/bin/env".into()));
        assert_eq!(of("#!\t/bin/sh"), Executable::Interpreted("/bin/sh".into()));
        // A relative one is looked for in the working directory.
        assert_eq!(of("#!sh\n"), Executable::Other);
        assert_eq!(of("#!\n/bin/sh"), Executable::Other);
        assert_eq!(of("echo\n"), Executable::Foreign);
        assert_eq!(of(""), Executable::Foreign);
    }

    #[test]
    fn programs_have_a_machine_and_perhaps_an_interpreter() {
        let own = std::fs::read("/proc/self/exe").expect("read");
        let own = &own[..4096];
        assert_ne!(Executable::of(own), Executable::Foreign);
        let shell = std::fs::read("/bin/sh").expect("read");
        let Executable::Interpreted(path) = Executable::of(&shell[..4096]) else {
            panic!("{:?}", Executable::of(&shell[..4096]))
        };
        assert!(std::path::Path::new(&path).exists(), "{path}");
        let mut other = own.to_vec();
        // EM_SPARCV9.
        other[18..20].copy_from_slice(&43_u16.to_ne_bytes());
        assert_eq!(Executable::of(&other), Executable::Foreign);
        for length in 0..own.len() {
            let _ = Executable::of(&own[..length]);
        }
        let mut wild = own.to_vec();
        wild[20..64].fill(0xff);
        assert_eq!(Executable::of(&wild), Executable::Other);
    }
}
