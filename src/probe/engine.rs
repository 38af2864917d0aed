//! What a model server says of its own load, in its metrics.
//!
//! A proxy knows what it has sent; only the server knows what else came and what waits within it. Every engine has other
//! names for the same three figures, so there is a table of the engines whose names are documented, and whatever
//! is not in it is not guessed at: a gauge that merely sounds like a queue would send an operator the wrong way. Nothing is
//! routed by this, as it is seconds old when it comes: it explains, to a person, what routing cannot see.

use std::collections::BTreeMap;

use super::exposition::{Series, series};

/// Series of one figure that are told apart, which is engines times ranks in one process; what comes after is left out.
const SERIES_MAX: usize = 1024;

/// Ranks of one engine work on the same requests and say the same; each replica (`engine`, `dp_rank`) has its own.
const RANKS: [&str; 4] = ["tp_rank", "pp_rank", "moe_ep_rank", "pid"];

/// What a model server does now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineLoad {
    /// What kind of server it is.
    pub engine: &'static str,
    /// Requests that it computes.
    pub running: Option<u64>,
    /// Requests that wait within it.
    pub waiting: Option<u64>,
    /// Share of its KV cache that requests use, 0 to 1; of several caches the fullest.
    pub kv_used: Option<f64>,
}

/// The names of one engine's gauges, with the label that chooses among the series of that name, if one does.
struct Names {
    engine: &'static str,
    running: &'static [Gauge],
    waiting: &'static [Gauge],
    kv_used: &'static [Gauge],
}

struct Gauge {
    name: &'static str,
    only: Option<(&'static str, &'static str)>,
}

const fn gauge(name: &'static str) -> Gauge {
    Gauge { name, only: None }
}

const fn gauge_where(name: &'static str, label: &'static str, value: &'static str) -> Gauge {
    Gauge { name, only: Some((label, value)) }
}

/// As documented by each project. Where a figure has two names the older versions use the second. That of
/// llama.cpp for its cache is not read: it counts what idle slots keep, and a full one is well.
const ENGINES: [Names; 6] = [
    Names {
        engine: "vLLM",
        running: &[gauge("vllm:num_requests_running")],
        waiting: &[gauge("vllm:num_requests_waiting")],
        kv_used: &[gauge("vllm:kv_cache_usage_perc"), gauge("vllm:gpu_cache_usage_perc")],
    },
    Names {
        engine: "SGLang",
        running: &[gauge("sglang:num_running_reqs")],
        waiting: &[gauge("sglang:num_queue_reqs")],
        kv_used: &[gauge("sglang:token_usage")],
    },
    Names {
        engine: "TGI",
        running: &[gauge("tgi_batch_current_size")],
        waiting: &[gauge("tgi_queue_size")],
        kv_used: &[],
    },
    Names {
        engine: "llama.cpp",
        running: &[gauge("llamacpp:requests_processing")],
        waiting: &[gauge("llamacpp:requests_deferred")],
        kv_used: &[],
    },
    Names {
        engine: "LMDeploy",
        running: &[gauge("lmdeploy:num_requests_running")],
        waiting: &[gauge("lmdeploy:num_requests_waiting")],
        kv_used: &[gauge("lmdeploy:gpu_cache_usage_perc")],
    },
    Names {
        engine: "Triton",
        running: &[gauge_where("nv_trt_llm_request_metrics", "request_type", "scheduled")],
        waiting: &[
            gauge_where("nv_trt_llm_request_metrics", "request_type", "waiting"),
            gauge("nv_inference_pending_request_count"),
        ],
        kv_used: &[gauge_where("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction")],
    },
];

impl EngineLoad {
    /// What `metrics` say; `None` if they are not those of an engine that is known here.
    pub fn of(metrics: &str) -> Option<EngineLoad> {
        ENGINES.iter().find_map(|names| {
            // Counts are whole numbers; what is not one, or too many to be true, is no count.
            let count = |sum: f64| Some(sum.round() as u64).filter(|_| (0.0..1e9).contains(&sum));
            let [running, waiting] = [names.running, names.waiting]
                .map(|gauges| reading(metrics, gauges).and_then(|read| count(read.sum())));
            let kv_used = reading(metrics, names.kv_used).and_then(|read| read.most());
            let load = EngineLoad {
                engine: names.engine,
                running,
                waiting,
                kv_used: kv_used.filter(|used| (0.0..=1.0).contains(used)),
            };
            (running.is_some() || waiting.is_some()).then_some(load)
        })
    }

    /// Requests within it.
    pub fn requests(&self) -> u64 {
        self.running.unwrap_or_default() + self.waiting.unwrap_or_default()
    }
}

/// The values of one gauge, by the labels that tell replicas and models apart.
#[derive(Default)]
struct Reading(BTreeMap<String, f64>);

impl Reading {
    fn sum(&self) -> f64 {
        self.0.values().sum()
    }

    fn most(&self) -> Option<f64> {
        self.0.values().copied().reduce(f64::max)
    }
}

