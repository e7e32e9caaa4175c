//! A run as a picture: SVG, for reports and for people who would rather look.
//!
//! Promises: it reads on light and on dark ground, and follows what its reader
//! prefers; every line is named where it ends, and no meaning is in colours alone;
//! scales of latencies are logarithmic, and each panel has one scale; its size is
//! bounded, however long the run was. Written by hand: it is a hundred lines and a
//! few labels, and no crate draws for both grounds.

mod axis;

use std::fmt::Write as _;

use axis::Axis;
use hdrhistogram::Histogram;

use super::Plan;
use super::record::Outcome;
use super::report::grouped;
use super::run::{Measured, Second};
use super::workload::Operation;

/// One figure of a second.
type Figure = fn(&Second) -> u64;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 76.0;
/// Right of the panels, where lines are named.
const RIGHT: f64 = 160.0;
const HEAD: f64 = 84.0;
/// From the bottom of one panel to the top of the next.
const GAP: f64 = 76.0;
const HEIGHTS: [f64; 3] = [250.0, 120.0, 150.0];
/// How far names of lines stay apart.
const NAME_HEIGHT: f64 = 15.0;
/// More seconds than this are drawn together.
const MAX_POINTS: usize = 400;
/// Points of a curve for each tenfold rarer request.
const POINTS_PER_DECADE: u32 = 24;
/// Rarer than this is not drawn, however many requests there were.
const RAREST: f64 = 1e6;

/// Colours of the operations on light and on dark ground, in their order; told
/// apart by people who see colours differently, too.
const COLOURS: [(&str, &str); Operation::ALL.len()] = [
    ("#2a78d6", "#3987e5"),
    ("#eb6834", "#d95926"),
    ("#1baf7a", "#199e70"),
    ("#4a3aa7", "#9085e9"),
    ("#b8517f", "#d55181"),
];

/// The colour of what failed.
const FAILED: (&str, &str) = ("#d03b3b", "#e66767");

/// Where a panel is.
#[derive(Clone, Copy)]
struct Panel {
    top: f64,
    bottom: f64,
}

const X_FROM: f64 = LEFT;
const X_TO: f64 = WIDTH - RIGHT;

fn panels() -> [Panel; 3] {
    let mut top = HEAD + 34.0;
    HEIGHTS.map(|height| {
        let panel = Panel {
            top,
            bottom: top + height,
        };
        top += height + GAP;
        panel
    })
}

/// Draws a run.
pub fn draw(plan: &Plan, measured: &Measured) -> String {
    let [curves, rates, tails] = panels();
    let height = tails.bottom + 56.0;
    let mut svg = Svg::new(height);
    svg.head(plan, measured);
    svg.curves(curves, measured);
    svg.rates(rates, plan, measured);
    svg.tails(tails, measured);
    svg.end()
}

/// A line of a panel: where it goes, and what it is called at its end.
struct Line {
    class: String,
    points: Vec<(f64, f64)>,
    name: String,
}

struct Svg {
    text: String,
}

