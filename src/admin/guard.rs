//! Who may do what: tokens, certificates, roles, and browsers kept out.
//!
//! Every request passes here before any route is looked up, so that a new route is protected without anybody thinking
//! of it, and an unknown path tells nothing to strangers. Reading asks for a `read` token, as a dry run
//! does, anything else for `operate`; a client certificate counts like a token of the role that the settings give
//! it, and whichever allows more counts. Without both there is no authentication, which is allowed on loopback and on a
//! socket in the file system only; and there, as with a certificate, the danger is
//! the operator's own browser, so the `Host` must be one that no attacker can point at us (DNS rebinding) and a
//! changing request must not come from another site (`Origin`). There are no sessions, cookies or CORS. The dashboard's
//! own files are for everybody: a browser cannot send a token when it opens a page, and they tell nothing.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::dashboard;
use super::door::Peer;
use super::failures::Failures;
use super::problem::Problem;
use crate::app::App;
use crate::clock::Time;
use crate::config::{Admin, Role};
use crate::tls::{Certified, Fingerprint};

const CHALLENGE: &str = "Bearer realm=\"bellwether\"";
const INVALID: &str = "Bearer realm=\"bellwether\", error=\"invalid_token\"";
const SCOPE: &str = "Bearer realm=\"bellwether\", error=\"insufficient_scope\"";

/// A POST because it has a body; it changes nothing, so whoever may read may ask.
const DRY_RUN: &str = "/api/v1/explain";

/// What the guard knows besides the request.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    app: Arc<App>,
    failures: Arc<Failures>,
}

impl Gate {
    pub(super) fn new(app: &Arc<App>) -> Gate {
        Gate { app: Arc::clone(app), failures: Arc::default() }
    }
}

/// Who asks, for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Index of the token in the configuration; `None` where nobody needs one.
    token: Option<usize>,
    certificate: Option<Fingerprint>,
    peer: Option<Peer>,
}

impl Caller {
    /// Somebody who needed nothing.
    fn anybody(peer: Option<Peer>) -> Caller {
        Caller { token: None, certificate: None, peer }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.token, &self.certificate, self.peer) {
            (Some(index), None, _) => write!(f, "admin.token[{index}]")?,
            (Some(index), Some(certificate), _) => write!(f, "admin.token[{index}] with certificate {certificate}")?,
            (None, Some(certificate), _) => write!(f, "certificate {certificate}")?,
            (None, None, Some(Peer::User(_))) => f.write_str("whoever may open the socket")?,
            (None, None, _) => f.write_str("anybody on loopback")?,
        }
        match self.peer {
            Some(peer) => write!(f, " from {peer}"),
            None => Ok(()),
        }
    }
}

/// The middleware.
pub(super) async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let settings = gate.app.settings.load_full();
    let tries = Tries { failures: &gate.failures, now: gate.app.clock.now() };
    match admit(&settings.admin, &tries, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            let peer = request.extensions().get::<Peer>().map(tracing::field::display);
            tracing::debug!(peer, status = problem.status(), "admin request refused");
            problem.into_response()
        }
    }
}

/// Who has tried wrong tokens, as of now.
struct Tries<'a> {
    failures: &'a Failures,
    now: Time,
}

fn admit(admin: &Admin, tries: &Tries<'_>, request: &Request) -> Result<Caller, Problem> {
    let peer = request.extensions().get::<Peer>().copied();
    let path = request.uri().path();
    if matches!(path, "/livez" | "/readyz") {
        return Ok(Caller::anybody(peer));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let host = check_host(admin, request)?;
    if !reads {
        check_origin(request.headers(), host)?;
    }
    if reads && dashboard::is_asset(path) {
        return Ok(Caller::anybody(peer));
    }
    if path == "/metrics" && admin.metrics_public && reads {
        return Ok(Caller::anybody(peer));
    }
    if !admin.is_guarded() && !admin.is_open() {
        return Ok(Caller::anybody(peer));
    }
    let needed = if reads || path == DRY_RUN { Role::Read } else { Role::Operate };
    let shown = request.extensions().get::<Certified>().and_then(|shown| admin.certified(shown));
    let token = authenticate(admin, tries, peer, request.headers())?;
    let by_token = token.map(|(_, role)| role);
    let by_certificate = shown.as_ref().and_then(|(_, role)| *role);
    // Nothing is less than to read.
    match by_token.max(by_certificate) {
        Some(role) if role >= needed => {
            let certificate = shown.map(|(certificate, _)| certificate);
            Ok(Caller { token: token.map(|(index, _)| index), certificate, peer })
        }
        Some(_) => {
            let detail = match by_token {
                Some(_) => "this token may read; changes need one with role = \"operate\"",
                None => "this certificate may read; changes need a token with role = \"operate\"",
            };
            Err(Problem::new(StatusCode::FORBIDDEN, detail).challenge(SCOPE))
        }
        None => {
            let detail = "this needs a bearer token: Authorization: Bearer TOKEN";
            Err(Problem::new(StatusCode::UNAUTHORIZED, detail).challenge(CHALLENGE))
        }
    }
}

/// The index and the role of the token that the request carries; `None` if it carries none.
fn authenticate(
    admin: &Admin,
    tries: &Tries<'_>,
    peer: Option<Peer>,
    headers: &HeaderMap,
) -> Result<Option<(usize, Role)>, Problem> {
    let Some(given) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    if let Some(wait) = tries.failures.wait(tries.now, peer) {
        let detail = "too many wrong tokens came from there; none is looked at for a while";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(wait));
    }
    let bearer = given.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    // All tokens are compared in full whichever matches. That the lengths differ may show; what is in them may not.
    let mut found = None;
    if let Some((_, secret)) = bearer {
        for (index, token) in admin.tokens.iter().enumerate() {
            if bool::from(token.secret.expose_secret().as_bytes().ct_eq(secret)) {
                found = Some((index, token.role));
            }
        }
    }
    match found {
        Some(known) => Ok(Some(known)),
        None => {
            tries.failures.count(tries.now, peer);
            let from = peer.as_ref().map(tracing::field::display);
            tracing::warn!(target: "bellwether::audit", peer = from, "a wrong token was tried");
            Err(Problem::new(StatusCode::UNAUTHORIZED, "this is not a token that is known here").challenge(INVALID))
        }
    }
}

