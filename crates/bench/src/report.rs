//! The figures, each with its runs, as a table and as a file.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::pins::Pins;
use crate::plan::Plan;

/// What was measured under one name.
#[derive(Debug)]
struct Figure {
    name: String,
    unit: &'static str,
    runs: Vec<f64>,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    more: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, pins: &Pins) -> Self {
        let mut report = Self { figures: Vec::new(), more: Map::new() };
        report.note("quick", json!(plan.quick));
        report.note("debug_build", json!(cfg!(debug_assertions)));
        report.note("pinned", json!(pins.are_set()));
        report.note("plan", json!(format!("{plan:?}")));
        report.note("load_average_before", json!(load_average()));
        report
    }

    /// Adds a run to a figure. In a name, `us` are microseconds and `ms` are milliseconds.
    pub(crate) fn add(&mut self, name: &str, unit: &'static str, run: f64) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.runs.push(run),
            None => self.figures.push(Figure { name: name.to_owned(), unit, runs: vec![run] }),
        }
    }

    /// Adds something that is no figure.
    pub(crate) fn note(&mut self, name: &str, value: Value) {
        self.more.insert(name.to_owned(), value);
    }

    /// The median of a figure.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).and_then(|figure| median(&figure.runs))
    }

    /// Each figure's median under its name; `runs` and `units` have what it is the median of, and in what.
    pub(crate) fn json(&self) -> Value {
        let of = |value: fn(&Figure) -> Value| {
            self.figures.iter().map(|figure| (figure.name.clone(), value(figure))).collect::<Map<_, _>>()
        };
        let mut all = of(|figure| json!(median(&figure.runs)));
        all.extend(self.more.clone());
        all.insert("load_average_after".to_owned(), json!(load_average()));
        all.insert("runs".to_owned(), Value::Object(of(|figure| json!(figure.runs))));
        all.insert("units".to_owned(), Value::Object(of(|figure| json!(figure.unit))));
        Value::Object(all)
    }

    /// Writes the file, and says where it is.
    pub(crate) fn write(&self, folder: &Path) -> Outcome<PathBuf> {
        let file = folder.join("report.json");
        fs::create_dir_all(folder)?;
        fs::write(&file, serde_json::to_string_pretty(&self.json())? + "\n")?;
        Ok(file)
    }

    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["figure", "median", "least", "most", "runs", "unit"]);
        for figure in &self.figures {
            let least = figure.runs.iter().copied().reduce(f64::min);
            let most = figure.runs.iter().copied().reduce(f64::max);
            let [median, least, most] =
                [median(&figure.runs), least, most].map(|value| value.map_or("-".to_owned(), short));
            table.add_row([
                figure.name.clone(),
                median,
                least,
                most,
                figure.runs.len().to_string(),
                figure.unit.to_owned(),
            ]);
        }
        for column in 1..=4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub(crate) fn median(runs: &[f64]) -> Option<f64> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(*upper) } else { Some((sorted[middle - 1] + upper) / 2.0) }
}

/// A number with three digits that count, or all of those before the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The load of the machine over the last minute, five and fifteen minutes.
fn load_average() -> Vec<f64> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).filter_map(|word| word.parse().ok()).collect()
}

/// Prints a line.
pub(crate) fn say(line: &str) {
    // Nobody reads it: nothing is lost.
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_whatever_the_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }

    #[test]
    fn runs_of_one_name_are_one_figure() {
        let mut report = Report { figures: Vec::new(), more: Map::new() };
        for run in [2.0, 8.0, 4.0] {
            report.add("a_us", "us", run);
        }
        report.add("b", "", 1.0);
        let told = report.json();
        assert_eq!((&told["a_us"], &told["b"]), (&json!(4.0), &json!(1.0)));
        assert_eq!((&told["runs"]["a_us"], &told["units"]["a_us"]), (&json!([2.0, 8.0, 4.0]), &json!("us")));
        assert!(report.table().contains("4.00"));
    }

    #[test]
    fn numbers_keep_the_digits_that_count() {
        assert_eq!([0.1234, 1.234, 12.34, 1234.5].map(short), ["0.123", "1.23", "12.3", "1234"]);
    }
}
