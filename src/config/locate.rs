//! Where a key stands in a config file, and which key stands at a place.
//!
//! Promises nothing but better errors: a text that is not TOML has no keys.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A config file's text, with the places of its keys.
pub struct Lines<'t> {
    text: &'t str,
    /// Every key's path, where the key stands, and where its value does.
    keys: Vec<(Vec<String>, Range<usize>, Range<usize>)>,
}

impl<'t> Lines<'t> {
    /// Finds the keys of a text.
    pub fn of(text: &'t str) -> Self {
        let mut keys = Vec::new();
        if let Ok(document) = DeTable::parse(text) {
            collect(document.get_ref(), &[], &mut keys);
        }
        Lines { text, keys }
    }

    /// The line of a byte of the text, from 1.
    pub fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The line where a key stands; for one that was left out, the line of the
    /// nearest table around it. None when the text says nothing of it.
    pub fn line_of(&self, path: &[String]) -> Option<usize> {
        (1..=path.len()).rev().find_map(|depth| {
            let (_, key, _) = self
                .keys
                .iter()
                .find(|(known, ..)| *known == path[..depth])?;
            Some(self.line(key.start))
        })
    }

    /// The dotted path of the innermost key that stands at these bytes, or
    /// whose value does.
    pub fn key_at(&self, span: Range<usize>) -> Option<String> {
        let holds = |place: &Range<usize>| place.start <= span.start && span.end <= place.end;
        self.keys
            .iter()
            .filter(|(_, key, value)| holds(key) || holds(value))
            .max_by_key(|(path, ..)| path.len())
            .map(|(path, ..)| path.join("."))
    }
}

fn collect(
    table: &DeTable<'_>,
    above: &[String],
    keys: &mut Vec<(Vec<String>, Range<usize>, Range<usize>)>,
) {
    for (key, value) in table {
        let mut path = above.to_vec();
        path.push(key.get_ref().to_string());
        keys.push((path.clone(), key.span(), value.span()));
        if let DeValue::Table(inner) = value.get_ref() {
            collect(inner, &path, keys);
        }
    }
}
