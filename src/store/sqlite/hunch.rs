//! Whether a row that nobody here remembers is likely not to be there.
//!
//! A put of a new item need not look for a row before it makes one: the index finds
//! a conflict by itself. But a row that was there makes that work vain. Promises no
//! more than a guess, which costs time when it is wrong and nothing else.

/// What a row that was there, against the guess, adds to the doubt; one that was
/// not takes one off. To try in vain costs about as much as is saved otherwise, so
/// that guesses stop before half of them are wrong.
const DOUBT_OF_ONE: u32 = 3;
/// Below this doubt it is tried.
const TOLERABLE_DOUBT: u32 = 32;
/// No more doubt than this gathers, so that it is tried again soon when times change.
const MOST_DOUBT: u32 = 64;

/// What was seen of late.
#[derive(Default)]
pub struct Hunch {
    doubt: u32,
}

impl Hunch {
    /// Whether it is worth while to make a row without looking for it.
    pub fn expects_absence(&self) -> bool {
        self.doubt < TOLERABLE_DOUBT
    }

    /// Whether a row that nobody here remembered was there.
    pub fn learn(&mut self, was_there: bool) {
        self.doubt = if was_there {
            (self.doubt + DOUBT_OF_ONE).min(MOST_DOUBT)
        } else {
            self.doubt.saturating_sub(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a hundred thousand rows it would make without looking, when one in
    /// `every` is there.
    fn guesses(every: u32) -> usize {
        let mut hunch = Hunch::default();
        let guessed = (0..100_000u32).filter(|number| {
            let guessed = hunch.expects_absence();
            hunch.learn(number.is_multiple_of(every));
            guessed
        });
        guessed.count()
    }

    #[test]
    fn it_guesses_while_most_rows_are_new_and_looks_while_many_are_not() {
        assert_eq!(guesses(10), 100_000);
        assert!(guesses(2) < 50);
        assert!(guesses(1) < 50);
    }

    #[test]
    fn it_guesses_again_when_rows_are_new_again() {
        let mut hunch = Hunch::default();
        (0..1_000).for_each(|_| hunch.learn(true));
        assert!(!hunch.expects_absence());
        (0..MOST_DOUBT).for_each(|_| hunch.learn(false));
        assert!(hunch.expects_absence());
    }
}
