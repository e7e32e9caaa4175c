//! What the laws are asked of: the contract's records in plain Rust, and the
//! trait that a module in a sandbox and an author's own merge both have.
//!
//! Promises: shapes only, and the one rule of the store that the laws rest on,
//! [`stand_in`]. Nothing here knows WebAssembly or the server.

/// The name of one write: unique in the cluster, ordered by actor, then counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    pub actor: Vec<u8>,
    pub counter: u64,
}

/// The item whose siblings are folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub table: String,
    pub partition_key: Vec<u8>,
    pub sort_key: Option<Vec<u8>>,
}

/// One of several concurrent versions of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// The stored bytes; none when this version deletes the item.
    pub value: Option<Vec<u8>>,
    /// The media type that came with the bytes.
    pub content_type: String,
    /// Microseconds since the Unix epoch, by the clock of the node that took
    /// the write.
    pub written_at_us: u64,
    pub dot: Dot,
}

/// Where an operation of a data type happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub dot: Dot,
    pub written_at_us: u64,
}

/// What siblings become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Merged(Vec<u8>),
    Deleted,
    Unresolved,
}

/// What a client sees of a data type's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub body: Vec<u8>,
    pub content_type: String,
}

/// Which limit of the sandbox a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Instructions: mostly a loop without end.
    Fuel,
    Memory,
    /// The call stack: mostly a recursion without end.
    Stack,
    Output,
}

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The module's own error, in its own words.
    Refused(String),
    /// It panicked, or broke the contract. The text says how.
    Trapped(String),
    /// A limit cut it short. The text names the limit.
    Limit(Limit, String),
    /// The host could not run it just now, which says nothing of the module.
    Unavailable(String),
}

impl Failure {
    /// The reason, for people.
    pub fn text(&self) -> &str {
        match self {
            Failure::Refused(text)
            | Failure::Trapped(text)
            | Failure::Limit(_, text)
            | Failure::Unavailable(text) => text,
        }
    }
}

/// What a fold gave.
pub type Answer = Result<Outcome, Failure>;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Folds values that clients write.
    Reconciler,
    /// Also takes operations; clients never write values.
    DataType,
}

/// What the calls have used: the most of any one call, and of how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub fuel_peak: u64,
    pub fuel_limit: u64,
    pub memory_peak_bytes: u64,
    pub memory_limit_bytes: u64,
    pub output_limit_bytes: u64,
}

/// A module, or plain Rust in a test.
///
/// A subject may be asked anything in any order. Plain Rust that may panic
/// should turn its panics into [`Failure::Trapped`], as a sandbox does.
pub trait Subject {
    /// Whether it takes operations.
    fn kind(&self) -> Kind;

    /// Its own samples: values, or operations for a data type; none when it
    /// makes none.
    fn samples(&self, seed: u64, count: u32) -> Result<Option<Vec<Vec<u8>>>, Failure>;

    /// Folds siblings (at least one) in the order given.
    fn fold(&self, item: &Item, siblings: &[&Sibling]) -> Answer;

    /// Applies an operation to a state; none: there is no item yet.
    fn apply(
        &self,
        item: &Item,
        state: Option<&[u8]>,
        operation: &[u8],
        event: &Event,
    ) -> Result<Vec<u8>, Failure> {
        let _unused = (item, state, operation, event);
        Err(Failure::Refused("this takes no operations".to_owned()))
    }

    /// What a client sees of a state.
    fn render(&self, state: &[u8]) -> Result<View, Failure> {
        let _unused = state;
        Err(Failure::Refused("this takes no operations".to_owned()))
    }

    /// What the calls have used so far; none when nothing is metered.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// Whether the check has used all that it may.
    fn is_spent(&self) -> bool {
        false
    }
}

/// The media type that the store gives a folded value: that of the newest input
/// with these very bytes, else that of the newest with a value.
fn folded_type(inputs: &[&Sibling], value: &[u8]) -> String {
    let newest = |wanted: &dyn Fn(&Sibling) -> bool| {
        inputs
            .iter()
            .filter(|input| wanted(input))
            .max_by_key(|input| (input.written_at_us, &input.dot))
            .map(|input| input.content_type.clone())
    };
    newest(&|input| input.value.as_deref() == Some(value))
        .or_else(|| newest(&|input| input.value.is_some()))
        .unwrap_or_else(|| "application/octet-stream".to_owned())
}

/// The sibling that a fold of `inputs` (at least one) is when it is folded
/// again: it carries the greatest (written-at, dot) of them.
///
/// The pair, not the two apart: with the newest time of one input and the
/// greatest dot of another, last-write-wins would not be regroupable, for the
/// dot would break a tie that its own write was not part of.
pub fn stand_in(inputs: &[&Sibling], value: Option<Vec<u8>>) -> Sibling {
    let newest = inputs
        .iter()
        .map(|input| (input.written_at_us, &input.dot))
        .max();
    let (written_at_us, dot) = newest.expect("a fold has at least one input");
    let content_type = value
        .as_deref()
        .map_or_else(String::new, |value| folded_type(inputs, value));
    Sibling {
        value,
        content_type,
        written_at_us,
        dot: dot.clone(),
    }
}
