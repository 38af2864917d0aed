//! Every series there is: names, help texts, buckets, and how a handle to one is made.
//!
//! The exporter forgets series only by idleness, which would also forget those of a node that is merely quiet. So the series of a node live in a [`Registry`] of their own: it goes with the
//! node, a fleet with churn does not grow, and a removed node is gone from the next scrape. `merge` makes one valid
//! exposition of the parts. Nothing is installed globally, so that many instances live in one process.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

pub(super) const REQUESTS: &str = "bellwether_requests_total";
pub(super) const ATTEMPTS: &str = "bellwether_attempts_total";
pub(super) const REQUEST_SECONDS: &str = "bellwether_request_seconds";
pub(super) const TTFB_SECONDS: &str = "bellwether_ttfb_seconds";
pub(super) const IN_FLIGHT: &str = "bellwether_in_flight";
pub(super) const WAITING: &str = "bellwether_waiting";
pub(super) const NODE_CONNECTIONS: &str = "bellwether_node_connections";
pub(super) const NODE_UP: &str = "bellwether_node_up";
pub(super) const NODE_STATE: &str = "bellwether_node_state";
pub(super) const NODE_WEIGHT: &str = "bellwether_node_weight";
pub(super) const NODE_LIMIT: &str = "bellwether_node_limit";
pub(super) const NODE_TOKENS: &str = "bellwether_node_tokens_in_flight";
pub(super) const DECISIONS: &str = "bellwether_decisions_total";
pub(super) const POLICY_ACTIVE: &str = "bellwether_policy_active";
pub(super) const POLICY_SWITCHES: &str = "bellwether_policy_switches_total";
pub(super) const RETRIES: &str = "bellwether_retries_total";
pub(super) const HEDGES: &str = "bellwether_hedges_total";
pub(super) const REJECTED: &str = "bellwether_rejected_total";
pub(super) const QUEUE_LENGTH: &str = "bellwether_queue_length";
pub(super) const QUEUE_BYTES: &str = "bellwether_queue_bytes";
pub(super) const QUEUE_WAIT: &str = "bellwether_queue_wait_seconds";
pub(super) const REFUSED: &str = "bellwether_refused_total";
pub(super) const CONNECTIONS: &str = "bellwether_connections";
pub(super) const BUILD_INFO: &str = "bellwether_build_info";
pub(super) const START_TIME: &str = "bellwether_start_time_seconds";
pub(super) const CONFIG_RELOADS: &str = "bellwether_config_reloads_total";
pub(super) const HEALTH_CHANGES: &str = "bellwether_health_changes_total";
pub(super) const EJECTIONS: &str = "bellwether_ejections_total";
pub(super) const OUTPUT_TOKENS: &str = "bellwether_output_tokens_total";
pub(super) const PROMPT_TOKENS: &str = "bellwether_prompt_tokens_total";
pub(super) const PREFIX_TOKENS: &str = "bellwether_prefix_tokens_total";
pub(super) const PREFIX_TOLD_TOKENS: &str = "bellwether_prefix_told_tokens_total";
pub(super) const PREFIX_ENTRIES: &str = "bellwether_prefix_entries";
pub(super) const PREFIX_BYTES: &str = "bellwether_prefix_bytes";
pub(super) const PREFIX_BYTES_MAX: &str = "bellwether_prefix_bytes_max";
pub(super) const PREFIX_EVICTIONS: &str = "bellwether_prefix_evictions_total";
pub(super) const PREFIX_PASSED_BY: &str = "bellwether_prefix_passed_by_total";
pub(super) const LOG_LINES_DROPPED: &str = "bellwether_log_lines_dropped_total";
pub(super) const FIT_SECONDS: &str = "bellwether_fit_seconds";
pub(super) const PREDICTION_ERROR: &str = "bellwether_prediction_error_ratio";
pub(super) const PREDICTED_SECONDS: &str = "bellwether_predicted_seconds";
pub(super) const MODEL_SPEED: &str = "bellwether_model_speed_factor";
pub(super) const MODEL_SLOPE: &str = "bellwether_model_slope";
pub(super) const MODEL_SAMPLES: &str = "bellwether_model_samples";
pub(super) const MODEL_FITS: &str = "bellwether_model_fits_total";
pub(super) const MODEL_ERROR: &str = "bellwether_model_error";
pub(super) const MODEL_AGE: &str = "bellwether_model_age_seconds";
pub(super) const MODEL_VERSION: &str = "bellwether_model_version";
pub(super) const MODEL_SAVES: &str = "bellwether_model_saves_total";
pub(super) const FALLBACK_ACTIVE: &str = "bellwether_fallback_active";
pub(super) const NODE_CAPACITY: &str = "bellwether_node_capacity_rps";
pub(super) const NODE_CAPACITY_BOUND: &str = "bellwether_node_capacity_is_lower_bound";
pub(super) const NODE_SHARE: &str = "bellwether_node_share";
pub(super) const NODE_FAIR_SHARE: &str = "bellwether_node_fair_share";
pub(super) const FLEET_UTILIZATION: &str = "bellwether_fleet_utilization";
pub(super) const EXPLORATIONS: &str = "bellwether_explorations_total";
pub(super) const LABELS: &str = "bellwether_model_labels_total";
pub(super) const SAMPLES_UNFIT: &str = "bellwether_samples_unfit_total";
pub(super) const SAMPLES_DROPPED: &str = "bellwether_samples_dropped_total";
pub(super) const SHADOW_DECISIONS: &str = "bellwether_shadow_decisions_total";
pub(super) const SHADOW_RESPONSE: &str = "bellwether_shadow_response_seconds_total";
pub(super) const SHADOW_ADDED: &str = "bellwether_shadow_added_seconds_total";
pub(super) const TRAINER_UP: &str = "bellwether_trainer_up";
pub(super) const TRAINER_RESTARTS: &str = "bellwether_trainer_restarts_total";
pub(super) const RECORDS_LOST: &str = "bellwether_records_lost_total";
pub(super) const SPANS: &str = "bellwether_trace_spans_total";
pub(super) const RESIDENT_BYTES: &str = "process_resident_memory_bytes";
pub(super) const OPEN_FDS: &str = "process_open_fds";
pub(super) const MAX_FDS: &str = "process_max_fds";
pub(super) const CPU_SECONDS: &str = "process_cpu_seconds_total";

