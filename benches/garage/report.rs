//! The figures of a comparison, for people and for scripts.
//!
//! Promises: throughput and processor time are medians of the rounds, latencies are of all rounds
//! together; ratios are made of exactly the figures that are shown. A side that
//! refused requests, or a client that had little time left, is pointed out.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::facts::Facts;
use crate::floor::Floor;
use crate::load::{Latencies, Open, Phase, Sample};

/// The sides, as the figures are numbered.
pub const SIDES: [&str; 2] = ["kinfold", "Garage"];
const PHASES: [Phase; 3] = [Phase::Put, Phase::Get, Phase::ReadModifyWrite];
/// A client that used more than this of the cores it could use may have been
/// what limited the throughput.
const BUSY: f64 = 0.8;

/// The goals that a run is held against: so many times cheaper and faster.
const CHEAPER: [(Phase, f64); 2] = [(Phase::Put, 16.0), (Phase::Get, 4.5)];
const FASTER: [(Phase, f64); 2] = [(Phase::Put, 12.0), (Phase::Get, 4.0)];
/// The most that kinfold may cost, as a multiple of the floor.
const MOST_OF_FLOOR: f64 = 1.6;
/// The most that p99.9 may be of the median at half of the best throughput.
const MOST_OF_MEDIAN: f64 = 10.0;

/// Everything that a run of the program found.
pub struct Report {
    facts: Facts,
    pub runs: Vec<Run>,
    pub floors: Vec<Floor>,
}

/// All rounds with one number of connections; samples carry their side.
pub struct Run {
    connections: usize,
    pub closed: Vec<(usize, Phase, Sample)>,
    pub open: Vec<(usize, Phase, Open)>,
}

/// What one side came to in one phase of closed loops.
#[derive(Serialize)]
struct Figures {
    side: &'static str,
    phase: Phase,
    per_second: f64,
    best_per_second: f64,
    cpu_us: f64,
    after_cpu_us: f64,
    client_cpu_us: f64,
    client_busy: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    operations: usize,
    failures: usize,
    rounds: Vec<Sample>,
}

/// The same of open loops.
#[derive(Serialize)]
struct OpenFigures {
    side: &'static str,
    phase: Phase,
    asked_per_second: f64,
    answered_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    p999_over_p50: f64,
    operations: usize,
    failures: usize,
}

impl Run {
    /// Nothing yet.
    pub fn new(connections: usize) -> Run {
        Run {
            connections,
            closed: Vec::new(),
            open: Vec::new(),
        }
    }

    fn samples(&self, side: usize, phase: Phase) -> Vec<Sample> {
        let all = self.closed.iter();
        all.filter(|(of, at, _)| (*of, *at) == (side, phase))
            .map(|(_, _, sample)| sample.clone())
            .collect()
    }

    /// The best throughput of a side's closed loops, per second.
    pub fn best(&self, side: usize, phase: Phase) -> f64 {
        let samples = self.samples(side, phase);
        samples.iter().map(|one| one.per_second).fold(0.0, f64::max)
    }

    fn figures(&self, side: usize, phase: Phase) -> Option<Figures> {
        let rounds = self.samples(side, phase);
        let of = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure));
        let latencies: Latencies = rounds.iter().map(|one| one.latencies.clone()).collect();
        Some(Figures {
            side: SIDES[side],
            phase,
            per_second: of(|one| one.per_second)?,
            best_per_second: self.best(side, phase),
            cpu_us: of(|one| one.cpu_us)?,
            after_cpu_us: of(|one| one.after_cpu_us)?,
            client_cpu_us: of(|one| one.client_cpu_us)?,
            client_busy: of(|one| one.client_busy)?,
            p50_ms: latencies.milliseconds(0.5),
            p99_ms: latencies.milliseconds(0.99),
            p999_ms: latencies.milliseconds(0.999),
            operations: latencies.len(),
            failures: rounds.iter().map(|one| one.failures).sum(),
            rounds,
        })
    }

    fn open_figures(&self, side: usize, phase: Phase) -> Option<OpenFigures> {
        let rounds: Vec<&Open> = self
            .open
            .iter()
            .filter(|(of, at, _)| (*of, *at) == (side, phase))
            .map(|(_, _, open)| open)
            .collect();
        let latencies: Latencies = rounds.iter().map(|one| one.latencies.clone()).collect();
        let (p50_ms, p999_ms) = (latencies.milliseconds(0.5), latencies.milliseconds(0.999));
        Some(OpenFigures {
            side: SIDES[side],
            phase,
            asked_per_second: median(rounds.iter().map(|one| one.asked_per_second))?,
            answered_per_second: median(rounds.iter().map(|one| one.answered_per_second))?,
            p50_ms,
            p99_ms: latencies.milliseconds(0.99),
            p999_ms,
            p999_over_p50: p999_ms / p50_ms,
            operations: latencies.len(),
            failures: rounds.iter().map(|one| one.failures).sum(),
        })
    }

    fn json(&self) -> Value {
        let mut closed = Vec::new();
        let mut open = Vec::new();
        let mut ratios = Vec::new();
        for phase in PHASES {
            let both: Vec<Figures> = (0..2)
                .filter_map(|side| self.figures(side, phase))
                .collect();
            if let [own, other] = &both[..] {
                ratios.push(json!({
                    "phase": phase,
                    "times_the_throughput": own.per_second / other.per_second,
                    "times_cheaper_cpu": other.cpu_us / own.cpu_us,
                }));
            }
            closed.extend(both);
            open.extend((0..2).filter_map(|side| self.open_figures(side, phase)));
        }
        json!({
            "connections": self.connections,
            "closed_loop": closed,
            "open_loop_at_half_of_the_best": open,
            "ratios": ratios,
        })
    }
}

