//! Lines that a terminal does not break in the middle of a word.

use console::{Term, measure_text_width};

/// `text` with its lines broken between words where they are longer than the terminal is wide; unchanged
/// where that is no terminal, for a program may read it.
pub fn for_terminal(term: &Term, text: &str) -> String {
    if !term.is_term() {
        return text.to_owned();
    }
    let width = usize::from(term.size().1).saturating_sub(1);
    text.split('\n').flat_map(|line| lines(line, width)).collect::<Vec<_>>().join("\n")
}

/// One line as lines of at most `width`, each indented like the first. A word that is longer stays whole.
pub fn lines(line: &str, width: usize) -> Vec<String> {
    if measure_text_width(line) <= width {
        return vec![line.to_owned()];
    }
    let indent = &line[..line.len() - line.trim_start().len()];
    let mut lines = vec![indent.to_owned()];
    let mut is_empty = true;
    for word in line.trim_start().split(' ') {
        let Some(last) = lines.last_mut() else { break };
        if is_empty {
            last.push_str(word);
        } else if measure_text_width(last) + 1 + measure_text_width(word) <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(format!("{indent}{word}"));
        }
        is_empty = false;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(lines("one  two", 8), ["one  two"]);
        assert_eq!(lines("  one two three", 9), ["  one two", "  three"]);
        assert_eq!(lines("one muchtoolong two", 5), ["one", "muchtoolong", "two"]);
    }
}
