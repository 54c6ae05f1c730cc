//! Checks that the images contain the memory that they claim. CRIU would read missing pages again and again, with a
//! line in its log each time.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use windlass_base::error::{Result, WithContext};
use windlass_criu::image::{Kind, PageMap};
use windlass_sys::{directory, fd, region};

use super::claims::{all, refuse};

/// `pagemap_entry.flags`: the pages are in the images of the parent dump.
const BEFORE: u32 = 1;
/// The pages can be fetched later. CRIU marks most pages so, even if it writes them.
const LAZY: u32 = 2;
/// The pages are in the file.
const PRESENT: u32 = 4;

/// Refuses a file of pages that is shorter than the page map of one of these tasks says. With `lazily`, pages that can
/// be fetched later do not count.
pub(crate) fn check(dir: BorrowedFd<'_>, tasks: &BTreeSet<u32>, lazily: bool) -> Result<()> {
    for name in directory::names(dir).with_context(|| "cannot list the images")? {
        let name = name.to_string_lossy();
        if !is_read(&name, tasks) {
            continue;
        }
        let entries: Vec<PageMap> = all(dir, Kind::PageMap, &name)?;
        let Some((head, entries)) = entries.split_first() else { return Err(refuse(&name, "is empty")) };
        let pages = format!("pages-{}.img", head.pages);
        let there = match fd::stat_at(dir, &pages) {
            Err(failed) if failed.errno == Errno::ENOENT => 0,
            other => other.with_context(|| format!("cannot look at {pages} in the images"))?.st_size,
        };
        let needed = needed(entries, lazily).and_then(|count| count.checked_mul(region::page_size()));
        if needed.is_none_or(|needed| needed > there.unsigned_abs()) {
            return Err(refuse(&pages, "is shorter than its page map"));
        }
    }
    Ok(())
}

/// Whether CRIU reads this file as a page map. A dump that failed leaves those of processes that have ended since, and
/// the next dump to the same directory writes other pages under the same names.
fn is_read(name: &str, tasks: &BTreeSet<u32>) -> bool {
    let Some(of) = name.strip_prefix("pagemap-").and_then(|rest| rest.strip_suffix(".img")) else { return false };
    of.parse().map_or(true, |task| tasks.contains(&task))
}

/// How many pages CRIU reads or skips in the file. Returns `None` on overflow.
fn needed(entries: &[PageMap], lazily: bool) -> Option<u64> {
    let elsewhere = |it: &&PageMap| {
        let (before, lazy) = (it.in_parent || it.flags & BEFORE != 0, lazily && it.flags & LAZY != 0);
        it.flags & PRESENT == 0 && (before || lazy)
    };
    // Some versions of CRIU read one count, some the other.
    let mut counts = entries.iter().filter(|it| !elsewhere(it)).map(|it| it.long_count.max(it.count.into()));
    counts.try_fold(0u64, u64::checked_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_maps_of_earlier_processes_are_not_looked_at() {
        let tasks = BTreeSet::from([1, 12]);
        for name in ["pagemap-1.img", "pagemap-12.img", "pagemap-shmem-7.img"] {
            assert!(is_read(name, &tasks), "{name}");
        }
        for name in ["pagemap-2.img", "pages-1.img", "pagemap-1", "core-1.img"] {
            assert!(!is_read(name, &tasks), "{name}");
        }
    }

    #[test]
    fn pages_are_in_the_file_unless_the_map_says_that_they_are_elsewhere() {
        let entry = |flags, in_parent| PageMap { count: 3, flags, in_parent, ..PageMap::default() };
        // Flags, the flag of an old version, whether pages are fetched later, and how many are in the file.
        let cases = [
            (0, false, false, 3),
            (0, true, false, 0),
            (BEFORE, false, false, 0),
            (BEFORE | PRESENT, false, false, 3),
            (LAZY, false, false, 3),
            (LAZY, false, true, 0),
            (PRESENT, false, false, 3),
            (PRESENT, true, false, 3),
            (LAZY | PRESENT, false, false, 3),
            (LAZY | PRESENT, false, true, 3),
        ];
        for (flags, in_parent, lazily, count) in cases {
            let entries = [entry(flags, in_parent), entry(PRESENT, false)];
            assert_eq!(needed(&entries, lazily), Some(count + 3), "{flags} {in_parent} {lazily}");
        }
        let long = PageMap { count: 1, long_count: u64::MAX, ..PageMap::default() };
        assert_eq!(needed(std::slice::from_ref(&long), false), Some(u64::MAX));
        assert_eq!(needed(&[long, entry(PRESENT, false)], false), None);
    }
}