impl fmt::Display for Run {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("{} connections", self.connections);
        let mut shown = table([&title, SIDES[0], SIDES[1], "kinfold is"]);
        let mut remarks = Vec::new();
        for phase in PHASES {
            let (Some(own), Some(other)) = (self.figures(0, phase), self.figures(1, phase)) else {
                continue;
            };
            let mut row = |what: &str, figures: [String; 2], ratio: String| {
                let [own, other] = figures;
                shown.add_row([format!("{phase}, {what}"), own, other, ratio]);
            };
            let both = |figure: fn(&Figures) -> String| [figure(&own), figure(&other)];
            row(
                "a second",
                both(|one| grouped(one.per_second)),
                format!("{:.1} × as fast", own.per_second / other.per_second),
            );
            row(
                "CPU of all nodes each",
                both(|one| format!("{} µs", grouped(one.cpu_us))),
                format!("{:.1} × cheaper", other.cpu_us / own.cpu_us),
            );
            row(
                "CPU put off each",
                both(|one| format!("{} µs", grouped(one.after_cpu_us))),
                String::new(),
            );
            row(
                "p50, p99, p99.9",
                both(|one| {
                    format!(
                        "{:.2}, {:.1}, {:.1} ms",
                        one.p50_ms, one.p99_ms, one.p999_ms
                    )
                }),
                format!("{:.1} × as quick at p99", other.p99_ms / own.p99_ms),
            );
            for one in [&own, &other] {
                if one.failures > 0 {
                    let share = one.failures as f64 / (one.operations + one.failures) as f64;
                    remarks.push(format!(
                        "{} refused {} of its {phase}s ({:.2} %), which count as none",
                        one.side,
                        one.failures,
                        share * 100.0
                    ));
                }
                if one.client_busy > BUSY {
                    remarks.push(format!(
                        "the client used {:.0} % of its cores in {}'s {phase}s: the store may be \
                         faster than this",
                        one.client_busy * 100.0,
                        one.side
                    ));
                }
            }
        }
        for phase in PHASES {
            let both = [0, 1].map(|side| self.open_figures(side, phase));
            let [Some(own), Some(other)] = both else {
                continue;
            };
            let texts = [&own, &other].map(|one| {
                let (p50, p999) = (one.p50_ms, one.p999_ms);
                let rate = grouped(one.asked_per_second);
                format!(
                    "{rate}/s: {p50:.2}, {p999:.1} ms; {:.1} ×",
                    one.p999_over_p50
                )
            });
            let [first, second] = texts;
            let what = format!("{phase}, open loop at half of its best: p50, p99.9; ratio");
            shown.add_row([what, first, second, String::new()]);
            for one in [&own, &other] {
                if one.failures > 0 {
                    remarks.push(format!(
                        "{} refused {} of its {phase}s in the open loop",
                        one.side, one.failures
                    ));
                }
            }
        }
        write!(to, "{}", align(shown))?;
        for remark in remarks {
            write!(to, "\n! {remark}")?;
        }
        Ok(())
    }
}

impl Report {
    /// Nothing yet.
    pub fn new(facts: Facts) -> Report {
        Report {
            facts,
            runs: Vec::new(),
            floors: Vec::new(),
        }
    }

    /// The floor: all its parts' medians, where it was measured.
    fn floor(&self) -> Option<Floor> {
        let of = |figure: fn(&Floor) -> f64| median(self.floors.iter().map(figure));
        Some(Floor {
            put_exchange_us: of(|one| one.put_exchange_us)?,
            get_exchange_us: of(|one| one.get_exchange_us)?,
            row_us: of(|one| one.row_us)?,
            scattered_row_us: of(|one| one.scattered_row_us)?,
            read_us: of(|one| one.read_us)?,
            message_us: of(|one| one.message_us)?,
        })
    }

