//! Charts over time, as SVG.

use std::fmt::Write;

use maud::{Markup, html};

use super::samples::Sample;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 120.0;

/// The lines of a chart: the name and the values of each. Intervals without a value are gaps.
pub(super) type Lines<'a> = &'a [(&'a str, Vec<Option<f64>>)];

/// Returns a chart of a figure between samples that follow each other. `most` is the top of the scale, or `None` for the largest value.
pub(super) fn chart(
    title: &str,
    unit: &str,
    samples: &[Sample],
    most: Option<f64>,
    figure: impl Fn(&Sample, &Sample) -> Option<f64>,
) -> Markup {
    let values = samples.windows(2).map(|pair| figure(&pair[1], &pair[0])).collect();
    lines(title, unit, most, &[("", values)])
}

/// Returns a chart with one line or two.
pub(super) fn lines(title: &str, unit: &str, most: Option<f64>, lines: Lines<'_>) -> Markup {
    let largest = || lines.iter().flat_map(|(_, values)| values.iter().flatten()).fold(0.0, |top: f64, value| top.max(*value));
    let top = most.unwrap_or_else(largest);
    let last = lines.iter().filter_map(|(name, values)| Some((name, values.iter().rev().flatten().next()?)));
    let last: Vec<_> = last.map(|(name, last)| format!("{name} {last:.1} {unit}").trim().to_owned()).collect();
    let label = match last.is_empty() {
        false => format!("{title}: {} in the last interval with requests", last.join(", ")),
        true => format!("{title}: no requests yet"),
    };
    let names: Vec<_> = lines.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    html! {
        figure {
            figcaption { (title) " " span.quiet { (names.join(", ")) " 0 to " (format!("{top:.1}")) " " (unit) } }
            svg role="img" aria-label=(label) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                @for line in [0.25, 0.5, 0.75] {
                    line.grid x1="0" x2=(WIDTH) y1=(HEIGHT * line) y2=(HEIGHT * line) {}
                }
                @for (place, (_, values)) in lines.iter().enumerate() {
                    path.line.second[place > 0] d=(line_of(values, top)) {}
                }
            }
        }
    }
}

/// Returns the path through the values. Intervals without a value are gaps.
fn line_of(values: &[Option<f64>], top: f64) -> String {
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let (mut path, mut is_down) = (String::new(), false);
    for (place, value) in values.iter().enumerate() {
        let Some(value) = value else {
            is_down = false;
            continue;
        };
        let (x, share) = (place as f64 * step, if top > 0.0 { value / top } else { 0.0 });
        let y = (HEIGHT - 2.0) * (1.0 - share.min(1.0)) + 1.0;
        let _ = write!(path, "{}{x:.1} {y:.1}", if is_down { " L" } else { " M" });
        if !is_down {
            // A single point is visible as well.
            let _ = write!(path, " l0.1 0");
        }
        is_down = true;
    }
    path.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_without_a_value_is_a_gap() {
        assert_eq!(line_of(&[Some(1.0), None, Some(0.0)], 1.0), "M0.0 1.0 l0.1 0 M560.0 119.0 l0.1 0");
        assert_eq!(line_of(&[], 1.0), "");
    }
}
