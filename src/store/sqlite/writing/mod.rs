//! What writes: a thread for each file ([`writer`]), the transactions that it makes
//! ([`batch`]) of what it is asked ([`change`]) with what it keeps from one to the next
//! ([`tools`], [`filter`]), and a thread that moves logs into databases beside it ([`checkpoints`]).

pub mod batch;
pub mod change;
pub mod checkpoints;
pub mod filter;
pub mod tools;
pub mod writer;
