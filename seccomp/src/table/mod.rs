//! System call names and their numbers: one lookup of a name serves every ABI.
//!
//! The table is written row by row in [`rows`]; the constant evaluator turns it into one
//! array for the names, one for each ABI, and a hash table of indices into these.

mod cell;
mod rows;

pub(crate) use cell::{COLUMNS, NO};
use rows::{CALLS as ROW_COUNT, ROWS};

/// The number of known names.
pub(crate) const CALLS: usize = ROW_COUNT;

/// All entries other than [`NO`] are below this.
pub(crate) const SLOTS: usize = 1024;

/// The first private call of ARM (`__ARM_NR_BASE`), and the entry that stands for it.
pub(crate) const ARM_PRIVATE: u32 = 0x000f_0000;
pub(crate) const ARM_PRIVATE_SLOT: u16 = 1000;

/// The columns, by ABI.
pub(crate) mod column {
    pub(crate) const X86_64: usize = 0;
    pub(crate) const X86: usize = 1;
    pub(crate) const X32: usize = 2;
    pub(crate) const AARCH64: usize = 3;
    pub(crate) const ARM: usize = 4;
    pub(crate) const MIPS: usize = 5;
    pub(crate) const MIPS64: usize = 6;
    pub(crate) const MIPS64N32: usize = 7;
    pub(crate) const PPC: usize = 8;
    pub(crate) const PPC64: usize = 9;
    pub(crate) const S390: usize = 10;
    pub(crate) const S390X: usize = 11;
    pub(crate) const RISCV64: usize = 12;
    pub(crate) const LOONGARCH64: usize = 13;
    pub(crate) const M68K: usize = 14;
    pub(crate) const PARISC: usize = 15;
    pub(crate) const PARISC64: usize = 16;
    pub(crate) const SH: usize = 17;
}

/// Slots of the hash table: a power of two, and large enough for short probes.
const HASH_SLOTS: usize = 2048;

static NAMES: [&str; CALLS] = {
    let mut names = [""; CALLS];
    let mut call = 0;
    while call < CALLS {
        names[call] = ROWS[call].0;
        call += 1;
    }
    names
};

static NUMBERS: [[u16; CALLS]; COLUMNS] = {
    let mut numbers = [[NO; CALLS]; COLUMNS];
    let mut call = 0;
    while call < CALLS {
        let row = &ROWS[call].1;
        let mut column = 0;
        while column < COLUMNS {
            assert!(row[column] == NO || (row[column] as usize) < SLOTS);
            numbers[column][call] = row[column];
            column += 1;
        }
        call += 1;
    }
    numbers
};

/// Open addressing; an entry is the index of a name, [`NO`] ends a probe.
static HASH: [u16; HASH_SLOTS] = {
    let mut slots = [NO; HASH_SLOTS];
    let mut call = 0;
    while call < CALLS {
        let mut at = hash(ROWS[call].0.as_bytes()) % HASH_SLOTS;
        while slots[at] != NO {
            at = (at + 1) % HASH_SLOTS;
        }
        slots[at] = call as u16;
        call += 1;
    }
    slots
};

/// Spreads names over the hash table, eight bytes at a time.
///
/// The names come from a trusted table, so collisions are harmless: a foreign name costs at most the longest probe.
const fn hash(name: &[u8]) -> usize {
    let mut state = name.len() as u64;
    let mut at = 0;
    while at < name.len() {
        let mut word: u64 = 0;
        let mut byte = 0;
        while byte < 8 && at + byte < name.len() {
            word = (word << 8) | name[at + byte] as u64;
            byte += 1;
        }
        state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
        at += 8;
    }
    (state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

/// The index of a call's name, the same for every ABI.
pub(crate) fn find(name: &str) -> Option<usize> {
    let mut at = hash(name.as_bytes()) % HASH_SLOTS;
    loop {
        let call = HASH[at];
        if call == NO {
            return None;
        }
        if NAMES[usize::from(call)] == name {
            return Some(usize::from(call));
        }
        at = (at + 1) % HASH_SLOTS;
    }
}

/// The entries of one ABI, by the index from [`find`].
pub(crate) fn numbers(column: usize) -> &'static [u16; CALLS] {
    &NUMBERS[column]
}

/// The index of a name that is in the table, for constants.
pub(crate) const fn index_of(name: &str) -> usize {
    let mut call = 0;
    while call < CALLS {
        if same(ROWS[call].0.as_bytes(), name.as_bytes()) {
            return call;
        }
        call += 1;
    }
    panic!("not a system call")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_at_its_own_index() {
        for (index, name) in NAMES.iter().enumerate() {
            assert_eq!(find(name), Some(index), "{name}");
        }
        for name in ["", "rea", "readd", "READ", "\0", "a name longer than any of the calls"] {
            assert_eq!(find(name), None, "{name}");
        }
    }

    #[test]
    fn probes_are_short() {
        let distance = |name: &str, index: usize| {
            let start = hash(name.as_bytes()) % HASH_SLOTS;
            let end = HASH.iter().position(|&call| usize::from(call) == index).unwrap();
            (end + HASH_SLOTS - start) % HASH_SLOTS
        };
        let longest = NAMES.iter().enumerate().map(|(i, n)| distance(n, i)).max().unwrap();
        assert!(longest <= 8, "{longest}");
    }

    #[test]
    fn the_names_are_sorted() {
        assert!(NAMES.is_sorted());
    }
}
