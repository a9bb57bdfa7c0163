//! What the menu asks, apart from how it is drawn: so its logic is tested without a terminal.

use anyhow::Result;

/// One entry of a list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Item {
    /// What it is, in one line.
    pub text: String,
    /// More about it, in lines below.
    pub more: Vec<String>,
    /// Why it cannot be chosen.
    pub blocked: Option<String>,
}

impl Item {
    /// An entry of one line.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// The same with a line below.
    pub fn with(mut self, more: impl Into<String>) -> Self {
        self.more.push(more.into());
        self
    }

    /// The same, to be looked at only.
    pub fn blocked(mut self, why: Option<String>) -> Self {
        self.blocked = why;
        self
    }
}

/// What is wrong with a line that was typed, in words; or nothing.
pub type Check<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// Asks a person. Ctrl-C is [`image_core::error::Error::Interrupted`].
pub trait Ask {
    /// Lets one of `items` be chosen, the cursor on `start`; none where the person goes back. Entries that
    /// are blocked are never returned.
    fn choose(&mut self, question: &str, items: &[Item], start: usize) -> Result<Option<usize>>;

    /// Lets a line be typed, beginning with `initial`, until `check` has nothing against it; none where the
    /// person goes back.
    fn line(&mut self, question: &str, initial: &str, check: Check<'_>) -> Result<Option<String>>;

    /// Says something.
    fn tell(&mut self, text: &str);

    /// Says what takes a moment, until the next question.
    fn busy(&mut self, text: &str);
}

/// Answers from a list, for tests.
#[cfg(test)]
pub mod scripted {
    use super::{Ask, Check, Item, Result};

    /// Answers: the beginning of an entry, a line, or `<` to go back.
    #[derive(Default, Debug)]
    pub struct Scripted {
        answers: Vec<String>,
        /// Questions, entries that were refused, and what was said.
        pub heard: Vec<String>,
    }

    impl Scripted {
        pub fn new(answers: &[&str]) -> Self {
            let answers = answers.iter().rev().map(|answer| (*answer).to_owned()).collect();
            Self { answers, heard: Vec::new() }
        }

        fn next(&mut self, question: &str) -> String {
            self.heard.push(question.to_owned());
            self.answers.pop().unwrap_or_else(|| panic!("nobody answers: {question}"))
        }
    }

    impl Ask for Scripted {
        fn choose(&mut self, question: &str, items: &[Item], _: usize) -> Result<Option<usize>> {
            loop {
                let answer = self.next(question);
                if answer == "<" {
                    return Ok(None);
                }
                let at = items.iter().position(|item| item.text.starts_with(&answer));
                let at = at.unwrap_or_else(|| panic!("{question}: no {answer} in {items:?}"));
                match &items[at].blocked {
                    Some(why) => self.heard.push(why.clone()),
                    None => return Ok(Some(at)),
                }
            }
        }

        fn line(&mut self, question: &str, _: &str, check: Check<'_>) -> Result<Option<String>> {
            loop {
                let answer = self.next(question);
                if answer == "<" {
                    return Ok(None);
                }
                match check(&answer) {
                    Ok(()) => return Ok(Some(answer)),
                    Err(why) => self.heard.push(why),
                }
            }
        }

        fn tell(&mut self, text: &str) {
            self.heard.push(text.to_owned());
        }

        fn busy(&mut self, _: &str) {}
    }
}
