//! What programs took for the same work, as ratios beside goals.

use std::fmt;

use image_core::units::Bytes;

use super::{Cost, Goal, Measure, Role, Way};

/// What was measured in several rounds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these values; none if there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len() / 2)?;
        Some(Self { median, least: *values.first()?, most: *values.last()? })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

/// The costs of all ways of a case.
#[derive(Debug)]
pub struct Results {
    /// Of the case.
    pub title: String,
    /// What was measured, our own first.
    pub ways: Vec<Way>,
    /// Of each round the costs in the order of the ways.
    pub rounds: Vec<Vec<Cost>>,
}

impl Results {
    /// What our first way takes of what the one at `at` takes: round by round, and the median of these. None
    /// where that means nothing.
    pub fn ratio(&self, at: usize, measure: Measure) -> Option<f64> {
        self.ways.get(at).filter(|way| way.role != Role::Own)?;
        let of_round = |round: &Vec<Cost>| {
            let (own, other) = (round.first()?, round.get(at)?);
            Some(measure.of(own) / measure.of(other)).filter(|ratio| ratio.is_finite())
        };
        Some(Spread::of(self.rounds.iter().filter_map(of_round))?.median)
    }

    /// A Markdown table; goals stand beside what they are for, and what misses one is bold.
    pub fn table(&self) -> String {
        let mut text = "| | wall s | CPU s | memory | stored ".to_owned();
        for measure in Measure::ALL {
            text.push_str(&format!("| our {measure} "));
        }
        text.push_str("|\n|---|---|---|---|---|---|---|---|---|\n");
        for (at, way) in self.ways.iter().enumerate() {
            let spread = |measure: Measure| {
                let costs = self.costs(at).map(|cost| measure.of(cost));
                Spread::of(costs).map_or(String::new(), |spread| spread.to_string())
            };
            let stored = self.costs(at).map(|cost| cost.stored).max().unwrap_or_default();
            let mut cells = vec![way.name.replace('|', "\\|")];
            cells.extend([Measure::Wall, Measure::Cpu].map(spread));
            cells.push(self.memory(at));
            cells.push(if stored.is_zero() { String::new() } else { stored.to_string() });
            cells.extend(Measure::ALL.map(|measure| self.ratio_beside_goal(at, measure)));
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        text
    }

    fn memory(&self, at: usize) -> String {
        let memory = self.most_memory(at);
        let goal = self.goals(at).find_map(|goal| match goal {
            Goal::Memory(most) => Some(most),
            Goal::Part(..) => None,
        });
        beside(memory.to_string(), goal.map(|most| (most.to_string(), memory > most)))
    }

    fn ratio_beside_goal(&self, at: usize, measure: Measure) -> String {
        let Some(ratio) = self.ratio(at, measure) else { return String::new() };
        let goal = self.goals(at).find_map(|goal| match goal {
            Goal::Part(of, most) if of == measure => Some(most),
            _ => None,
        });
        beside(figure(ratio), goal.map(|most| (figure(most), ratio > most)))
    }

    /// The goals that were missed, a line each.
    pub fn missed(&self) -> Vec<String> {
        let of_way = |(at, way): (usize, &Way)| {
            let line = |goal| match goal {
                Goal::Part(measure, most) => {
                    let ratio = self.ratio(at, measure).filter(|ratio| *ratio > most)?;
                    let name = way.name;
                    Some(format!(
                        "{}: {ratio:.3} of the {measure} of {name}, not {most}",
                        self.title
                    ))
                }
                Goal::Memory(most) => {
                    let memory = self.most_memory(at);
                    let line =
                        || format!("{}: {} takes {memory}, not {most}", self.title, way.name);
                    (memory > most).then(line)
                }
            };
            self.goals(at).filter_map(line).collect::<Vec<_>>()
        };
        self.ways.iter().enumerate().flat_map(of_way).collect()
    }

    fn goals(&self, at: usize) -> impl Iterator<Item = Goal> {
        self.ways.get(at).map_or(&[][..], |way| way.goals).iter().copied()
    }

    fn costs(&self, at: usize) -> impl Iterator<Item = &Cost> {
        self.rounds.iter().filter_map(move |round| round.get(at))
    }

    fn most_memory(&self, at: usize) -> Bytes {
        self.costs(at).map(|cost| cost.memory).max().unwrap_or_default()
    }
}

/// Small ratios keep their meaning.
pub(super) fn figure(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// What was measured, and the goal with whether it is missed.
fn beside(measured: String, goal: Option<(String, bool)>) -> String {
    match goal {
        None => measured,
        Some((goal, false)) => format!("{measured} (goal {goal})"),
        Some((goal, true)) => format!("**{measured}** (goal {goal})"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const WAYS: [Way; 4] = [
        Way::own("ours", "", &[Goal::Memory(Bytes::mib(48))]),
        Way::own("ours, slowly", "", &[]),
        Way::peer("a | b", "", &[Goal::Part(Measure::Wall, 0.5), Goal::Part(Measure::Stored, 0.9)]),
        Way::floor("floor", "", &[Goal::Part(Measure::Cpu, 1.2)]),
    ];

    fn cost(wall: f64, cpu: f64, memory: u64, stored: u64) -> Cost {
        Cost { wall, cpu, memory: Bytes::mib(memory), stored: Bytes::mib(stored) }
    }

    pub fn results() -> Results {
        let round = |slow: f64| {
            vec![
                cost(2.0 * slow, 4.0, 60, 95),
                cost(3.0, 4.0, 1, 95),
                cost(5.0, 50.0, 30, 100),
                cost(1.0, 2.0, 1, 0),
            ]
        };
        let rounds = [1.0, 3.0, 1.1].map(round).to_vec();
        Results { title: "A case".to_owned(), ways: WAYS.to_vec(), rounds }
    }

    #[test]
    fn ratios_are_those_of_our_first_way_round_by_round() {
        let results = results();
        assert_eq!(results.ratio(2, Measure::Wall), Some(2.0 * 1.1 / 5.0));
        assert_eq!(results.ratio(2, Measure::Memory), Some(2.0));
        assert_eq!(results.ratio(1, Measure::Wall), None, "ours beside ours");
        assert_eq!(results.ratio(3, Measure::Stored), None, "nothing was stored");
        assert_eq!(results.ratio(4, Measure::Wall), None);
    }

    #[test]
    fn a_table_has_goals_beside_ratios() {
        let table = results().table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 6, "{table}");
        assert!(lines.iter().all(|line| line.replace("\\|", "").matches('|').count() == 10));
        assert!(
            lines[2].contains(
                "| 2.20 (2.00 to 6.00) | 4.00 (4.00 to 4.00) | **60 MiB** (goal 48 MiB) |"
            )
        );
        assert!(lines[3].ends_with("|  |  |  |  |"), "{table}");
        assert!(lines[4].starts_with("| a \\| b |"), "{table}");
        assert!(lines[4].ends_with("| 0.44 (goal 0.50) | 0.080 | **0.95** (goal 0.90) | 2.00 |"));
        assert!(lines[5].contains("| **2.00** (goal 1.20) |  |"), "{table}");
    }

    #[test]
    fn missed_goals_are_named() {
        let missed = results().missed();
        assert_eq!(
            missed,
            [
                "A case: ours takes 60 MiB, not 48 MiB",
                "A case: 0.950 of the bytes of a | b, not 0.9",
                "A case: 2.000 of the CPU of floor, not 1.2",
            ]
        );
    }
}