/// What each series tells.
pub(super) const HELP: &[(&str, &str)] = &[
    (REQUESTS, "Requests answered, by the node whose response the client got (none: the proxy itself) and status."),
    (ATTEMPTS, "Attempts ended, by how they ended."),
    (REQUEST_SECONDS, "Time from the start of a completed attempt to the end of its response."),
    (TTFB_SECONDS, "Time from the start of a completed attempt to the first byte of the response body."),
    (IN_FLIGHT, "Attempts in flight."),
    (WAITING, "Attempts in flight that have no first byte yet."),
    (NODE_CONNECTIONS, "Connections open to the node, busy and idle."),
    (NODE_UP, "Whether checks and connect errors think that the node lives."),
    (NODE_STATE, "1 for the state that the node is in, 0 for the others."),
    (NODE_WEIGHT, "The node's weight as set by the operator."),
    (NODE_LIMIT, "The most attempts in flight that the node may have now."),
    (NODE_TOKENS, "Expected tokens in flight, of nodes that have a limit of them."),
    (DECISIONS, "Decisions for a node, by the policy that made them."),
    (POLICY_ACTIVE, "1 for the policy that decides now, 0 for the others."),
    (POLICY_SWITCHES, "Switches of the policy while running."),
    (HEDGES, "Second attempts beside late ones, by what came of them: won, lost, failed (both) or left (the client)."),
    (RETRIES, "Attempts that were followed by another one for the same request, by what went wrong."),
    (REJECTED, "Requests refused because there was no node for them."),
    (QUEUE_LENGTH, "Requests that wait for a node, by class."),
    (QUEUE_BYTES, "Bytes kept of the bodies of requests that wait."),
    (QUEUE_WAIT, "Time that requests waited that got a node."),
    (REFUSED, "Requests and connections refused before a decision."),
    (CONNECTIONS, "Client connections open."),
    (BUILD_INFO, "1; the version is the label."),
    (START_TIME, "When this instance started, in seconds since 1970."),
    (CONFIG_RELOADS, "Reloads of the configuration."),
    (HEALTH_CHANGES, "Times that the node rose or fell."),
    (EJECTIONS, "Times that the node was ejected, by why."),
    (OUTPUT_TOKENS, "Output tokens that the node's responses told of."),
    (PROMPT_TOKENS, "Prompt tokens that the node's responses told of."),
    (
        PREFIX_TOKENS,
        "Prompt tokens of completed attempts: all of them, those that the node was sent before, and those of them that it was expected to be spared.",
    ),
    (
        PREFIX_TOLD_TOKENS,
        "Prompt tokens of responses that told their cached tokens: all, those expected to be cached, those that were, and by how many the two differed where a prompt matched.",
    ),
    (PREFIX_ENTRIES, "Blocks of prompts that are remembered."),
    (PREFIX_BYTES, "Bytes that the memory of prompts uses."),
    (PREFIX_BYTES_MAX, "Bytes that the memory of prompts may use."),
    (PREFIX_EVICTIONS, "Blocks of prompts that were forgotten for others."),
    (PREFIX_PASSED_BY, "Blocks that a request passed by because another was at their part of the memory."),
    (
        SPANS,
        "Spans of traces: sent to the collector, dropped as the queue was full, lost as the collector did not take them.",
    ),
    (LOG_LINES_DROPPED, "Log lines dropped because whoever reads the log was too slow."),
    (FIT_SECONDS, "Time that a refit of the model took."),
    (
        PREDICTION_ERROR,
        "Observed over predicted response time of completed attempts, with the true output length put in; 1 is exact.",
    ),
    (PREDICTED_SECONDS, "Response time predicted for the typical request on the node, at its load now."),
    (MODEL_SPEED, "Response times of the node relative to the fleet's, load aside; below 1 is faster."),
    (
        MODEL_SLOPE,
        "Seconds that one more typical request in flight adds at the node's load now: to a response, to a first byte, or to the gap between two events.",
    ),
    (MODEL_SAMPLES, "Decayed number of answers that what is known of the node rests on."),
    (MODEL_FITS, "Fits, one per target and half second, by what became of them."),
    (
        MODEL_ERROR,
        "Decayed mean of |ln(predicted / observed)| over completed attempts, of the model and of the moving average that it must beat.",
    ),
    (MODEL_AGE, "Time since the model in force was published."),
    (MODEL_VERSION, "Version of the model in force; 0 for none."),
    (MODEL_SAVES, "Saves of the learned state to disk."),
    (
        FALLBACK_ACTIVE,
        "1 for the reason why the fallback routes in place of the model, 0 for the others; all 0 while the model is trusted.",
    ),
    (NODE_CAPACITY, "Requests per second of the present mix that the node can answer, by its learned curve."),
    (NODE_CAPACITY_BOUND, "1 while the node was never busy enough to know more than that it can do at least that."),
    (NODE_SHARE, "The node's part of the attempts that ended of late."),
    (NODE_FAIR_SHARE, "The node's part of the capacity of the nodes that get work; not a number for the others."),
    (
        FLEET_UTILIZATION,
        "Attempts per second of late over the capacity of the nodes that get work; too high while capacities are lower bounds.",
    ),
    (EXPLORATIONS, "Decisions for a node that was not the best, to learn of it."),
    (LABELS, "Samples that the model learned from."),
    (SAMPLES_UNFIT, "Samples that say nothing about response times, by why."),
    (SAMPLES_DROPPED, "Samples dropped because the trainer was behind."),
    (
        SHADOW_DECISIONS,
        "Decisions of another policy that were compared, a sixteenth of all, by whether the policy adaptive would have decided alike.",
    ),
    (
        SHADOW_RESPONSE,
        "Response times predicted for compared decisions: on the node that got the request, and on the one that adaptive would have chosen.",
    ),
    (
        SHADOW_ADDED,
        "What compared decisions were predicted to add to the response times of requests in flight, on the same two nodes.",
    ),
    (TRAINER_UP, "Whether somebody learns."),
    (TRAINER_RESTARTS, "Times that the trainer panicked or stalled and was replaced."),
    (RECORDS_LOST, "Samples that could not be recorded: the disk was full or too slow."),
    (RESIDENT_BYTES, "Resident memory of the process."),
    (OPEN_FDS, "Open file descriptors of the process."),
    (MAX_FDS, "How many file descriptors the process may have open."),
    (CPU_SECONDS, "User and system processor time of the process."),
];