/// The authority that the client thinks it talks to, if it is one that only we can be.
fn check_host<'a>(admin: &Admin, request: &'a Request) -> Result<&'a str, Problem> {
    let refuse = |detail: String| Problem::new(StatusCode::MISDIRECTED_REQUEST, detail);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) => host,
        _ => return Err(Problem::new(StatusCode::BAD_REQUEST, "exactly one Host header is needed")),
    };
    let target = request.uri().authority().map_or(host, |authority| authority.as_str());
    for authority in [host, target] {
        if !is_own(admin, authority) {
            return Err(refuse(format!(
                "{authority:?} is not a name of this API: use localhost, an IP address, or a name from admin.hosts"
            )));
        }
    }
    Ok(host)
}

fn is_own(admin: &Admin, authority: &str) -> bool {
    let literal = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((address, port)) = literal {
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = authority.split_once(':').map_or(authority, |(name, _)| name);
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || admin.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

/// A browser names the site that a changing request comes from; other clients name none.
fn check_origin(headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        !site.is_some_and(|site| site.eq_ignore_ascii_case(host))
    });
    if foreign {
        let detail = "the Origin of this request is another site than its Host";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::config::{Settings, Token};

    fn admin(tokens: &[(&str, Role)]) -> Admin {
        let tokens = tokens.iter().map(|(secret, role)| Token { secret: (*secret).into(), role: *role }).collect();
        Admin { tokens, ..Settings::default().admin }
    }

    fn judged(admin: &Admin, request: &Request) -> Result<Caller, Problem> {
        admit(admin, &Tries { failures: &Failures::default(), now: Time::ZERO }, request)
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(admin: &Admin, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let local = [("host", "localhost:8081")];
        let all: Vec<_> = local.iter().chain(headers).copied().collect();
        judged(admin, &request(method, path, &all)).map_or_else(|problem| problem.status(), |_| 200)
    }

    #[test]
    fn roles_are_read_below_operate() {
        let admin = admin(&[("r", Role::Read), ("o", Role::Operate)]);
        let bearer = |token: &'static str| [("authorization", token)];
        for (method, token, expected) in [
            ("GET", "Bearer r", 200),
            ("HEAD", "bearer r", 200),
            ("GET", "Bearer o", 200),
            ("PUT", "Bearer o", 200),
            ("PUT", "Bearer r", 403),
            ("DELETE", "Bearer r", 403),
            ("GET", "Bearer x", 401),
            ("GET", "Bearer ", 401),
            ("GET", "Bearer", 401),
            ("GET", "Basic r", 401),
            ("GET", "r", 401),
            ("GET", "Bearer r ", 401),
        ] {
            assert_eq!(status(&admin, method, "/api/v1/nodes", &bearer(token)), expected, "{method} {token}");
        }
        assert_eq!(status(&admin, "POST", "/api/v1/explain", &bearer("Bearer r")), 200);
        assert_eq!(status(&admin, "POST", "/api/v1/model/reset", &bearer("Bearer r")), 403);
        assert_eq!(status(&admin, "GET", "/api/v1/nodes", &[]), 401);
        assert_eq!(status(&admin, "GET", "/no/such/path", &[]), 401);
    }

    #[test]
    fn some_paths_need_no_token() {
        let mut admin = admin(&[("r", Role::Read)]);
        assert_eq!(status(&admin, "GET", "/livez", &[]), 200);
        assert_eq!(status(&admin, "GET", "/readyz", &[]), 200);
        assert_eq!(status(&admin, "GET", "/", &[]), 200);
        assert_eq!(status(&admin, "GET", "/dashboard/app.js", &[]), 200);
        assert_eq!(status(&admin, "POST", "/", &[]), 401);
        assert_eq!(status(&admin, "GET", "/dashboard/nothing.js", &[]), 401);
        assert_eq!(status(&admin, "GET", "/metrics", &[]), 401);
        admin.metrics_public = true;
        assert_eq!(status(&admin, "GET", "/metrics", &[]), 200);
        assert_eq!(status(&admin, "POST", "/metrics", &[]), 401);
        assert_eq!(status(&admin, "GET", "/metrics/", &[]), 401);
    }

    #[test]
    fn without_tokens_only_loopback_is_open() {
        let mut admin = admin(&[]);
        assert_eq!(status(&admin, "PUT", "/api/v1/policy", &[]), 200);
        admin.listen = "0.0.0.0:8081".parse().unwrap();
        assert_eq!(status(&admin, "PUT", "/api/v1/policy", &[("authorization", "Bearer ")]), 401);
        assert_eq!(status(&admin, "GET", "/api/v1/nodes", &[]), 401);
    }

    #[test]
    fn only_names_that_an_attacker_cannot_own_are_answered() {
        let mut admin = admin(&[]);
        admin.hosts = vec!["gate.internal".to_owned()];
        let host = |host| {
            let request = request("GET", "/api/v1/nodes", &[("host", host)]);
            judged(&admin, &request).map_or_else(|problem| problem.status(), |_| 200)
        };
        for own in ["localhost", "LOCALHOST:1", "127.0.0.1:8081", "10.1.2.3", "[::1]:8081", "gate.internal:8081"] {
            assert_eq!(host(own), 200, "{own}");
        }
        for other in ["evil.example", "evil.example:8081", "localhost.evil.example", "[evil]", "", "127.0.0.1.evil:1"] {
            assert_eq!(host(other), 421, "{other}");
        }
        let twice = request("GET", "/metrics", &[("host", "localhost"), ("host", "evil")]);
        assert_eq!(judged(&admin, &twice).unwrap_err().status(), 400);
        assert_eq!(judged(&admin, &request("GET", "/metrics", &[])).unwrap_err().status(), 400);
        let absolute = request("GET", "http://evil.example/metrics", &[("host", "localhost")]);
        assert_eq!(judged(&admin, &absolute).unwrap_err().status(), 421);
    }

    #[test]
    fn a_page_of_another_site_cannot_change_anything() {
        let admin = admin(&[]);
        for (origin, expected) in [
            ("http://localhost:8081", 200),
            ("https://localhost:8081", 200),
            ("http://localhost:3000", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("localhost:8081", 403),
        ] {
            assert_eq!(status(&admin, "POST", "/api/v1/reload", &[("origin", origin)]), expected, "{origin}");
        }
        assert_eq!(status(&admin, "GET", "/api/v1/nodes", &[("origin", "http://evil.example")]), 200);
    }

    #[test]
    fn the_audit_log_names_the_token_and_never_shows_it() {
        let admin = admin(&[("other", Role::Read), ("hunter2", Role::Operate)]);
        let headers = [("host", "localhost"), ("authorization", "Bearer hunter2")];
        let mut request = request("PUT", "/api/v1/policy", &headers);
        request.extensions_mut().insert(Peer::Address("127.0.0.1:5".parse().unwrap()));
        assert_eq!(judged(&admin, &request).unwrap().to_string(), "admin.token[1] from 127.0.0.1:5");
    }

    #[test]
    fn who_guesses_is_not_even_listened_to() {
        let admin = admin(&[("hunter2", Role::Operate)]);
        let failures = Failures::default();
        let from = |peer: &str, token: &str, now| {
            let headers = [("host", "localhost"), ("authorization", token)];
            let mut request = request("GET", "/api/v1/nodes", &headers);
            request.extensions_mut().insert(Peer::Address(peer.parse().unwrap()));
            let tries = Tries { failures: &failures, now: Time::from_secs_f64(now) };
            admit(&admin, &tries, &request).map_or_else(|problem| problem.status(), |_| 200)
        };
        for _ in 0..10 {
            assert_eq!(from("192.0.2.1:1", "Bearer hunter1", 1.0), 401);
        }
        for token in ["Bearer hunter1", "Bearer hunter2"] {
            assert_eq!(from("192.0.2.1:2", token, 1.0), 429, "a right token would show by being let in");
        }
        assert_eq!(from("192.0.2.2:1", "Bearer hunter2", 1.0), 200);
        assert_eq!(from("192.0.2.1:1", "Bearer hunter2", 7.0), 200);
    }
}
