//! What is in hand, by number: requests, the store's work, messages whose answers
//! are awaited.
//!
//! Each of them is put here and taken out again within milliseconds, several times a
//! request, and found a few times in between. A B-tree allocates, moves and compares
//! for each; here an entry lies in the cell that its number leads to, or soon after.
//!
//! Promises: a map; its keys' numbers are the node's own, so nobody can choose them
//! to be slow; what it does depends on nothing but what was done with it, the order
//! in which [`Pending::values`] gives its entries included. Memory is for twice as
//! many entries as there ever were at once, which those who insert bound.
//!
//! Not promised: any particular order.

/// Cells at first. A power of two, as it always is.
const MIN_CELLS: usize = 16;
/// 2^64 divided by the golden ratio: numbers that follow one another, as they do
/// here, are led far apart by it (Knuth, *The Art of Computer Programming*, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The map.
#[derive(Debug)]
pub struct Pending<K, V> {
    /// At least half of them are empty, so that a search ends soon.
    cells: Box<[Option<(K, V)>]>,
    len: usize,
}

fn empty_cells<T>(count: usize) -> Box<[Option<T>]> {
    debug_assert!(count.is_power_of_two());
    std::iter::repeat_with(|| None).take(count).collect()
}

impl<K, V> Default for Pending<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Pending<K, V> {
    /// A map of nothing.
    pub fn new() -> Self {
        Pending {
            cells: empty_cells(MIN_CELLS),
            len: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.cells.iter().flatten().map(|(key, value)| (key, value))
    }

    /// What the keys name, in no order that means anything.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Copy + Eq + Into<u64>, V> Pending<K, V> {
    /// Where the key lies if nothing is in its way.
    fn home(&self, key: K) -> usize {
        let bits = self.cells.len().trailing_zeros();
        (key.into().wrapping_mul(SPREAD) >> (u64::BITS - bits)) as usize
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.cells.len() - 1)
    }

    /// The cell in which the key lies, or the empty one in which it would.
    fn search(&self, key: K) -> Result<usize, usize> {
        let mut place = self.home(key);
        loop {
            match &self.cells[place] {
                Some((other, _)) if *other == key => return Ok(place),
                Some(_) => place = self.after(place),
                None => return Err(place),
            }
        }
    }

    /// What the key names.
    pub fn get(&self, key: &K) -> Option<&V> {
        let place = self.search(*key).ok()?;
        self.cells[place].as_ref().map(|(_, value)| value)
    }

    /// What the key names, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.search(*key).ok()?;
        self.cells[place].as_mut().map(|(_, value)| value)
    }

    /// Has the key name this; gives back what it named before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = match self.search(key) {
            Ok(place) => return self.cells[place].replace((key, value)).map(|(_, old)| old),
            Err(place) if (self.len + 1) * 2 <= self.cells.len() => place,
            Err(_) => {
                self.double();
                match self.search(key) {
                    Ok(place) | Err(place) => place,
                }
            }
        };
        self.cells[place] = Some((key, value));
        self.len += 1;
        None
    }

    fn double(&mut self) {
        let more = empty_cells(self.cells.len() * 2);
        for (key, value) in std::mem::replace(&mut self.cells, more)
            .into_iter()
            .flatten()
        {
            match self.search(key) {
                Ok(place) | Err(place) => self.cells[place] = Some((key, value)),
            }
        }
    }

    /// Forgets an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let mut hole = self.search(*key).ok()?;
        let (_, value) = self.cells[hole].take()?;
        self.len -= 1;
        // Whatever lies behind because this cell was taken moves up: a search ends at
        // the first empty cell.
        let mask = self.cells.len() - 1;
        let mut place = self.after(hole);
        while let Some((key, _)) = &self.cells[place] {
            let from_home = place.wrapping_sub(self.home(*key)) & mask;
            let from_hole = place.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.cells.swap(hole, place);
                hole = place;
            }
            place = self.after(place);
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to it, it is what a B-tree would be, in another order.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u8..8, 0u64..48, any::<u16>()), 0..300)) {
            let (mut map, mut other) = (Pending::new(), BTreeMap::new());
            for (what, key, value) in steps {
                match what {
                    0..4 => prop_assert_eq!(map.insert(key, value), other.insert(key, value)),
                    4..7 => prop_assert_eq!(map.remove(&key), other.remove(&key)),
                    _ => prop_assert_eq!(map.get_mut(&key), other.get_mut(&key)),
                }
                prop_assert_eq!(map.len(), other.len());
                prop_assert_eq!(map.is_empty(), other.is_empty());
                for key in 0..48 {
                    prop_assert_eq!(map.get(&key), other.get(&key));
                }
                let entries: BTreeMap<u64, u16> = map.iter().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(&entries, &other);
                prop_assert_eq!(map.values().count(), other.len());
            }
        }
    }

    /// Keys that all lead to the last cells, so that searches go round the end.
    #[test]
    fn entries_that_are_in_each_others_way_are_found_until_they_go() {
        let full = MIN_CELLS / 2;
        let crowded: Vec<u64> = {
            let map = Pending::<u64, ()>::new();
            let last = |key: &u64| map.home(*key) >= MIN_CELLS - 2;
            (0..).filter(last).take(full).collect()
        };
        for gone in 0..full {
            let mut map = Pending::new();
            for key in &crowded {
                assert_eq!(map.insert(*key, *key), None);
            }
            assert_eq!(map.cells.len(), MIN_CELLS, "all of them fit");
            assert_eq!(map.remove(&crowded[gone]), Some(crowded[gone]));
            for (place, key) in crowded.iter().enumerate() {
                assert_eq!(map.get(key), (place != gone).then_some(key));
            }
        }
    }

    #[test]
    fn numbers_that_follow_one_another_hardly_meet() {
        let mut map = Pending::new();
        for round in 0..64_u64 {
            // As many as fit, beginning anywhere.
            let first = round.wrapping_mul(0x1234_5678_9abc_def1);
            let keys = (0..512).map(|number| first.wrapping_add(number));
            for key in keys.clone() {
                map.insert(key, ());
            }
            let detours = keys.clone().map(|key| {
                let place = map.search(key).expect("it was inserted");
                place.wrapping_sub(map.home(key)) & (map.cells.len() - 1)
            });
            assert_eq!(map.cells.len(), 1024);
            assert!(detours.sum::<usize>() < 512, "less than one step each");
            for key in keys {
                map.remove(&key);
            }
            assert!(map.is_empty());
        }
    }
}
