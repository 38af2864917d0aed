//! Named fleets: the hardware mixes that the simulator, the emulator, the demo and the benchmarks share.
//!
//! Figures about routing mean nothing without the fleet that they were measured on, so the fleets are constants here
//! and not settings of each experiment. The measured ones are fits to `perf_model.csv` of the Splitwise simulator
//! (Patel et al., ISCA 2024): Llama2-70B in 16 bits, errors of the fits 2 % (decode) and 5 to 13 % (prefill).

use super::random;
use super::{BatchSpec, PlainSpec};

/// A fast model server.
pub const FAST: BatchSpec = BatchSpec::new(0.008, 0.000_06, 24_000.0, 256);
/// A middle one.
pub const MIDDLE: BatchSpec = BatchSpec::new(0.013, 0.000_12, 10_000.0, 128);
/// A slow one.
pub const SLOW: BatchSpec = BatchSpec::new(0.055, 0.000_8, 2_500.0, 32);

/// Llama2-70B on 8 H100.
pub const H100_8: BatchSpec = measured(29.6, 0.184, 2.2e-4, 55.8, -24.9, 0.0923);
/// Llama2-70B on 8 A100.
pub const A100_8: BatchSpec = measured(43.7, 0.162, 4.0e-4, 65.8, -17.1, 0.180);
/// Llama2-70B on 4 A100.
pub const A100_4: BatchSpec = measured(43.1, 0.140, 4.6e-4, 75.6, -32.5, 0.278);
/// Llama2-70B on 4 H100.
pub const H100_4: BatchSpec = measured(28.8, 0.265, 1.0e-4, 49.5, 1.0, 0.105);

/// `decode = t0 + t1 b + context ctx`, `prefill = max(min, offset + per_token T)`, everything in milliseconds.
const fn measured(t0: f64, t1: f64, context: f64, min: f64, offset: f64, per_token: f64) -> BatchSpec {
    BatchSpec {
        context_s: context / 1e3,
        prefill_min_s: min / 1e3,
        prefill_offset_s: offset / 1e3,
        ..BatchSpec::new(t0 / 1e3, t1 / 1e3, 1e3 / per_token, 64)
    }
}

/// A server that answers at constant speed up to its batch limit and then queues.
const fn knee(t0_s: f64, slots: u32) -> BatchSpec {
    BatchSpec::new(t0_s, 0.000_005, 20_000.0, slots)
}

/// What kind of server a node is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ServerSpec {
    /// Continuous batching.
    Batch(BatchSpec),
    /// Workers and a queue.
    Plain(PlainSpec),
}

impl ServerSpec {
    /// Requests per second under the study's workload when it is always busy.
    pub fn capacity_rps(&self) -> f64 {
        match self {
            ServerSpec::Batch(spec) => spec.capacity_rps(random::PROMPT_TOKENS.mean, random::OUTPUT_TOKENS.mean),
            ServerSpec::Plain(spec) => spec.capacity_rps(random::PLAIN_WORK_S.mean),
        }
    }

    /// The same server, `factor` times faster in everything.
    #[must_use]
    pub fn faster(self, factor: f64) -> ServerSpec {
        match self {
            ServerSpec::Batch(spec) => ServerSpec::Batch(spec.faster(factor)),
            ServerSpec::Plain(spec) => ServerSpec::Plain(spec.faster(factor)),
        }
    }

    /// The same server with at most that many slots; workers of a plain server stay.
    #[must_use]
    pub fn with_slots_at_most(self, slots: u32) -> ServerSpec {
        match self {
            ServerSpec::Batch(spec) => ServerSpec::Batch(spec.with_slots_at_most(slots)),
            ServerSpec::Plain(_) => self,
        }
    }
}

/// A node of a simulated or emulated fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct SimNode {
    /// Class and number, such as `slow-3`; unique in the fleet.
    pub name: String,
    /// What it is.
    pub server: ServerSpec,
}

/// Nodes that serve together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimFleet {
    /// In the order in which a balancer is told of them.
    pub nodes: Vec<SimNode>,
}

/// The names that [`SimFleet::named`] knows.
pub const NAMES: &[&str] = &["study", "middle", "knee", "plain", "plain-equal", "measured"];

