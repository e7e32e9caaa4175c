//! What a writer keeps from batch to batch: statements, what it expects of rows that
//! it does not know, and room to encode them in.
//!
//! Promises: each statement is prepared when it is first wanted, and then kept for as
//! long as the connection is: to take a statement out of a cache and to put it back
//! costs a small batch a tenth of its instructions. What is wanted seldom is prepared
//! from the connection's own cache, where it is wanted.

use rusqlite::{Connection, Statement};

use super::hunch::Hunch;

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
    /// Finds a row, and where it lies.
    pub select: Kept<'c>,
    /// Puts a row where none is, and otherwise changes nothing.
    pub insert: Kept<'c>,
    /// Puts another row in the place of one.
    pub update: Kept<'c>,
}

impl<'c> Statements<'c> {
    /// None is prepared yet.
    fn new(connection: &'c Connection) -> Self {
        let kept = |sql| Kept::new(connection, sql);
        Statements {
            connection,
            begin: kept("BEGIN IMMEDIATE"),
            commit: kept("COMMIT"),
            select: kept("SELECT id, row FROM items WHERE partition = ?1 AND key = ?2"),
            insert: kept(
                "INSERT INTO items(partition, key, row) VALUES(?1, ?2, ?3)
                 ON CONFLICT(partition, key) DO NOTHING",
            ),
            update: kept("UPDATE items SET row = ?2 WHERE id = ?1"),
        }
    }
}

/// All that is kept.
pub struct Tools<'c> {
    pub statements: Statements<'c>,
    pub hunch: Hunch,
    /// Where rows are encoded.
    pub buffer: Vec<u8>,
}

impl<'c> Tools<'c> {
    /// Those of a writer that has done nothing yet.
    pub fn new(connection: &'c Connection) -> Self {
        Tools {
            statements: Statements::new(connection),
            hunch: Hunch::default(),
            buffer: Vec::new(),
        }
    }
}
