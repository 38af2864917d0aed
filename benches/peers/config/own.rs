//! This project: its defaults, but for what all are told alike.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{CHECK_FALL, CHECK_RISE, Terms, Wanted};

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr, admin: SocketAddr) -> String {
    let Wanted { policy, nodes, one_thread, .. } = wanted;
    let Terms { check_every_s, check_wait_s, answer_wait_s, repeats } = wanted.terms;
    let workers = if *one_thread { "1" } else { "\"auto\"" };
    let mut text = format!(
        "listen = \"{listen}\"\npolicy = \"{policy}\"\nworkers = {workers}\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [health]\npath = \"/health\"\ninterval = \"{check_every_s}s\"\ntimeout = \"{check_wait_s}s\"\n\
         unhealthy_after = {CHECK_FALL}\nhealthy_after = {CHECK_RISE}\n\n\
         [timeouts]\nconnect = \"2s\"\nfirst_byte = \"{answer_wait_s}s\"\nbetween_chunks = \"{answer_wait_s}s\"\n\
         idle = \"120s\"\ndrain = \"1s\"\n\n[log]\naccess = false\n"
    );
    if repeats > 0 {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n[retry]\nattempts_max = {}\n\n[[route]]\nretry_post = true\nretry_errors = true\n",
            repeats + 1
        );
    }
    for (node, weight) in *nodes {
        // Writing to a string does not fail.
        let _ = write!(text, "\n[[node]]\nurl = \"http://{node}\"\nweight = {weight:?}\n");
    }
    text
}
