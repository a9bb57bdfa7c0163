//! A command as a person types it.

use image_core::repo::Address;

/// How long a line of a command is at most: a serial console has 80 columns.
const LONGEST: usize = 74;

/// `keiki` and these words, each as a shell takes it, in lines that a shell joins again.
pub fn command(words: &[String]) -> String {
    let mut lines = vec!["  keiki".to_owned()];
    let words = shown(words);
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let mut word = quoted(word);
        // A flag and its value stay together.
        if let Some(value) = words.next_if(|next| word.starts_with("--") && !next.starts_with('-'))
        {
            word = format!("{word} {}", quoted(value));
        }
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < LONGEST => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => {
                if let Some(line) = lines.last_mut() {
                    line.push_str(" \\");
                }
                lines.push(format!("    {word}"));
            }
        }
    }
    lines.join("\n")
}

/// The same words without the passwords in addresses.
pub fn shown(words: &[String]) -> Vec<String> {
    let word = |word: &String| Address::of(word).map_or_else(|| word.clone(), |it| it.to_string());
    words.iter().map(word).collect()
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-:+=@%,".contains(char);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn commands_can_be_copied_to_a_shell() {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let text = command(&words(&["save", "/a b/it's.img", "--name", "x"]));
        assert_eq!(text, r"  keiki save '/a b/it'\''s.img' --name x");
        let text = command(&words(&["--repo", "http://anna:geheim@s/x", "show", "x"]));
        assert_eq!(text, "  keiki --repo 'http://anna:***@s/x' show x");
        let long = "y".repeat(50);
        let text = command(&words(&["save", &long, "--name", "long-name"]));
        assert_eq!(text, format!("  keiki save {long} \\\n    --name long-name"));
        let long = "y".repeat(70);
        let text = command(&words(&["restore", &long, "z"]));
        assert_eq!(text, format!("  keiki restore \\\n    {long} \\\n    z"));
    }
}
