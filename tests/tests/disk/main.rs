//! Partition tables and signatures, with the machine's own tools as judges.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says so what failed")]

mod image_file;
mod signatures;
mod tables;