const METADATA: Metadata<'static> = Metadata::new("bellwether", Level::INFO, None);

/// A set of series that lives and goes as a whole. Labels in `common` are on each of them.
pub(super) struct Registry {
    recorder: PrometheusRecorder,
    common: Vec<Label>,
}

impl Registry {
    /// An empty registry whose series all carry `node` as a label, if given.
    pub(super) fn new(node: Option<&str>) -> Registry {
        // The exporter takes a pair of backslashes for one that is escaped already, and swallows single ones.
        let common = node.map(|node| Label::new("node", node.replace('\\', "\\\\"))).into_iter().collect();
        Registry { recorder: PrometheusBuilder::new().build_recorder(), common }
    }

    fn key<const N: usize>(&self, name: &'static str, labels: [(&'static str, String); N]) -> Key {
        let own = labels.map(|(key, value)| Label::new(key, value));
        Key::from_parts(name, self.common.iter().cloned().chain(own).collect::<Vec<_>>())
    }

    pub(super) fn counter(&self, name: &'static str) -> Counter {
        self.recorder.register_counter(&self.key(name, []), &METADATA)
    }

    pub(super) fn counter_with(&self, name: &'static str, label: &'static str, value: impl Into<String>) -> Counter {
        self.counter_with_all(name, [(label, value.into())])
    }

    pub(super) fn counter_with_all<const N: usize>(
        &self,
        name: &'static str,
        labels: [(&'static str, String); N],
    ) -> Counter {
        self.recorder.register_counter(&self.key(name, labels), &METADATA)
    }

    pub(super) fn gauge(&self, name: &'static str) -> Gauge {
        self.recorder.register_gauge(&self.key(name, []), &METADATA)
    }

    pub(super) fn gauge_with(&self, name: &'static str, label: &'static str, value: impl Into<String>) -> Gauge {
        self.recorder.register_gauge(&self.key(name, [(label, value.into())]), &METADATA)
    }

    pub(super) fn render(&self) -> String {
        self.recorder.handle().render()
    }
}

/// One exposition of several: each family once, with its help and type before its samples, sorted by name.
pub(super) fn merge(parts: &[String]) -> String {
    let mut families: BTreeMap<&str, (&str, Vec<&str>)> = BTreeMap::new();
    for part in parts {
        let mut family = None;
        for line in part.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                family = Some(families.entry(name).or_insert((kind, Vec::new())));
            } else if let Some((_, samples)) = &mut family
                && !line.is_empty()
                && !line.starts_with('#')
            {
                samples.push(line);
            }
        }
    }
    let mut text = String::with_capacity(parts.iter().map(String::len).sum::<usize>() + 128 * HELP.len());
    for (name, (kind, samples)) in &mut families {
        if *kind != "histogram" {
            samples.sort_unstable();
        }
        let help = HELP.iter().find_map(|(known, help)| (known == name).then_some(*help)).unwrap_or_default();
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for sample in samples {
            text.push_str(sample);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::histogram::{Histogram, LONG};

    #[test]
    fn a_family_in_two_parts_has_one_head() {
        let parts = ["a", "b"].map(|node| {
            let registry = Registry::new(Some(node));
            registry.counter(ATTEMPTS).increment(3);
            let histogram = Histogram::new(TTFB_SECONDS, LONG);
            histogram.record(Duration::from_millis(2));
            let mut text = registry.render();
            histogram.render(Some(node), &mut text);
            text
        });
        let text = merge(&parts);
        assert_eq!(text.matches("# TYPE bellwether_attempts_total counter").count(), 1, "{text}");
        assert_eq!(text.matches("# TYPE bellwether_ttfb_seconds histogram").count(), 1, "{text}");
        assert!(text.contains("bellwether_attempts_total{node=\"a\"} 3\nbellwether_attempts_total{node=\"b\"} 3\n"));
        assert!(text.contains("bellwether_ttfb_seconds_bucket{node=\"b\",le=\"0.0025\"} 1"), "{text}");
        assert!(text.contains("bellwether_ttfb_seconds_bucket{node=\"b\",le=\"600\"} 1"), "{text}");
    }
}
