//! Counters by word, for the metrics: the words are few and known beforehand,
//! so that nobody outside decides how many there are.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter for each word.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    words: [&'static str; N],
    counts: [AtomicU64; N],
}

impl<const N: usize> Counters<N> {
    /// All at zero. What is counted under another word counts as the last one.
    pub const fn new(words: [&'static str; N]) -> Self {
        Self {
            words,
            counts: [const { AtomicU64::new(0) }; N],
        }
    }

    /// One more of this.
    pub fn count(&self, word: &str) {
        self.add(word, 1);
    }

    /// So many more of this.
    pub fn add(&self, word: &str, amount: u64) {
        let index = self.words.iter().position(|known| *known == word);
        if let Some(count) = self.counts.get(index.unwrap_or(N.saturating_sub(1))) {
            count.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Every word with its count.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        self.words.iter().copied().zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_counted_under_itself_and_an_unknown_one_under_the_last() {
        let counters = Counters::new(["written", "other"]);
        for word in ["written", "written", "what?"] {
            counters.count(word);
        }
        let all: Vec<_> = counters.all().collect();
        assert_eq!(all, [("written", 2), ("other", 1)]);
    }
}
