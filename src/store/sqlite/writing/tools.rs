//! What a writer keeps from batch to batch: statements, how far it has filed, and room
//! to encode rows in.
//!
//! Promises: each statement is prepared when it is first wanted, and then kept for as
//! long as the connection is: to take a statement out of a cache and to put it back
//! costs a small batch a tenth of its instructions. What is wanted seldom is prepared
//! from the connection's own cache, where it is wanted.

use rusqlite::{Connection, Statement};

use super::filter::Filter;
use crate::store::sqlite::unfiled::Hand;

/// How many rows one statement tells the index of: to begin and end a statement costs as
/// much as a row does.
pub const FILED_TOGETHER: usize = 16;

/// One statement.
pub struct Kept<'c> {
    connection: &'c Connection,
    sql: &'static str,
    statement: Option<Statement<'c>>,
}

impl<'c> Kept<'c> {
    fn new(connection: &'c Connection, sql: &'static str) -> Self {
        Kept {
            connection,
            sql,
            statement: None,
        }
    }

    /// The statement, ready to be asked.
    pub fn get(&mut self) -> rusqlite::Result<&mut Statement<'c>> {
        match &mut self.statement {
            Some(statement) => Ok(statement),
            unprepared => Ok(unprepared.insert(self.connection.prepare(self.sql)?)),
        }
    }
}

/// All statements.
pub struct Statements<'c> {
    /// For what is wanted seldom.
    pub connection: &'c Connection,
    pub begin: Kept<'c>,
    pub commit: Kept<'c>,
    /// Finds a row, and where it lies, by the index.
    pub select: Kept<'c>,
    /// Finds a row by its id.
    pub select_at: Kept<'c>,
    /// Puts a row where none is.
    pub insert: Kept<'c>,
    /// Puts another row in the place of one.
    pub update: Kept<'c>,
    /// Tells the index of a row, unless it knows another one of that key.
    pub file: Kept<'c>,
    /// The same of [`FILED_TOGETHER`] rows.
    pub file_many: Kept<'c>,
}

impl<'c> Statements<'c> {
    /// None is prepared yet.
    fn new(connection: &'c Connection) -> Self {
        let kept = |sql| Kept::new(connection, sql);
        Statements {
            connection,
            begin: kept("BEGIN IMMEDIATE"),
            commit: kept("COMMIT"),
            select: kept(
                "SELECT p.id, i.row FROM places p LEFT JOIN items i ON i.id = p.id
                 WHERE p.partition = ?1 AND p.key = ?2",
            ),
            select_at: kept("SELECT id, row FROM items WHERE id = ?1"),
            insert: kept("INSERT INTO items(id, partition, key, row) VALUES(?1, ?2, ?3, ?4)"),
            update: kept("UPDATE items SET row = ?2 WHERE id = ?1"),
            file_many: kept(
                "INSERT OR IGNORE INTO places(partition, key, id) VALUES
                 (?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),
                 (?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?),(?,?,?)",
            ),
            file: kept("INSERT OR IGNORE INTO places(partition, key, id) VALUES(?1, ?2, ?3)"),
        }
    }
}

/// All that is kept.
pub struct Tools<'c> {
    pub statements: Statements<'c>,
    /// The id of the next row that is made.
    pub next_id: i64,
    /// Which keys the index does not know.
    pub filter: Filter,
    /// Where filing goes on.
    pub hand: Hand,
    /// How many rows were filed since that was noted.
    pub filed_since_note: usize,
    /// Where rows are encoded.
    pub buffer: Vec<u8>,
}

impl<'c> Tools<'c> {
    /// Those of a writer that has done nothing yet.
    pub fn new(connection: &'c Connection, next_id: i64) -> Self {
        Tools {
            statements: Statements::new(connection),
            next_id,
            filter: Filter::default(),
            hand: Hand::default(),
            filed_since_note: 0,
            buffer: Vec::new(),
        }
    }
}
