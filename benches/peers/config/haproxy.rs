//! HAProxy.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{CHECK_FALL, CHECK_RISE, Terms, Wanted};

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr) -> String {
    let balance = if wanted.policy == "random-2" { "random(2)" } else { wanted.policy };
    let Terms { check_every_s, check_wait_s, answer_wait_s, repeats } = wanted.terms;
    // By itself it repeats connects only; a repeated request goes to whichever node the policy chooses then.
    let again = if repeats == 0 {
        String::new()
    } else {
        format!("  retries {repeats}\n  retry-on all-retryable-errors\n  option redispatch 1\n")
    };
    let threads = if wanted.one_thread { "  nbthread 1\n" } else { "" };
    let mut text = format!(
        "global\n{threads}  maxconn {}\n  no strict-limits\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client {answer_wait_s}s\n  \
         timeout server {answer_wait_s}s\n  timeout http-keep-alive 120s\n  timeout check {check_wait_s}s\n  \
         option http-keep-alive\n  http-reuse always\n  option forwardfor\n  option abortonclose\n{again}\
         frontend clients\n  bind {listen}\n  default_backend nodes\n\
         backend nodes\n  balance {balance}\n  option httpchk GET /health\n  \
         default-server check inter {check_every_s}s fall {CHECK_FALL} rise {CHECK_RISE} observe layer7 error-limit 10 \
         on-error mark-down\n",
        wanted.clients + 100
    );
    for (index, (node, _)) in wanted.nodes.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  server node{index} {node}");
    }
    text
}