impl Svg {
    fn new(height: f64) -> Self {
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n<style>\n"
        );
        text.push_str(&style(
            |(light, _)| light,
            "#fcfcfb",
            "#0b0b0b",
            "#52514e",
            "#e1e0d9",
        ));
        text.push_str("@media (prefers-color-scheme: dark) {\n");
        text.push_str(&style(
            |(_, dark)| dark,
            "#1a1a19",
            "#ffffff",
            "#c3c2b7",
            "#383835",
        ));
        text.push_str("}\n</style>\n<rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n");
        Svg { text }
    }

    fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn put(&mut self, piece: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(piece)
            .expect("there is always room for more text");
    }

    fn words(&mut self, class: &str, anchor: &str, x: f64, y: f64, words: &str) {
        let words = escaped(words);
        self.put(format_args!(
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>\n"
        ));
    }

    fn head(&mut self, plan: &Plan, measured: &Measured) {
        let title = format!(
            "{}, workload {}: {}",
            plan.table,
            plan.workload.name(),
            plan.workload.describe()
        );
        self.put(format_args!("<title>{}</title>\n", escaped(&title)));
        self.words("title", "start", 24.0, 36.0, &title);
        let pace = match plan.rate {
            None => "closed loop".to_owned(),
            Some(rate) => format!(
                "open loop, {} due a second ({})",
                grouped(rate.per_second as u64),
                rate.arrivals.name()
            ),
        };
        let answered = measured.record.steps(Outcome::is_answer) as f64 / measured.lasted_s;
        let failed = measured.record.steps(|outcome| !outcome.is_answer());
        let unsent = measured.due.map_or(0, |due| due.crowded_out + due.left);
        let unsent = match unsent {
            0 => String::new(),
            unsent => format!(", {} never sent", grouped(unsent)),
        };
        let words = format!(
            "{pace}, {} connections, {} bytes, {} keys ({}) · {} answered a second, {} failed{unsent}",
            plan.connections,
            grouped(plan.value_bytes as u64),
            grouped(plan.keys),
            plan.distribution.name(),
            grouped(answered as u64),
            grouped(failed)
        );
        self.words("words", "start", 24.0, 60.0, &words);
    }

    /// The lines behind a panel, and its labels at the left.
    fn frame(&mut self, panel: Panel, title: &str, y: &Axis, label: impl Fn(f64) -> String) {
        self.words("name", "start", 24.0, panel.top - 16.0, title);
        for tick in y.ticks() {
            let at = y.place(tick);
            self.put(format_args!(
                "<path class=\"grid\" d=\"M{X_FROM} {at:.1}H{X_TO}\"/>\n"
            ));
            self.words("words", "end", X_FROM - 8.0, at + 4.0, &label(tick));
        }
    }

    fn below(&mut self, panel: Panel, marks: &[(f64, String)], words: &str) {
        for (at, label) in marks {
            self.put(format_args!(
                "<path class=\"grid\" d=\"M{at:.1} {:.1}V{:.1}\"/>\n",
                panel.top, panel.bottom
            ));
            self.words("words", "middle", *at, panel.bottom + 18.0, label);
        }
        self.words("words", "end", X_TO, panel.bottom + 36.0, words);
    }

    /// Lines, each with its name at its end, and the names apart.
    fn lines(&mut self, panel: Panel, lines: &[Line]) {
        let mut names = Vec::new();
        for line in lines {
            let mut path = String::new();
            for (place, (x, y)) in line.points.iter().enumerate() {
                let step = if place == 0 { 'M' } else { 'L' };
                path.push_str(&format!("{step}{x:.1} {y:.1}"));
            }
            self.put(format_args!(
                "<path class=\"line {}\" d=\"{path}\"/>\n",
                line.class
            ));
            if let Some((x, y)) = line.points.last() {
                self.put(format_args!(
                    "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>\n",
                    line.class
                ));
                names.push((*x, *y, line));
            }
        }
        names.sort_by(|(_, one, _), (_, other, _)| one.total_cmp(other));
        let room = panel.bottom - NAME_HEIGHT * names.len() as f64;
        let mut free = panel.top - NAME_HEIGHT;
        for (place, (x, y, line)) in names.iter().enumerate() {
            let lowest = room + NAME_HEIGHT * (place as f64 + 1.0);
            let at = (y + 4.0)
                .max(free + NAME_HEIGHT)
                .min(lowest.max(free + NAME_HEIGHT));
            free = at;
            self.words("name", "start", x + 9.0, at, &line.name);
        }
    }

    /// How many requests were answered within how long.
    fn curves(&mut self, panel: Panel, measured: &Measured) {
        let carried_out: Vec<(Operation, &Histogram<u64>)> = Operation::ALL
            .into_iter()
            .filter_map(|operation| {
                let latencies = measured.record.latencies_us(operation, Outcome::Ok)?;
                Some((operation, latencies))
            })
            .collect();
        let most = carried_out
            .iter()
            .map(|(_, latencies)| latencies.len())
            .max();
        let rarest = (most.unwrap_or(1) as f64).clamp(100.0, RAREST);
        let x = Axis::exact_log(1.0, rarest, X_FROM, X_TO);
        let low = carried_out
            .iter()
            .map(|(_, latencies)| latencies.min())
            .min();
        let high = carried_out
            .iter()
            .map(|(_, latencies)| latencies.max())
            .max();
        let y = Axis::log(
            low.unwrap_or(100).max(1) as f64,
            high.unwrap_or(1_000) as f64,
            panel.bottom,
            panel.top,
        );
        self.frame(panel, "Latency of what was carried out", &y, time);
        let shares = [
            (1.0, "0 %"),
            (2.0, "50 %"),
            (10.0, "90 %"),
            (100.0, "99 %"),
            (1e3, "99.9 %"),
            (1e4, "99.99 %"),
            (1e5, "99.999 %"),
            (1e6, "99.9999 %"),
        ];
        let marks: Vec<(f64, String)> = shares
            .iter()
            .filter(|(one_in, _)| *one_in <= rarest)
            .map(|(one_in, label)| (x.place(*one_in), (*label).to_owned()))
            .collect();
        self.below(panel, &marks, "share of operations that took no longer");
        let lines: Vec<Line> = carried_out
            .iter()
            .map(|(operation, latencies)| {
                let points = one_in(latencies.len(), rarest).map(|one_in| {
                    let latency_us = latencies.value_at_quantile(1.0 - 1.0 / one_in);
                    (x.place(one_in), y.place(latency_us as f64))
                });
                Line {
                    class: class(*operation),
                    points: points.collect(),
                    name: operation.name().to_owned(),
                }
            })
            .collect();
        self.lines(panel, &lines);
    }

    fn seconds(&mut self, panel: Panel, timeline: &[Vec<&Second>]) -> Axis {
        let last = timeline.last().and_then(|group| group.last());
        let x = Axis::exact(last.map_or(1.0, |second| second.at_s), X_FROM, X_TO);
        let marks: Vec<(f64, String)> = x
            .ticks()
            .iter()
            .map(|tick| (x.place(*tick), format!("{tick}")))
            .collect();
        self.below(panel, &marks, "seconds after the warm-up");
        x
    }

    /// How many were answered, and how many failed if any did, over time.
    fn rates(&mut self, panel: Panel, plan: &Plan, measured: &Measured) {
        let timeline = groups(&measured.timeline);
        let per_second = |group: &[&Second], of: fn(&Second) -> u64| {
            let count: u64 = group.iter().map(|second| of(second)).sum();
            let lasted_s: f64 = group.iter().map(|second| second.lasted_s).sum();
            count as f64 / lasted_s
        };
        let kinds: [(&str, &str, Figure); 2] = [
            ("all", "answered", |second| second.answered),
            ("bad", "failed", |second| second.failed),
        ];
        let due = plan.rate.map_or(0.0, |rate| rate.per_second);
        let most = kinds
            .iter()
            .flat_map(|(_, _, of)| timeline.iter().map(|group| per_second(group, *of)))
            .fold(due, f64::max);
        // A run without a second has an axis all the same.
        let y = Axis::linear(most.max(1.0), panel.bottom, panel.top);
        let label = |rate: f64| grouped(rate as u64);
        self.frame(panel, "Operations a second", &y, label);
        let x = self.seconds(panel, &timeline);
        if plan.rate.is_some() {
            let at = y.place(due);
            self.put(format_args!(
                "<path class=\"due\" d=\"M{X_FROM} {at:.1}H{X_TO}\"/>\n"
            ));
            self.words("words", "start", X_FROM + 6.0, at - 6.0, "due");
        }
        let failed = measured.timeline.iter().any(|second| second.failed > 0);
        let lines: Vec<Line> = kinds
            .iter()
            .filter(|(class, _, _)| *class == "all" || failed)
            .map(|(class, name, of)| {
                let points = timeline.iter().filter_map(|group| {
                    let at_s = group.last()?.at_s;
                    Some((x.place(at_s), y.place(per_second(group, *of))))
                });
                Line {
                    class: (*class).to_owned(),
                    points: points.collect(),
                    name: (*name).to_owned(),
                }
            })
            .collect();
        self.lines(panel, &lines);
    }

    /// How long the slow ones took, over time.
    fn tails(&mut self, panel: Panel, measured: &Measured) {
        let timeline = groups(&measured.timeline);
        // The worst of the seconds that are drawn together: none may be hidden.
        let worst = |group: &[&Second], wanted: Operation| {
            let all = group.iter().flat_map(|second| &second.operations);
            all.filter(|(operation, _)| *operation == wanted)
                .map(|(_, quantiles)| quantiles.p99_us)
                .max()
        };
        let every = Operation::ALL.into_iter().flat_map(|operation| {
            let each = timeline.iter().map(move |group| (group, operation));
            each.filter_map(|(group, operation)| worst(group, operation))
        });
        let all: Vec<u64> = every.collect();
        let y = Axis::log(
            all.iter().copied().min().unwrap_or(100).max(1) as f64,
            all.iter().copied().max().unwrap_or(1_000) as f64,
            panel.bottom,
            panel.top,
        );
        self.frame(panel, "99 % of each second took no longer than", &y, time);
        let x = self.seconds(panel, &timeline);
        let lines: Vec<Line> = Operation::ALL
            .into_iter()
            .filter_map(|operation| {
                let points: Vec<(f64, f64)> = timeline
                    .iter()
                    .filter_map(|group| {
                        let p99_us = worst(group, operation)?;
                        Some((x.place(group.last()?.at_s), y.place(p99_us as f64)))
                    })
                    .collect();
                (!points.is_empty()).then(|| Line {
                    class: class(operation),
                    points,
                    name: operation.name().to_owned(),
                })
            })
            .collect();
        self.lines(panel, &lines);
    }
}

