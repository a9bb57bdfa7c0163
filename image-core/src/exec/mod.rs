//! Other programs: the only room that starts them.
//!
//! Answers: what a program printed and how it ended. Refuses: shells; an argument list is all there is.
//!
//! - [`runner`]: the trait and its values. - [`real`]: starts programs.

pub mod real;
pub mod runner;

pub use runner::{Call, Outcome, Runner};