/// The first of `gauges` that there is.
fn reading(metrics: &str, gauges: &[Gauge]) -> Option<Reading> {
    gauges.iter().find_map(|gauge| {
        let mut read = Reading::default();
        for one in series(metrics).filter(|one| one.name == gauge.name && one.value.is_finite()) {
            let chosen = gauge.only.is_none_or(|(label, value)| one.labels.get(label).is_some_and(|has| has == value));
            // Beside the whole, some say how much of it is of each priority.
            let part = one.labels.get("priority").is_some_and(|priority| !priority.is_empty());
            if !chosen || part {
                continue;
            }
            let replica = replica(&one);
            if read.0.len() < SERIES_MAX || read.0.contains_key(&replica) {
                let most = read.0.entry(replica).or_insert(one.value);
                *most = most.max(one.value);
            }
        }
        (!read.0.is_empty()).then_some(read)
    })
}

/// The labels without those of ranks.
fn replica(one: &Series<'_>) -> String {
    let mut labels: Vec<_> = one.labels.iter().filter(|(name, _)| !RANKS.contains(name)).collect();
    labels.sort_unstable();
    labels.iter().map(|(name, value)| format!("{name}={value:?},")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = (&'static str, Option<u64>, Option<u64>, Option<f64>);

    fn load(metrics: &str) -> Option<Told> {
        EngineLoad::of(metrics).map(|load| (load.engine, load.running, load.waiting, load.kv_used))
    }

    #[test]
    fn each_engine_is_known_by_its_own_names() {
        let vllm = "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"m\"} 3.0\n\
                    vllm:num_requests_waiting{model_name=\"m\"} 2.0\n\
                    vllm:num_requests_waiting_by_reason{model_name=\"m\",reason=\"capacity\"} 9.0\n";
        assert_eq!(load(vllm), Some(("vLLM", Some(3), Some(2), None)));
        let older = format!("{vllm}vllm:gpu_cache_usage_perc 0.5\n");
        assert_eq!(load(&older), Some(("vLLM", Some(3), Some(2), Some(0.5))));
        assert_eq!(load(&format!("{older}vllm:kv_cache_usage_perc 0.75\n")).and_then(|load| load.3), Some(0.75));
        let sglang = "sglang:num_running_reqs 4\nsglang:num_queue_reqs 1\nsglang:token_usage 0.28\n";
        assert_eq!(load(sglang), Some(("SGLang", Some(4), Some(1), Some(0.28))));
        assert_eq!(load("tgi_batch_current_size 4\ntgi_queue_size 7\n"), Some(("TGI", Some(4), Some(7), None)));
        let llama = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\nllamacpp:kv_cache_usage_ratio 1\n";
        assert_eq!(load(llama), Some(("llama.cpp", Some(2), Some(1), None)));
        let triton =
            "nv_inference_pending_request_count{model=\"a\"} 3\nnv_inference_pending_request_count{model=\"b\"} 4\n";
        assert_eq!(load(triton), Some(("Triton", None, Some(7), None)));
        let trt = "nv_trt_llm_request_metrics{request_type=\"waiting\"} 1\n\
                   nv_trt_llm_request_metrics{request_type=\"scheduled\"} 5\n\
                   nv_trt_llm_request_metrics{request_type=\"max\"} 512\n\
                   nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 6239\n\
                   nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"} 0.25\n";
        assert_eq!(load(&format!("{triton}{trt}")), Some(("Triton", Some(5), Some(1), Some(0.25))));
        assert_eq!(load("process_open_fds 9\nqueue_size 4\n"), None);
    }

    #[test]
    fn replicas_add_up_and_ranks_and_priorities_do_not() {
        let text = "sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"0\"} 4\n\
                    sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"1\"} 4\n\
                    sglang:num_running_reqs{tp_rank=\"0\",dp_rank=\"1\"} 3\n\
                    sglang:num_running_reqs{dp_rank=\"0\",priority=\"5\",tp_rank=\"0\"} 4\n\
                    sglang:num_running_reqs{dp_rank=\"0\",priority=\"\",tp_rank=\"0\"} 1\n\
                    sglang:token_usage{dp_rank=\"0\"} 0.2\nsglang:token_usage{dp_rank=\"1\"} 0.9\n";
        assert_eq!(load(text), Some(("SGLang", Some(8), None, Some(0.9))));
    }

    #[test]
    fn a_figure_that_cannot_be_is_not_told() {
        let text = "vllm:num_requests_running NaN\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 41\n";
        assert_eq!(load(text), Some(("vLLM", None, Some(2), None)));
        assert_eq!(load("vllm:num_requests_running -1\nvllm:num_requests_waiting 1e300\n"), None);
    }

    #[test]
    fn no_more_series_are_kept_than_the_bound() {
        let text: String = (0..3 * SERIES_MAX).map(|at| format!("tgi_queue_size{{at=\"{at}\"}} 1\n")).collect();
        assert_eq!(load(&text).and_then(|load| load.2), Some(SERIES_MAX as u64));
    }
}
