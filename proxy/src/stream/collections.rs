//! Which glob collections the server has answered.
//!
//! A collection without members is answered by an empty response, which does
//! not say which collection it means. The server takes requests in their
//! order, so each collection is asked for in a request of its own and the
//! answers are matched in that order:
//! ```text
//! unasked --ask--> asked --member, its name removed, or an empty response in turn--> answered
//!                    ^------------------ again after a while -----------------'
//! ```
//! An answer is never assumed: a collection taken for empty too early would
//! turn away calls that have endpoints.

use std::collections::{BTreeMap, VecDeque};

/// So many questions may be open; beyond that the oldest is no longer matched.
pub const MAX_OPEN_QUESTIONS: usize = 8192;

/// The questions of one stream, and what has been answered ever.
#[derive(Debug, Default)]
pub struct Collections {
    /// Name to whether it was ever answered.
    answered: BTreeMap<String, bool>,
    /// Of this stream, oldest first. `None` is the first request of the
    /// stream, which repeats what was answered before.
    open: VecDeque<Option<String>>,
}

impl Collections {
    /// Takes up a collection that nothing is known of.
    pub fn add(&mut self, name: &str) {
        self.answered.insert(name.to_owned(), false);
    }

    /// Forgets a collection; an answer that is still under way is matched all the same.
    pub fn remove(&mut self, name: &str) {
        self.answered.remove(name);
    }

    /// Whether its members are known.
    pub fn is_answered(&self, name: &str) -> bool {
        self.answered.get(name).copied().unwrap_or(false)
    }

    /// Those that wait for their answer.
    pub fn unanswered(&self) -> impl Iterator<Item = &str> {
        self.answered
            .iter()
            .filter(|(_, answered)| !**answered)
            .map(|(name, _)| name.as_str())
    }

    /// A new stream: no question is open.
    pub fn restart(&mut self) {
        self.open.clear();
    }

    /// So long nothing was asked that every answer must have arrived: what is
    /// still open was answered together with something else.
    pub fn forget_open(&mut self) {
        self.open.clear();
    }

    /// The stream's first request goes out, repeating what was answered before.
    pub fn repeated(&mut self) {
        self.push(None);
    }

    /// A request that asks for `name` goes out.
    pub fn asked(&mut self, name: &str) {
        self.push(Some(name.to_owned()));
    }

    fn push(&mut self, question: Option<String>) {
        if self.open.len() >= MAX_OPEN_QUESTIONS {
            self.open.pop_front();
        }
        self.open.push_back(question);
    }

    /// A response that carries nothing arrived: the collection that it
    /// answers now for the first time, if any.
    pub fn empty_response(&mut self) -> Option<String> {
        let name = self.open.pop_front()??;
        self.settle(&name).then_some(name)
    }

    /// A response showed something of `name`: a member, or that it does not
    /// exist. All that was asked before is answered too. Returns what is
    /// answered now for the first time.
    pub fn seen(&mut self, name: &str) -> Vec<String> {
        let mut settled = Vec::new();
        let asked = self
            .open
            .iter()
            .position(|question| question.as_deref() == Some(name));
        if let Some(asked) = asked {
            for question in self.open.drain(..=asked).flatten() {
                settled.push(question);
            }
        } else if self.is_answered(name) && self.open.front() == Some(&None) {
            self.open.pop_front();
        }
        settled.retain(|name| self.settle(name));
        settled
    }

    fn settle(&mut self, name: &str) -> bool {
        match self.answered.get_mut(name) {
            Some(answered) if !*answered => {
                *answered = true;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(names: &[&str]) -> Collections {
        let mut collections = Collections::default();
        for name in names {
            collections.add(name);
            collections.asked(name);
        }
        collections
    }

    #[test]
    fn empty_responses_answer_in_the_order_of_the_questions() {
        let mut collections = waiting(&["b/*", "a/*"]);
        assert_eq!(collections.empty_response().as_deref(), Some("b/*"));
        assert!(!collections.is_answered("a/*"));
        assert_eq!(collections.empty_response().as_deref(), Some("a/*"));
        assert_eq!(collections.empty_response(), None);
    }

    #[test]
    fn a_member_answers_its_collection_and_what_was_asked_before() {
        let mut collections = waiting(&["a/*", "b/*", "c/*"]);
        assert_eq!(collections.seen("b/*"), ["a/*", "b/*"]);
        assert!(!collections.is_answered("c/*"));
        assert_eq!(collections.seen("b/*"), Vec::<String>::new());
        assert_eq!(collections.empty_response().as_deref(), Some("c/*"));
    }

    #[test]
    fn the_empty_answer_to_a_repetition_answers_nothing_else() {
        let mut collections = waiting(&["old/*"]);
        collections.empty_response();
        collections.restart();
        collections.repeated();
        collections.add("new/*");
        collections.asked("new/*");
        assert_eq!(collections.empty_response(), None);
        assert!(!collections.is_answered("new/*"));
        assert_eq!(collections.empty_response().as_deref(), Some("new/*"));
    }

    #[test]
    fn an_update_of_another_collection_answers_nothing() {
        let mut collections = waiting(&["a/*"]);
        collections.empty_response();
        collections.add("b/*");
        collections.asked("b/*");
        assert_eq!(collections.seen("a/*"), Vec::<String>::new());
        assert!(!collections.is_answered("b/*"));
    }

    #[test]
    fn the_answer_to_a_forgotten_question_is_not_given_to_the_next() {
        let mut collections = waiting(&["gone/*", "b/*"]);
        collections.remove("gone/*");
        assert_eq!(collections.empty_response(), None);
        assert!(!collections.is_answered("b/*"));
    }
}
