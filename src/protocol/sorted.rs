//! A map of few entries, in one piece.
//!
//! An item has one sibling and a few actors, hardly ever more than a handful. A
//! B-tree keeps room for eleven entries in each of its nodes: a kilobyte to be
//! allocated, copied and freed with every row that is read. Promises: entries lie in
//! the order of their keys, so equal maps are equal bytes, the same as a
//! `BTreeMap`'s; bytes whose keys are not in ascending order are refused; memory
//! grows with the entries that came, not with a number that was claimed.
//!
//! Not promised: speed with thousands of entries. Looking up is logarithmic, but
//! each insertion moves what lies behind it.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SortedMap<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> SortedMap<K, V> {
    /// A map of nothing.
    pub const fn new() -> Self {
        SortedMap {
            entries: Vec::new(),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> + DoubleEndedIterator {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    /// The values by themselves, in the order of their keys.
    pub fn into_values(self) -> impl ExactSizeIterator<Item = V> {
        self.entries.into_iter().map(|(_, value)| value)
    }

    /// Keeps the entries for which this holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|(key, value)| keep(key, value));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    fn place(&self, key: &K) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| other.cmp(key))
    }

    /// What the key names.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.place(key).ok().map(|place| &self.entries[place].1)
    }

    /// What the key names, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.place(key) {
            Ok(place) => Some(&mut self.entries[place].1),
            Err(_) => None,
        }
    }

    /// What the key names, put there if it names nothing yet.
    pub fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let place = match self.place(&key) {
            Ok(place) => place,
            Err(place) => {
                self.entries.insert(place, (key, V::default()));
                place
            }
        };
        &mut self.entries[place].1
    }

    /// Whether the key names anything.
    pub fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_ok()
    }

    /// Has the key name this; gives back what it named before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.entries[place].1, value)),
            Err(place) => {
                self.entries.insert(place, (key, value));
                None
            }
        }
    }

    /// Forgets an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key).ok()?;
        Some(self.entries.remove(place).1)
    }

    /// The first entry whose key is not less than this one.
    pub fn first_from(&self, key: &K) -> Option<(&K, &V)> {
        let place = self.entries.partition_point(|(other, _)| other < key);
        self.entries.get(place).map(|(key, value)| (key, value))
    }
}

impl<K: Serialize, V: Serialize> Serialize for SortedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for (key, value) in &self.entries {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// How many entries room is made for because somebody says that they come.
const MAX_CLAIMED: usize = 8;

struct Entries<K, V>(PhantomData<(K, V)>);

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Entries<K, V> {
    type Value = SortedMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with its keys in order")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let claimed = map.size_hint().unwrap_or(0);
        let mut entries: Vec<(K, V)> = Vec::with_capacity(claimed.min(MAX_CLAIMED));
        while let Some((key, value)) = map.next_entry()? {
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                return Err(A::Error::custom("the keys of a map are out of order"));
            }
            entries.push((key, value));
        }
        Ok(SortedMap { entries })
    }
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for SortedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to it, it is what a B-tree would be, bytes included.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0u8..12, 0u8..8, any::<u16>()), 0..60)) {
            let (mut map, mut other) = (SortedMap::new(), BTreeMap::new());
            for (what, key, value) in steps {
                match what {
                    0..6 => prop_assert_eq!(map.insert(key, value), other.insert(key, value)),
                    6..8 => prop_assert_eq!(map.remove(&key), other.remove(&key)),
                    8 => {
                        *map.get_or_default(key) += 1 & value;
                        *other.entry(key).or_default() += 1 & value;
                    }
                    9 => {
                        map.retain(|k, v| k % 3 != key % 3 || *v > value);
                        other.retain(|k, v| k % 3 != key % 3 || *v > value);
                    }
                    10 => prop_assert_eq!(map.get_mut(&key), other.get_mut(&key)),
                    _ => prop_assert_eq!(map.first_from(&key), other.range(key..).next()),
                }
                prop_assert_eq!(map.get(&key), other.get(&key));
                prop_assert_eq!(map.contains_key(&key), other.contains_key(&key));
                prop_assert!(map.iter().eq(other.iter()) && map.keys().eq(other.keys()));
                prop_assert!(map.values().eq(other.values()) && map.len() == other.len());
                prop_assert!(map.clone().into_values().eq(other.values().copied()));
            }
            let bytes = postcard::to_stdvec(&map).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&other).unwrap());
            prop_assert_eq!(postcard::from_bytes::<SortedMap<u8, u16>>(&bytes).unwrap(), map);
        }
    }

    #[test]
    fn keys_out_of_order_and_claims_are_refused() {
        let map = |pairs: &[(u8, u8)]| postcard::to_stdvec(pairs).unwrap();
        let decoded = |bytes: &[u8]| postcard::from_bytes::<SortedMap<u8, u8>>(bytes);
        assert!(decoded(&map(&[(1, 0), (2, 0)])).is_ok());
        assert!(decoded(&map(&[(2, 0), (1, 0)])).is_err());
        assert!(decoded(&map(&[(1, 0), (1, 0)])).is_err());
        assert!(decoded(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1]).is_err());
    }
}
