//! This project: its defaults, but for what all are told alike.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{ANSWER_WAIT_S, CHECK_EVERY_S, CHECK_FALL, CHECK_RISE, CHECK_WAIT_S, Wanted};

pub(super) fn config(wanted: &Wanted<'_>, listen: SocketAddr, admin: SocketAddr) -> String {
    let Wanted { policy, nodes, one_thread, .. } = wanted;
    let workers = if *one_thread { "1" } else { "\"auto\"" };
    let mut text = format!(
        "listen = \"{listen}\"\npolicy = \"{policy}\"\nworkers = {workers}\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [health]\npath = \"/health\"\ninterval = \"{CHECK_EVERY_S}s\"\ntimeout = \"{CHECK_WAIT_S}s\"\n\
         unhealthy_after = {CHECK_FALL}\nhealthy_after = {CHECK_RISE}\n\n\
         [timeouts]\nconnect = \"2s\"\nfirst_byte = \"{ANSWER_WAIT_S}s\"\nbetween_chunks = \"{ANSWER_WAIT_S}s\"\n\
         idle = \"120s\"\ndrain = \"1s\"\n\n[log]\naccess = false\n"
    );
    for (node, weight) in *nodes {
        // Writing to a string does not fail.
        let _ = write!(text, "\n[[node]]\nurl = \"http://{node}\"\nweight = {weight:?}\n");
    }
    text
}
