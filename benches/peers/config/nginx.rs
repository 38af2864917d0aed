//! nginx. The `zone` makes its workers share what they know of the nodes, without which least_conn counts only its own.
//!
//! Where nothing is repeated, a POST that was answered 500 does not count as a failure of the node: nginx counts only
//! what it may repeat.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::{IDLE_MAX, Wanted};

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    let workers = if wanted.one_thread { "1" } else { "auto" };
    let (answer_wait_s, repeats) = (wanted.terms.answer_wait_s, wanted.terms.repeats);
    let again = match repeats {
        0 => String::new(),
        _ => format!(" non_idempotent;\n      proxy_next_upstream_tries {}", repeats + 1),
    };
    let mut text = format!(
        "worker_processes {workers};\ndaemon off;\nerror_log {directory}/error.log;\npid {directory}/nginx.pid;\n\
         events {{ worker_connections {}; }}\nhttp {{\n  access_log off;\n  keepalive_requests 100000000;\n  \
         keepalive_timeout 120s;\n  client_body_buffer_size 256k;\n",
        2 * wanted.clients + 100
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {kind}_temp_path {directory}/{kind};");
    }
    text.push_str("  upstream nodes {\n    zone nodes 256k;\n");
    text.push_str(match wanted.policy {
        "least_conn" => "    least_conn;\n",
        "random-two" => "    random two least_conn;\n",
        _ => "",
    });
    for (node, _) in wanted.nodes {
        let _ = writeln!(text, "    server {node} max_fails=3 fail_timeout=10s;");
    }
    let _ = write!(
        text,
        "    keepalive {IDLE_MAX};\n    keepalive_requests 100000000;\n  }}\n  server {{\n    listen {listen} \
         backlog=4096;\n    client_max_body_size 0;\n    location / {{\n      proxy_pass http://nodes;\n      \
         proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n      \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n      proxy_buffering off;\n      \
         proxy_connect_timeout 2s;\n      proxy_read_timeout {answer_wait_s}s;\n      \
         proxy_send_timeout {answer_wait_s}s;\n      \
         proxy_next_upstream error timeout http_500 http_502 http_503 http_504{again};\n    }}\n  }}\n}}\n"
    );
    text
}