fn class(operation: Operation) -> String {
    format!("c{}", operation as usize)
}

/// One in how many, up to what so many requests can tell.
fn one_in(count: u64, rarest: f64) -> impl Iterator<Item = f64> {
    let last = (count as f64).clamp(1.0, rarest);
    let decades = last.log10();
    let steps = (decades * f64::from(POINTS_PER_DECADE)).ceil().max(1.0) as u32;
    (0..=steps).map(move |step| 10_f64.powf(decades * f64::from(step) / f64::from(steps)))
}

/// Seconds that are drawn together.
fn groups(timeline: &[Second]) -> Vec<Vec<&Second>> {
    let size = timeline.len().div_ceil(MAX_POINTS).max(1);
    timeline
        .chunks(size)
        .map(|seconds| seconds.iter().collect())
        .collect()
}

fn style(
    pick: impl Fn((&'static str, &'static str)) -> &'static str,
    ground: &str,
    ink: &str,
    faint: &str,
    grid: &str,
) -> String {
    let bad = pick(FAILED);
    let mut text = format!(
        ".ground {{ fill: {ground} }}\n\
         .title {{ fill: {ink}; font-size: 19px; font-weight: 600 }}\n\
         .name {{ fill: {ink}; font-size: 13px; font-weight: 600; paint-order: stroke; stroke: {ground}; stroke-width: 4px }}\n\
         .words {{ fill: {faint}; font-size: 12px }}\n\
         .grid {{ stroke: {grid}; fill: none }}\n\
         .due {{ stroke: {faint}; fill: none; stroke-dasharray: 4 4 }}\n\
         .all {{ stroke: {ink}; fill: {ink} }}\n\
         .bad {{ stroke: {bad}; fill: {bad} }}\n"
    );
    for (place, colours) in COLOURS.into_iter().enumerate() {
        let colour = pick(colours);
        text.push_str(&format!(
            ".c{place} {{ stroke: {colour}; fill: {colour} }}\n"
        ));
    }
    text.push_str(".line { fill: none; stroke-width: 2; stroke-linejoin: round }\n");
    text
}

