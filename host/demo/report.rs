//! The table at the end: the same requests without and with holm, and where holm's responses came from.

use std::{fmt::Write, time::Duration};

use super::{
    drive::Run,
    origin::Counts,
    response::Tally,
    workload::{Plan, Rate},
};
pub(super) use crate::figures::count;

/// The figures of one run.
#[derive(Debug, Default)]
pub(super) struct Side {
    steady: Times,
    rush: Times,
    tally: Tally,
    origin: Counts,
}

/// What was measured at one rate of arrivals.
#[derive(Debug, Default)]
struct Times {
    /// Latencies of page views, ascending.
    views: Vec<Duration>,
    /// Latencies of embedding calls, ascending.
    calls: Vec<Duration>,
    /// How long after the last request the last response came, at most.
    lag: Duration,
}

impl Side {
    /// Counts a run of `plan`, during which the origin did `origin`.
    pub(super) fn new(plan: &Plan, run: &Run, origin: Counts) -> Self {
        let mut side = Self { origin, ..Self::default() };
        for (phase, lag) in plan.phases.iter().zip(&run.lags) {
            let times = match phase.rate {
                Rate::Steady => &mut side.steady,
                Rate::Rush => &mut side.rush,
            };
            times.lag = times.lag.max(*lag);
            let asks = phase.asks.clone();
            for (ask, outcome) in plan.asks[asks.clone()].iter().zip(&run.outcomes[asks]) {
                let Ok(response) = outcome else { continue };
                side.tally += response.tally;
                let latencies = if ask.is_call() { &mut times.calls } else { &mut times.views };
                latencies.push(response.latency);
            }
        }
        for times in [&mut side.steady, &mut side.rush] {
            times.calls.sort_unstable();
            times.views.sort_unstable();
        }
        side
    }
}

/// The whole summary.
pub(super) fn render(plan: &Plan, without: &Side, with: &Side) -> String {
    let mut table = Table::default();
    table.rows.push(["", "without holm", "with holm", "change"].map(str::to_owned));
    let items = plan.items() as u64;
    table.counts("requests with a response", without.responses(), with.responses());
    table.counts("  page views", without.views(), with.views());
    table.counts("  embedding calls", without.calls(), with.calls());
    table.counts("  items in them", items, items);
    load(&mut table, &without.origin, &with.origin);
    for (rate, words, [before, after]) in [
        (Rate::Steady, "as the origin alone can carry", [&without.steady, &with.steady]),
        (Rate::Rush, "more than it can carry", [&without.rush, &with.rush]),
    ] {
        table.heading(&format!("at {} requests a second, {words}:", count(rate.per_second().into())));
        latencies(&mut table, before, after);
    }
    format!("{}\n{NOTE}\n\n{}", table.render(), sources(&with.tally))
}

/// Explains the rows of times.
const NOTE: &str = "\
Times are from the moment at which a request arrives by the plan, the same without and with holm, to its last byte.
The slowest page views are those that holm has to fetch: they take the origin's time and a hop.";

/// What clients waited for.
fn latencies(table: &mut Table, without: &Times, with: &Times) {
    for (label, latencies) in
        [("page view", [&without.views, &with.views]), ("embedding call", [&without.calls, &with.calls])]
    {
        for percent in [50, 99] {
            let [before, after] = latencies.map(|sorted| percentile(sorted, percent));
            table.times(&format!("  {label}, p{percent}"), before, after);
        }
    }
    table.times("  last response after the last request", Some(without.lag), Some(with.lag));
}

/// In the unit that fits.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.001 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{} µs", time.as_micros())
    }
}

impl Side {
    fn responses(&self) -> u64 {
        self.views() + self.calls()
    }

    fn views(&self) -> u64 {
        (self.steady.views.len() + self.rush.views.len()) as u64
    }

    fn calls(&self) -> u64 {
        (self.steady.calls.len() + self.rush.calls.len()) as u64
    }
}

/// What the origin had to do.
fn load(table: &mut Table, without: &Counts, with: &Counts) {
    table.counts("requests at the origin", without.pages + without.batches, with.pages + with.batches);
    table.counts("  for pages", without.pages, with.pages);
    table.counts("  batches for the model", without.batches, with.batches);
    table.counts("items at the model", without.items, with.items);
    table.row("  mean batch", mean(without), mean(with), String::new());
    table.row("  largest batch", count(without.batch_items_max), count(with.batch_items_max), String::new());
    let change = change(without.body_bytes as f64, with.body_bytes as f64);
    table.row("body bytes from the origin", bytes(without.body_bytes), bytes(with.body_bytes), change);
}

/// Where the responses came from.
fn sources(tally: &Tally) -> String {
    let total = tally.total();
    let mut table = Table::default();
    let title = format!("responses to {} page views and items came from", count(total));
    table.rows.push([title, "number".to_owned(), "share".to_owned(), String::new()]);
    for (label, number, always) in [
        ("  hit in memory", tally.memory, true),
        ("  hit on disk", tally.disk, true),
        ("  hit in Redis", tally.redis, false),
        ("  collapsed: the fetch of another request", tally.collapsed, true),
        ("  origin", tally.fetched, true),
        ("  unknown: no Cache-Status that says", tally.unsaid, false),
    ] {
        if always || number > 0 {
            table.row(label, count(number), share(number, total), String::new());
        }
    }
    table.render()
}

