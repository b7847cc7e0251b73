//! The figures as files to be kept: the report, and plots of it.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::Outcome;
use crate::plan::SHAPES;
use crate::report::Report;

/// The width and height of a plot, in pixels.
const SIZE: (u32, u32) = (760, 420);

/// What is drawn together: a title, what it is measured in, and the figures, as they begin and as they are called.
type Plot = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const PLOTS: [Plot; 3] = [
    (
        "rate",
        "Calls a second, server and Postgres on one processor",
        "calls a second",
        &[
            ("echo_rps", "a bare echo of the same bytes"),
            ("resolve_rps", "resolve, audit on the disk"),
            ("resolve_async_rps", "resolve, audit in Postgres's memory"),
            ("plain_rps", "one SELECT and one INSERT a call"),
        ],
    ),
    (
        "processor",
        "Processor time of one call",
        "microseconds",
        &[
            ("echo_server_cpu_us", "a bare echo"),
            ("resolve_server_cpu_us", "resolve: the server"),
            ("resolve_postgres_cpu_us", "resolve: Postgres"),
        ],
    ),
    (
        "latency",
        "Latency",
        "microseconds",
        &[
            ("echo_p50_us", "echo, p50"),
            ("echo_p99_us", "echo, p99"),
            ("resolve_p50_us", "resolve, p50"),
            ("resolve_p99_us", "resolve, p99"),
        ],
    ),
];

/// Writes the report and its plots into a folder.
pub(crate) fn write(report: &Report, folder: &Path) -> Outcome<()> {
    report.write(folder)?;
    for plot in &PLOTS {
        fs::write(folder.join(format!("{}.svg", plot.0)), draw(report, plot)?)?;
    }
    Ok(())
}

/// A point for each number of calls in flight, at equal distances.
fn draw(report: &Report, (_, title, unit, figures): &Plot) -> Outcome<String> {
    let lines = figures.iter().map(|(figure, name)| {
        let points = SHAPES.iter().enumerate().filter_map(|(place, shape)| {
            Some((place as f64, report.median(&format!("{figure}_{}", shape.in_flight))?))
        });
        (*name, points.collect::<Vec<_>>())
    });
    let lines: Vec<_> = lines.filter(|(_, points)| !points.is_empty()).collect();
    let most = lines.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let last = (SHAPES.len() - 1) as f64;
        let mut chart = ChartBuilder::on(&area)
            .caption(*title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d(-0.2..last + 0.2, 0.0..most * 1.08)?;
        let name = |place: &f64| {
            let shape = SHAPES.iter().enumerate().find(|(number, _)| (*number as f64 - place).abs() < 0.01);
            shape.map(|(_, shape)| shape.in_flight.to_string()).unwrap_or_default()
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(SHAPES.len() * 2)
            .x_label_formatter(&name)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_desc("calls in flight")
            .y_desc(*unit)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (number, (name, points)) in lines.into_iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            chart
                .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::Pins;
    use crate::plan::Plan;

    #[test]
    fn every_plot_has_its_lines_and_is_the_same_each_time() {
        let mut report = Report::new(&Plan::new(true, None), &Pins::find());
        for shape in SHAPES {
            report.add(&format!("echo_rps_{}", shape.in_flight), "calls a second", 40_000.0);
            report.add(&format!("resolve_rps_{}", shape.in_flight), "calls a second", 16_000.0);
        }
        let svg = draw(&report, &PLOTS[0]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("a bare echo of the same bytes"));
        assert!(!svg.contains("one SELECT"), "what was not measured is not drawn");
        assert_eq!(svg, draw(&report, &PLOTS[0]).unwrap());
    }
}