/// A round time, as axes have them.
fn time(us: f64) -> String {
    let (value, unit) = if us < 999.5 {
        (us, "µs")
    } else if us < 999_500.0 {
        (us / 1e3, "ms")
    } else {
        (us / 1e6, "s")
    };
    format!("{} {unit}", (value * 10.0).round() / 10.0)
}

/// Text as XML wants it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_end_where_the_requests_do() {
        let all: Vec<f64> = one_in(1_000, RAREST).collect();
        assert_eq!(all[0], 1.0);
        assert!((all[all.len() - 1] - 1_000.0).abs() < 1e-6);
        assert!(all.is_sorted() && all.len() < 100);
        assert_eq!(one_in(1, RAREST).count(), 2);
        assert!(one_in(u64::MAX, RAREST).all(|one_in| one_in <= RAREST * 1.001));
    }

    #[test]
    fn a_run_without_a_second_is_drawn() {
        let (plan, measured) = super::super::report::tests::example();
        let measured = Measured {
            timeline: Vec::new(),
            record: Default::default(),
            ..measured
        };
        let picture = draw(&plan, &measured);
        assert!(picture.ends_with("</svg>\n"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn a_day_is_drawn_in_few_points() {
        let second = |at_s| Second {
            at_s,
            lasted_s: 1.0,
            answered: 1,
            siblings: 0,
            failed: 0,
            operations: Vec::new(),
        };
        for count in [0, 1, MAX_POINTS, MAX_POINTS + 1, 86_400] {
            let timeline: Vec<Second> = (0..count).map(|at| second(at as f64)).collect();
            let groups = groups(&timeline);
            assert!(groups.len() <= MAX_POINTS);
            assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), count);
        }
    }

    #[test]
    fn times_on_axes_are_short() {
        let texts = [0.5, 20.0, 500.0, 1e3, 5e4, 1e6, 2e7].map(time);
        assert_eq!(
            texts,
            ["0.5 µs", "20 µs", "500 µs", "1 ms", "50 ms", "1 s", "20 s"]
        );
    }

    #[test]
    fn names_cannot_break_the_picture() {
        assert_eq!(escaped("<a & b>"), "&lt;a &amp; b&gt;");
    }
}