#[derive(Default)]
struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    fn row(&mut self, label: &str, without: String, with: String, change: String) {
        self.rows.push([label.to_owned(), without, with, change]);
    }

    /// A line of its own, whose words don't widen the first column.
    fn heading(&mut self, words: &str) {
        self.row(words, String::new(), String::new(), String::new());
    }

    fn counts(&mut self, label: &str, without: u64, with: u64) {
        self.row(label, count(without), count(with), change(without as f64, with as f64));
    }

    fn times(&mut self, label: &str, without: Option<Duration>, with: Option<Duration>) {
        let text = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), duration);
        let change = match (without, with) {
            (Some(without), Some(with)) => change(without.as_secs_f64(), with.as_secs_f64()),
            _ => String::new(),
        };
        self.row(label, text(without), text(with), change);
    }

    /// The first column to the left, the others to the right.
    fn render(&self) -> String {
        let mut widths = [0; 4];
        // What stands alone in its line may run into the other columns.
        let is_heading = |row: &[String; 4]| row[1..].iter().all(String::is_empty);
        for row in self.rows.iter().filter(|row| !is_heading(row)) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let [label_width, widths @ ..] = widths;
        let mut text = String::new();
        for [label, cells @ ..] in &self.rows {
            let mut line = format!("{label:label_width$}");
            for (cell, width) in cells.iter().zip(widths) {
                // Writing to a String can't fail.
                let _ = write!(line, "   {cell:>width$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The value that so many percent don't exceed, by nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn mean(counts: &Counts) -> String {
    if counts.batches == 0 { "-".to_owned() } else { format!("{:.1}", counts.items as f64 / counts.batches as f64) }
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// Relative, with a sign; empty if there is nothing to compare with or no change.
fn change(before: f64, after: f64) -> String {
    if before == 0.0 || before == after {
        return String::new();
    }
    format!("{:+.1} %", (after - before) * 100.0 / before)
}

fn bytes(number: u64) -> String {
    const KIB: f64 = 1024.0;
    let number_f = number as f64;
    if number_f >= KIB * KIB {
        format!("{:.1} MiB", number_f / (KIB * KIB))
    } else if number_f >= KIB {
        format!("{:.1} KiB", number_f / KIB)
    } else {
        format!("{number} B")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::workload::plan;

    fn side(milliseconds: u64, batches: u64, tally: Tally) -> Side {
        let latency = |number| Duration::from_micros(number * milliseconds * 10);
        let times = |factor| Times {
            views: (1..=50).map(|number| latency(2 * number)).collect(),
            calls: vec![Duration::from_millis(milliseconds * factor)],
            lag: Duration::from_millis(milliseconds * factor),
        };
        Side {
            steady: times(1),
            rush: times(10),
            tally,
            origin: Counts { pages: 3, batches, items: 1_200, batch_items_max: 32, body_bytes: batches * 2_048 },
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_was_counted() {
        let tally = Tally { memory: 75, disk: 5, fetched: 20, ..Tally::default() };
        let text = render(&plan(1, 0, &[]), &side(400, 1_200, Tally::default()), &side(4, 60, tally));
        let wanted = "                                         without holm   with holm    change
requests with a response                          102         102
  page views                                      100         100
  embedding calls                                   2           2
  items in them                                     0           0
requests at the origin                          1,203          63   -94.8 %
  for pages                                         3           3
  batches for the model                         1,200          60   -95.0 %
items at the model                              1,200       1,200
  mean batch                                      1.0        20.0
  largest batch                                    32          32
body bytes from the origin                    2.3 MiB   120.0 KiB   -95.0 %
at 250 requests a second, as the origin alone can carry:
  page view, p50                             200.0 ms      2.0 ms   -99.0 %
  page view, p99                             400.0 ms      4.0 ms   -99.0 %
  embedding call, p50                        400.0 ms      4.0 ms   -99.0 %
  embedding call, p99                        400.0 ms      4.0 ms   -99.0 %
  last response after the last request       400.0 ms      4.0 ms   -99.0 %
at 1,000 requests a second, more than it can carry:
  page view, p50                             200.0 ms      2.0 ms   -99.0 %
  page view, p99                             400.0 ms      4.0 ms   -99.0 %
  embedding call, p50                          4.00 s     40.0 ms   -99.0 %
  embedding call, p99                          4.00 s     40.0 ms   -99.0 %
  last response after the last request         4.00 s     40.0 ms   -99.0 %

Times are from the moment at which a request arrives by the plan, the same without and with holm, to its last byte.
The slowest page views are those that holm has to fetch: they take the origin's time and a hop.

responses to 100 page views and items came from   number    share
  hit in memory                                       75   75.0 %
  hit on disk                                          5    5.0 %
  collapsed: the fetch of another request              0    0.0 %
  origin                                              20   20.0 %
";
        assert_eq!(text, wanted, "\n{text}");
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&sorted, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&sorted[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        for (micros, text) in [(250, "250 µs"), (1_500, "1.5 ms"), (2_340_000, "2.34 s")] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
        for (number, text) in [(1_023, "1023 B"), (1_536, "1.5 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(bytes(number), text);
        }
    }
}