    /// What put and get cost as multiples of the floor.
    pub fn against_the_floor(&self) -> String {
        let Some(floor) = self.floor() else {
            return "the floor was not measured".to_owned();
        };
        let mut shown = table(["this machine's floor", "put", "get", ""]);
        let us = |figure: f64| format!("{figure:.1} µs");
        shown.add_row([
            "HTTP exchange, bare hyper",
            &us(floor.put_exchange_us),
            &us(floor.get_exchange_us),
            "1 each",
        ]);
        shown.add_row([
            "SQLite row",
            &us(floor.row_us),
            &us(floor.read_us),
            "3 and 2",
        ]);
        shown.add_row([
            "the same with scattered keys",
            &us(floor.scattered_row_us),
            "",
            "not counted",
        ]);
        shown.add_row([
            "peer message, 8 a write",
            &us(floor.message_us),
            &us(floor.message_us),
            "2 and 1",
        ]);
        shown.add_row(["floor", &us(floor.put_us()), &us(floor.get_us()), ""]);
        for run in &self.runs {
            for (side, name) in SIDES.iter().enumerate() {
                let times = |phase, floor: f64| {
                    let figures = run.figures(side, phase);
                    figures.map_or(String::new(), |one| format!("{:.1} ×", one.cpu_us / floor))
                };
                shown.add_row([
                    &format!("{name}, {} connections", run.connections),
                    &times(Phase::Put, floor.put_us()),
                    &times(Phase::Get, floor.get_us()),
                    "",
                ]);
            }
        }
        align(shown).to_string()
    }

    /// What the run says of each goal: what, the figure, the goal, whether it is met.
    fn goals(&self) -> Vec<(String, f64, f64, bool)> {
        let mut goals = Vec::new();
        let floor = self.floor();
        for run in &self.runs {
            let many = run.connections;
            for (phase, goal) in CHEAPER {
                if let [Some(own), Some(other)] = [0, 1].map(|side| run.figures(side, phase)) {
                    let times = other.cpu_us / own.cpu_us;
                    let what = format!("{many} connections: {phase}s, times cheaper than Garage");
                    goals.push((what, times, goal, times >= goal));
                }
            }
            for (phase, goal) in FASTER {
                if let [Some(own), Some(other)] = [0, 1].map(|side| run.figures(side, phase)) {
                    let times = own.per_second / other.per_second;
                    let what = format!("{many} connections: {phase}s, times Garage's throughput");
                    goals.push((what, times, goal, times >= goal));
                }
            }
            for phase in [Phase::Put, Phase::Get] {
                if let (Some(own), Some(floor)) = (run.figures(0, phase), floor) {
                    let least = match phase {
                        Phase::Put => floor.put_us(),
                        Phase::Get | Phase::ReadModifyWrite => floor.get_us(),
                    };
                    let times = own.cpu_us / least;
                    let what = format!("{many} connections: {phase}s, times the floor's CPU");
                    goals.push((what, times, MOST_OF_FLOOR, times <= MOST_OF_FLOOR));
                }
                if let Some(open) = run.open_figures(0, phase) {
                    let times = open.p999_over_p50;
                    let what = format!("{many} connections: {phase}s, p99.9 over the median");
                    goals.push((what, times, MOST_OF_MEDIAN, times < MOST_OF_MEDIAN));
                }
            }
        }
        goals
    }

    /// The goals, met or not.
    pub fn verdict(&self) -> String {
        let mut shown = table(["kinfold's goals", "here", "goal", ""]);
        for (what, figure, goal, met) in self.goals() {
            let side = if what.contains("Garage") {
                "≥"
            } else {
                "≤"
            };
            shown.add_row([
                &what,
                &format!("{figure:.1}"),
                &format!("{side} {goal}"),
                &(if met { "met" } else { "not met" }).to_owned(),
            ]);
        }
        align(shown).to_string()
    }

    /// Everything, for scripts.
    pub fn json(&self) -> Value {
        let floor = self.floor().map(|floor| {
            json!({
                "put_us": floor.put_us(),
                "get_us": floor.get_us(),
                "parts": floor,
                "rounds": self.floors,
            })
        });
        let goals = self.goals().into_iter().map(|(what, figure, goal, met)| {
            json!({"what": what, "figure": figure, "goal": goal, "met": met})
        });
        json!({
            "facts": self.facts,
            "runs": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
            "floor": floor,
            "goals": goals.collect::<Vec<_>>(),
        })
    }
}

/// The middle one; between the two in the middle where there is none.
fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0)
}

/// What to add to a line about requests that were refused.
pub fn failures(many: usize, first: Option<&str>) -> String {
    match (many, first) {
        (0, _) => String::new(),
        (many, first) => format!("; {many} refused: {}", first.unwrap_or("no reason given")),
    }
}

/// A whole number with commas, or a small one with a digit after the point.
fn grouped(figure: f64) -> String {
    if figure < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table with four columns.
pub fn table(header: [&str; 4]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

/// Figures stand on the right.
fn align(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