impl SimFleet {
    /// One of [`NAMES`]: `study` (2 fast, 2 middle, 4 slow), `middle` (8 equal ones), `knee` (flat up to a batch
    /// limit), `plain` (speeds 1, 1, 1, 1, 2, 2, 4, 4), `plain-equal` (8 of speed 1), `measured` (2 of 8 H100, 2 of 8
    /// A100, 4 of 4 A100, 64 slots).
    pub fn named(name: &str) -> Option<SimFleet> {
        let batch = ServerSpec::Batch;
        let plain = |speed: f64| ServerSpec::Plain(PlainSpec { workers: 4, speed });
        let classes: Vec<(&str, usize, ServerSpec)> = match name {
            "study" => vec![("fast", 2, batch(FAST)), ("middle", 2, batch(MIDDLE)), ("slow", 4, batch(SLOW))],
            "middle" => vec![("middle", 8, batch(MIDDLE))],
            "knee" => vec![
                ("knee16", 3, batch(knee(0.020, 16))),
                ("knee32", 2, batch(knee(0.020, 32))),
                ("knee64", 1, batch(knee(0.020, 64))),
                ("knee64-late", 2, batch(knee(0.030, 64))),
            ],
            "plain" => vec![("speed1", 4, plain(1.0)), ("speed2", 2, plain(2.0)), ("speed4", 2, plain(4.0))],
            "plain-equal" => vec![("speed1", 8, plain(1.0))],
            "measured" => {
                vec![("h100x8", 2, batch(H100_8)), ("a100x8", 2, batch(A100_8)), ("a100x4", 4, batch(A100_4))]
            }
            _ => return None,
        };
        let node = |class: &str, number: usize, server| SimNode { name: format!("{class}-{number}"), server };
        let of_class = |(class, count, server)| (1..=count).map(move |number| node(class, number, server));
        Some(SimFleet { nodes: classes.into_iter().flat_map(of_class).collect() })
    }

    /// Requests per second of all nodes under the study's workload.
    pub fn capacity_rps(&self) -> f64 {
        self.nodes.iter().map(|node| node.server.capacity_rps()).sum()
    }

    /// The same fleet, `factor` times faster in everything.
    #[must_use]
    pub fn faster(self, factor: f64) -> SimFleet {
        self.map(|server| server.faster(factor))
    }

    /// The same fleet with at most that many slots a node.
    #[must_use]
    pub fn with_slots_at_most(self, slots: u32) -> SimFleet {
        self.map(|server| server.with_slots_at_most(slots))
    }

    fn map(self, change: impl Fn(ServerSpec) -> ServerSpec) -> SimFleet {
        let changed = |node: SimNode| SimNode { server: change(node.server), ..node };
        SimFleet { nodes: self.nodes.into_iter().map(changed).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 1e-9, "{value} is not {expected}");
    }

    #[test]
    fn every_named_fleet_has_eight_nodes_of_unique_names() {
        for name in NAMES {
            let fleet = SimFleet::named(name).expect("named");
            let mut names: Vec<&str> = fleet.nodes.iter().map(|node| node.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), 8, "{name}");
        }
        assert_eq!(SimFleet::named("none"), None);
    }

    #[test]
    fn capacities_follow_the_formula() {
        // b / (o (t0 + t1 b) + b p / rate), by hand.
        near(ServerSpec::Batch(FAST).capacity_rps(), 256.0 / (210.0 * 0.02336 + 256.0 * 1_100.0 / 24_000.0));
        near(ServerSpec::Batch(SLOW).capacity_rps(), 32.0 / (210.0 * 0.0806 + 32.0 * 0.44));
        near(SimFleet::named("plain").expect("named").capacity_rps(), 40.0 * 16.0);
        // 29.6 + 0.184 * 64 + 2.2e-4 * 64 * 1205 = 58.34 ms a step; prefill(1100) = 76.63 ms.
        let h100 = 64.0 / (210.0 * 0.0583424 + 64.0 * (-0.0249 + 1_100.0 * 0.0923e-3));
        near(ServerSpec::Batch(H100_8).capacity_rps(), h100);
    }

    #[test]
    fn a_faster_fleet_has_the_capacity_times_the_factor() {
        for name in NAMES {
            let fleet = SimFleet::named(name).expect("named");
            near(fleet.clone().faster(10.0).capacity_rps(), fleet.capacity_rps() * 10.0);
        }
    }

    #[test]
    fn capped_slots_never_raise_the_limit_of_a_small_node() {
        let fleet = SimFleet::named("study").expect("named").with_slots_at_most(64);
        let slots = |node: &SimNode| if let ServerSpec::Batch(spec) = node.server { spec.slots } else { 0 };
        assert_eq!(fleet.nodes.iter().map(slots).collect::<Vec<_>>(), [64, 64, 64, 64, 32, 32, 32, 32]);
    }
}
