//! Columns that fit 80 characters where their content does.

use console::measure_text_width;

/// A table: a head, rows, and which columns are numbers (set flush right).
#[derive(Debug)]
pub struct Table {
    head: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is set flush right.
    pub fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect(),
            right: head.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, without a newline at its end.
    pub fn render(&self) -> String {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.head).chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| measure_text_width(cell)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let render_line = |line: &&Vec<String>| {
            let mut text = String::new();
            for ((cell, width), right) in line.iter().zip(&widths).zip(&self.right) {
                let pad = " ".repeat(width - measure_text_width(cell).min(*width));
                let (before, behind) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                text.push_str(before);
                text.push_str(cell);
                text.push_str(behind);
                text.push_str("  ");
            }
            text.trim_end().to_owned()
        };
        lines.iter().map(render_line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["id", ">size", "content"]);
        table.row(["d0:1", "1 MiB", ""]);
        table.row(["vg0/root", "10.5 GiB", "ext4"]);
        let expected = "id            size  content\nd0:1         1 MiB\nvg0/root  10.5 GiB  ext4";
        assert_eq!(table.render(), expected);
    }
}
