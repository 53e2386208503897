//! How things look: colour, tables, bars, ages. Nothing else in the program knows an escape code.
//!
//! Texts of others (a pod's message, a file's line) may hold control characters; [`printable`] is
//! the one place that keeps them from a terminal.

use std::{fmt::Write as _, io::IsTerminal};

use jiff::Timestamp;

use crate::options::Color;

/// What the output may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Colours.
    pub colour: bool,
    /// Bars, and drawing over what was drawn.
    pub live: bool,
}

/// What a text says, as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be; added.
    Good,
    /// Under way.
    Busy,
    /// Refused, failed; removed.
    Bad,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
}

impl Style {
    /// As the options and the environment say, for this standard output.
    #[must_use]
    pub fn of(color: Color) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !refused,
        };
        Self { colour, live: terminal }
    }

    /// A text in a tone.
    #[must_use]
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// `done` of `total`, of which `bad` are refused; as a bar where that can be seen.
    #[must_use]
    pub fn bar(self, done: i32, bad: i32, total: i32) -> String {
        const WIDTH: i64 = 30;
        if !self.live {
            return String::new();
        }
        let total = i64::from(total.max(done.saturating_add(bad)).max(1));
        // A refusal is never rounded away, and the bar is full only when all is done.
        let share = |part: i32| usize::try_from(i64::from(part.max(0)) * WIDTH / total).unwrap_or_default();
        let bad_cells = share(bad).max(usize::from(bad > 0));
        let done_cells = share(done).min(30 - bad_cells);
        let rest = 30 - bad_cells - done_cells;
        format!(
            "{}{}{} ",
            self.paint(Tone::Good, &"█".repeat(done_cells)),
            self.paint(Tone::Bad, &"█".repeat(bad_cells)),
            self.paint(Tone::Faint, &"░".repeat(rest))
        )
    }

    /// A text drawn over one of so many lines. Long lines are cut at the terminal's edge, so that
    /// each is one.
    #[must_use]
    pub fn redraw(self, text: &str, over: usize) -> String {
        if !self.live {
            return text.to_owned();
        }
        let back = if over > 0 { format!("\x1b[{over}A\x1b[J") } else { String::new() };
        format!("{back}\x1b[?7l{text}\x1b[?7h")
    }
}

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A text in a tone.
    #[must_use]
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: printable(&text.into()), tone: Some(tone) }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: printable(text.as_ref()), tone: None }
    }
}

/// Columns as wide as they need to be, three blanks apart, as kubectl writes them.
#[must_use]
pub fn table(style: Style, head: &[&str], rows: &[Vec<Cell>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain(head.get(column).map(|title| title.chars().count())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let titles: Vec<Cell> = head.iter().map(|title| Cell::toned(*title, Tone::Strong)).collect();
    let mut text = String::new();
    for row in [&titles].into_iter().chain(rows) {
        for (column, cell) in row.iter().enumerate() {
            text += &cell.tone.map_or_else(|| cell.text.clone(), |tone| style.paint(tone, &cell.text));
            if column + 1 < row.len() {
                let used = cell.text.chars().count();
                text += &" ".repeat(widths.get(column).copied().unwrap_or(used).saturating_sub(used) + 3);
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// A text of others on one line, without anything that moves a cursor.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_safe(c) { c } else { '\u{fffd}' }).collect()
}

/// Control characters steer a terminal, and the bidirectional ones make a line read as another.
fn is_safe(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same with tabs kept: a line of a file.
#[must_use]
pub fn printable_line(line: &str) -> String {
    line.chars().map(|c| if c == '\t' || is_safe(c) { c } else { '\u{fffd}' }).collect()
}

/// Twelve digits of a hash.
#[must_use]
pub fn short_hash(hash: &str) -> &str {
    let digits = hash.split_once(':').map_or(hash, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

/// How long ago: 5s, 3m, 4h, 2d.
#[must_use]
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A size for people.
#[must_use]
pub fn bytes(count: usize) -> String {
    if count == 1 { "1 byte".into() } else { format!("{count} bytes") }
}

/// A count with its noun.
#[must_use]
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `name: value` lines with the values below each other.
#[derive(Default)]
pub struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// Adds a line. The value may be painted: others' texts must be [`printable`] already.
    pub fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    /// The lines.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default() + 1;
        self.0.iter().fold(String::new(), |mut text, (name, value)| {
            // A line without a name goes on with the value above.
            let label = if name.is_empty() { String::new() } else { format!("{name}:") };
            let pad = " ".repeat(width + 1 - label.chars().count());
            let _ = writeln!(text, "{}{pad}{value}", style.paint(Tone::Strong, &label));
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colour: false, live: false };
    const FULL: Style = Style { colour: true, live: true };

    #[test]
    fn a_table_is_as_wide_as_it_needs_and_colour_does_not_shift_it() {
        let rows = [
            vec!["web".into(), Cell::toned("Ready", Tone::Good), "7".into()],
            vec!["a-long-name".into(), Cell::toned("No", Tone::Bad), "".into()],
        ];
        let plain = table(PLAIN, &["NAME", "STATE", "N"], &rows);
        assert_eq!(
            plain,
            "NAME          STATE   N\n\
             web           Ready   7\n\
             a-long-name   No\n"
        );
        let coloured = table(FULL, &["NAME", "STATE", "N"], &rows);
        let mut stripped = coloured.clone();
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"] {
            stripped = stripped.replace(code, "");
        }
        let trimmed: Vec<&str> = stripped.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n") + "\n", plain);
        assert_ne!(coloured, plain);
    }

    #[test]
    fn nothing_of_others_steers_the_terminal() {
        let cell = Cell::from("a\x1b[2Jb\r\nc\u{202e}d");
        assert_eq!(table(PLAIN, &["X"], &[vec![cell]]), "X\na�[2Jb��c�d\n");
        assert_eq!(printable_line("\ta\x07"), "\ta�");
    }

    #[test]
    fn bars_are_drawn_only_where_they_can_be_seen_and_show_every_refusal() {
        assert_eq!(PLAIN.bar(3, 1, 10), "");
        assert_eq!(PLAIN.redraw("x\n", 3), "x\n");
        let seen = Style { colour: false, live: true };
        assert_eq!(seen.bar(0, 0, 0), format!("{} ", "░".repeat(30)));
        assert_eq!(seen.bar(10, 0, 10), format!("{} ", "█".repeat(30)));
        assert_eq!(seen.bar(999, 1, 1000).matches('█').count(), 30);
        assert!(FULL.bar(999, 1, 1000).contains("\x1b[31m█\x1b[0m"));
        assert!(FULL.bar(99, 0, 100).contains('░'));
        assert_eq!(seen.redraw("x\n", 2), "\x1b[2A\x1b[J\x1b[?7lx\n\x1b[?7h");
    }

    #[test]
    fn ages_and_hashes_are_short() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let ages = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|second| age(at(0), at(second)));
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!(age(at(9), at(1)), "0s");
        assert_eq!((short_hash("sha256:0123456789abcdef"), short_hash("x")), ("0123456789ab", "x"));
    }
}
