//! A reverse proxy of Pingora's own parts: `pingora-peer LISTEN NODE...`, each node in turn.
//!
//! Round robin is what its crate has for requests without a key; there is no policy there that looks at load. GET /health
//! of every node each 5 s, 2 s for a connect, 120 s between two pieces of an answer, as many threads as cores.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::lb::health_check::HttpHealthCheck;
use pingora::lb::selection::RoundRobin;
use pingora::lb::LoadBalancer;
use pingora::prelude::{Error, ErrorType, HttpPeer, ProxyHttp, Server, Session, background_service, http_proxy_service};
use pingora::server::configuration::ServerConf;

const CHECK_EVERY: Duration = Duration::from_secs(5);
const CONNECT_WAIT: Duration = Duration::from_secs(2);
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Nodes that are looked at for one that is up.
const TRIES: usize = 256;

struct Balancer(Arc<LoadBalancer<RoundRobin>>);

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let node = self.0.select(b"", TRIES).ok_or_else(|| Error::new(ErrorType::HTTPStatus(503)))?;
        let mut peer = HttpPeer::new(node, false, String::new());
        peer.options.connection_timeout = Some(CONNECT_WAIT);
        peer.options.read_timeout = Some(ANSWER_WAIT);
        peer.options.write_timeout = Some(ANSWER_WAIT);
        Ok(Box::new(peer))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().ok_or("usage: pingora-peer LISTEN NODE...")?;
    let mut nodes = LoadBalancer::<RoundRobin>::try_from_iter(arguments)?;
    let mut check = HttpHealthCheck::new("localhost", false);
    check.req = RequestHeader::build("GET", b"/health", None)?;
    check.req.append_header("Host", "localhost")?;
    check.consecutive_failure = 3;
    check.consecutive_success = 2;
    nodes.set_health_check(Box::new(check));
    nodes.health_check_frequency = Some(CHECK_EVERY);
    let threads = std::thread::available_parallelism()?.get();
    let mut server = Server::new_with_opt_and_conf(None, ServerConf { threads, ..ServerConf::default() });
    server.bootstrap();
    let checks = background_service("checks", nodes);
    let mut proxy = http_proxy_service(&server.configuration, Balancer(checks.task()));
    proxy.add_tcp(&listen);
    server.add_service(checks);
    server.add_service(proxy);
    server.run_forever();
}
