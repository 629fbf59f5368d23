//! How figures and tables are shown.

use std::fmt;

pub(super) use crate::figures::count;

/// Rows of text in columns.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// The columns that are numbers, and so stand at the right.
    right: &'static [usize],
    indent: usize,
}

impl Table {
    /// A table with these headings; columns of numbers are named by their place.
    #[must_use]
    pub fn new(headings: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()], right, indent: 0 }
    }

    /// The same, so many columns further right.
    pub(super) fn indented(self, indent: usize) -> Self {
        Self { indent, ..self }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width - cell.chars().count());
                line += &if self.right.contains(&column) { gap + cell } else { cell.clone() + &gap };
                line += "  ";
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// In the unit that fits.
pub(super) fn nanoseconds(ns: f64) -> String {
    for (unit, size) in [("s", 1e9), ("ms", 1e6), ("µs", 1e3)] {
        if ns >= size {
            return format!("{:.2} {unit}", ns / size);
        }
    }
    format!("{ns:.0} ns")
}

/// In the unit that fits.
pub(super) fn bytes(bytes: u64) -> String {
    for (unit, size) in [("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size {
            return format!("{:.1} {unit}", bytes as f64 / size as f64);
        }
    }
    format!("{bytes} bytes")
}

/// `1 record`, `2 records`.
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{} {what}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new(&["hook", "calls", ""], &[1]).indented(2);
        table.row(["key".to_owned(), count(1_234), "µ".to_owned()]);
        table.row(["prefetch".to_owned(), count(7), String::new()]);
        assert_eq!(table.to_string(), "  hook      calls\n  key       1,234  µ\n  prefetch      7\n");
    }

    #[test]
    fn figures_read_well() {
        for (ns, wanted) in [(0.0, "0 ns"), (999.4, "999 ns"), (1_500.0, "1.50 µs"), (2e6, "2.00 ms"), (3e9, "3.00 s")]
        {
            assert_eq!(nanoseconds(ns), wanted);
        }
        for (size, wanted) in [(0, "0 bytes"), (1_023, "1023 bytes"), (1_536, "1.5 KiB"), (19 << 20, "19.0 MiB")] {
            assert_eq!(bytes(size), wanted);
        }
        for (number, wanted) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), wanted);
        }
        assert_eq!((counted(1, "record"), counted(2, "record")), ("1 record".to_owned(), "2 records".to_owned()));
    }
}
