//! HAProxy.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{ANSWER_WAIT_S, CHECK_EVERY_S, CHECK_FALL, CHECK_RISE, CHECK_WAIT_S, Wanted};

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr) -> String {
    let balance = if wanted.policy == "random-2" { "random(2)" } else { wanted.policy };
    let threads = if wanted.one_thread { "  nbthread 1\n" } else { "" };
    let mut text = format!(
        "global\n{threads}  maxconn {}\n  no strict-limits\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client {ANSWER_WAIT_S}s\n  \
         timeout server {ANSWER_WAIT_S}s\n  timeout http-keep-alive 120s\n  timeout check {CHECK_WAIT_S}s\n  \
         option http-keep-alive\n  http-reuse always\n  option forwardfor\n  option abortonclose\n\
         frontend clients\n  bind {listen}\n  default_backend nodes\n\
         backend nodes\n  balance {balance}\n  option httpchk GET /health\n  \
         default-server check inter {CHECK_EVERY_S}s fall {CHECK_FALL} rise {CHECK_RISE} observe layer7 error-limit 10 \
         on-error mark-down\n",
        wanted.clients + 100
    );
    for (index, (node, _)) in wanted.nodes.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  server node{index} {node}");
    }
    text
}
