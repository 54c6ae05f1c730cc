//! A small table sorted by key.
//!
//! The table is a vector: a shim has few entries, and most keys are serial numbers, so new entries come last. A tree of
//! the standard library would bring its code into memory for each type of entry.

use std::borrow::Borrow;

/// A table of entries by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table<K, V>(Vec<(K, V)>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table(Vec::new())
    }
}

impl<K: Ord, V> Table<K, V> {
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(of, _)| of.borrow().cmp(key))
    }

    /// The entry of a key.
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|at| &self.0[at].1)
    }

    /// The entry of a key.
    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.place(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Inserts an entry, in place of the one that had its key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (key, value)),
        }
    }

    /// Removes an entry, and frees memory if little of it is still needed.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (_, value) = self.0.remove(self.place(key).ok()?);
        if self.0.len() * 4 <= self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
        Some(value)
    }

    /// The entries, by their keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// The entries, by their keys.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// The entries with their keys, in their order.
    pub(super) fn entries(&self) -> &[(K, V)] {
        &self.0
    }

    /// Whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_their_keys_and_come_in_their_order() {
        let mut table = Table::default();
        for key in [5, 1, 9, 3] {
            table.insert(key, key * 10);
        }
        table.insert(9, 0);
        assert_eq!(table.values().copied().collect::<Vec<_>>(), [10, 30, 50, 0]);
        assert_eq!((table.get(&5), table.get(&4)), (Some(&50), None));
        table.values_mut().for_each(|value| *value += 1);
        *table.get_mut(&1).expect("it is there") += 1;
        assert_eq!((table.remove(&1), table.remove(&1)), (Some(12), None));
        assert!(!table.is_empty());
    }

    #[test]
    fn a_table_that_was_large_gives_its_memory_back() {
        let mut table: Table<String, u32> = Table::default();
        (0..1000).for_each(|n| table.insert(n.to_string(), n));
        (0..1000).for_each(|n| assert_eq!(table.remove(n.to_string().as_str()), Some(n)));
        assert!(table.is_empty());
        assert_eq!(table.0.capacity(), 0);
    }
}
