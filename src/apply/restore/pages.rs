//! Whether the memory that images claim is there. CRIU reads what is missing again and again, and writes a line of its
//! log each time.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use windlass_base::error::{Result, WithContext};
use windlass_criu::image::{Kind, PageMap};
use windlass_sys::{directory, fd};

use super::claims::{all, refuse};

/// `pagemap_entry.flags`: the pages are fetched later.
const LAZY: u32 = 2;

/// The unit of a page map, in bytes.
const PAGE: u64 = 4096;

/// Refuses a file of pages that is shorter than the maps of it.
pub fn check(dir: BorrowedFd<'_>) -> Result<()> {
    for name in directory::names(dir).with_context(|| "cannot list the images")? {
        let name = name.to_string_lossy();
        if !(name.starts_with("pagemap-") && name.ends_with(".img")) {
            continue;
        }
        let entries: Vec<PageMap> = all(dir, Kind::PageMap, &name)?;
        let Some((head, entries)) = entries.split_first() else { return Err(refuse(&name, "is empty")) };
        let needed = entries.iter().filter(|it| !it.in_parent && it.flags & LAZY == 0).try_fold(0u64, |sum, it| {
            let count = if it.long_count == 0 { it.count.into() } else { it.long_count };
            sum.checked_add(count.checked_mul(PAGE)?)
        });
        let pages = format!("pages-{}.img", head.pages);
        let there = match fd::stat_at(dir, &pages) {
            Err(failed) if failed.errno == Errno::ENOENT => 0,
            other => other.with_context(|| format!("cannot look at {pages} in the images"))?.st_size,
        };
        if needed.is_none_or(|needed| needed > there.unsigned_abs()) {
            return Err(refuse(&pages, "is shorter than its page map"));
        }
    }
    Ok(())
}
