//! The admin API of a running proxy, as verbs that ask it use it.
//!
//! One request per connection, through hyper on a runtime of its own: a client with a pool, redirects and cookies would
//! be a large dependency for a few small questions to a known address. What cannot be had is said with what to do
//! about it. Tokens come from the environment or a file and are never shown.

mod target;
mod trust;
mod watch;

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use self::target::Target;
use self::trust::TrustArgs;
use super::{Exit, Screen};
use crate::config::{Env, Settings};
use crate::escape::is_harmless;

pub(super) use watch::WatchError;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer that is read: some ten times the model of the largest fleet.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The longest token file that is read.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// Names the address where no flag does, as it does for `run`.
const ADMIN_VARIABLE: &str = "BELLWETHER_ADMIN_LISTEN";

/// Which proxy, and who asks.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    #[arg(long, value_name = "ADDR", help = about_admin())]
    admin: Option<String>,
    /// Environment variable that contains the token, if the API asks for one
    #[arg(long, value_name = "VAR", conflicts_with = "token_file")]
    token_env: Option<String>,
    /// File that contains the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
}

fn about_admin() -> String {
    let default = Settings::default().admin.listen;
    format!("Where the admin API of the running proxy listens [env: {ADMIN_VARIABLE}] [default: {default}]")
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    /// The flags do not say whom to ask, or with what.
    #[error("{0}")]
    Usage(String),
    /// Nobody listens there.
    #[error(
        "nothing answers at {target}: {source}\nIs bellwether running, and its admin API there? Name the address with --admin"
    )]
    Unreachable {
        /// Where.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// Somebody does, who is not to be trusted.
    #[error(
        "no secure connection to {target}: {source}\nDoes it speak TLS, with a certificate for that host by an authority in --ca?"
    )]
    Untrusted {
        /// Where.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// Somebody does, and did not like what was shown: TLS 1.3 tells that only afterwards.
    #[error(
        "{target} cut the connection: {what}\nIt may ask for a client certificate, or for another one: --cert FILE --key FILE"
    )]
    Cut {
        /// Where.
        target: Target,
        /// In what words.
        what: String,
    },
    /// Somebody does, but not in time.
    #[error("{0} did not answer in time")]
    Slow(Target),
    /// What came is not what the admin API says.
    #[error("what answers at {target} is not the admin API of bellwether: {what}")]
    Stranger {
        /// Where.
        target: Target,
        /// What came.
        what: String,
    },
    /// The API refused.
    #[error("{status}: {detail}{hint}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// In its own words.
        detail: String,
        /// What to do about it.
        hint: &'static str,
    },
}

impl RemoteError {
    /// Tells of it.
    pub(super) fn show(&self, screen: &mut Screen<'_>) -> Exit {
        let failed = screen.failed(self);
        if matches!(self, RemoteError::Usage(_)) { Exit::Refused } else { failed }
    }
}

/// An answer of whatever kind.
#[derive(Debug)]
pub(super) struct Look {
    /// Its status.
    pub(super) status: StatusCode,
    /// What its sender's clock says.
    pub(super) date: Option<SystemTime>,
    /// Its body.
    pub(super) body: Bytes,
}

/// A running proxy, or another server that is asked the same way.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    target: Target,
    token: Option<SecretString>,
}

impl RemoteArgs {
    /// The proxy that is meant.
    ///
    /// # Errors
    /// There is no such address or token.
    pub(super) fn remote(&self, env: &Env) -> Result<Remote, RemoteError> {
        let given = match (&self.admin, env.get(ADMIN_VARIABLE)) {
            (Some(given), _) => given.clone(),
            (None, Some(given)) => given.to_string_lossy().into_owned(),
            (None, None) => Settings::default().admin.listen.to_string(),
        };
        let target = Target::parse(&given, self.trust.tls()?)
            .map_err(|why| RemoteError::Usage(format!("--admin: {given:?} {why}")))?;
        Ok(Remote { target, token: self.token(env)? })
    }

    fn token(&self, env: &Env) -> Result<Option<SecretString>, RemoteError> {
        let text = match (&self.token_env, &self.token_file) {
            (None, None) => return Ok(None),
            (Some(name), _) => {
                let value = env.get(name).and_then(|value| value.to_str());
                value.ok_or_else(|| RemoteError::Usage(format!("--token-env: {name} is not set")))?.to_owned()
            }
            (None, Some(path)) => {
                let wrong = |why: String| RemoteError::Usage(format!("--token-file: {}: {why}", path.display()));
                let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
                if size > TOKEN_BYTES_MAX {
                    return Err(wrong("is too large for a token".to_owned()));
                }
                std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?
            }
        };
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RemoteError::Usage("a token consists of visible characters; this one does not".to_owned()));
        }
        Ok(Some(token.to_owned().into()))
    }
}

impl Remote {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Nobody answers, or with a refusal.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        let unreachable = |source| RemoteError::Unreachable { target: self.target.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unreachable)?;
        runtime.block_on(async {
            let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, body));
            asked.await.map_err(|_| RemoteError::Slow(self.target.clone()))?
        })
    }

    /// What a GET brings, within a task.
    ///
    /// # Errors
    /// Nobody answers, or with a refusal.
    pub(super) async fn get(&self, path: &str) -> Result<Value, RemoteError> {
        let asked = tokio::time::timeout(PATIENCE, self.exchange(Method::GET, path, None));
        asked.await.map_err(|_| RemoteError::Slow(self.target.clone()))?
    }

    /// A server at `address` that wants no token.
    pub(super) fn at(address: impl Into<String>) -> Remote {
        Remote { target: Target::Tcp(address.into()), token: None }
    }

    /// What a GET brings, whatever the status, within `patience` and `bytes_max`.
    ///
    /// # Errors
    /// Nobody answers HTTP there.
    pub(super) async fn look(&self, path: &str, patience: Duration, bytes_max: usize) -> Result<Look, RemoteError> {
        let looking = async {
            let response = self.send(Method::GET, path, None).await?;
            let (head, body) = response.into_parts();
            let date = head.headers.get(header::DATE).and_then(|date| date.to_str().ok());
            let body = Limited::new(body, bytes_max).collect().await;
            let body = body.map_err(|error| self.stranger(error.to_string()))?.to_bytes();
            Ok(Look { status: head.status, date: date.and_then(|date| httpdate::parse_http_date(date).ok()), body })
        };
        tokio::time::timeout(patience, looking).await.map_err(|_| RemoteError::Slow(self.target.clone()))?
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, RemoteError> {
        self.json(self.send(method, path, body).await?).await
    }

    /// Sends a request and waits for the response head.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, RemoteError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.target.host());
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let body = Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default()));
        let request = request.body(body).map_err(|error| RemoteError::Usage(error.to_string()))?;
        let stream = self.target.connect().await?;
        let broken = |error: hyper::Error| match &self.target {
            Target::Tls(..) => {
                let what = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                RemoteError::Cut { target: self.target.clone(), what }
            }
            _ => self.stranger(error.to_string()),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // The connection ends with the runtime; that it broke shows in the answer.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    }

    /// The answer, if it is one.
    async fn json(&self, response: Response<Incoming>) -> Result<Value, RemoteError> {
        let status = response.status();
        let bytes = self.text(response).await?;
        let json: Result<Value, _> = serde_json::from_slice(&bytes);
        match json {
            Ok(json) if status.is_success() => Ok(json),
            Ok(problem) if problem["detail"].is_string() => Err(refused(status, &problem)),
            _ => Err(self.stranger(format!("{status}, and no JSON"))),
        }
    }

    async fn text(&self, response: Response<Incoming>) -> Result<Bytes, RemoteError> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| self.stranger(error.to_string()))?.to_bytes())
    }

    fn stranger(&self, what: String) -> RemoteError {
        RemoteError::Stranger { target: self.target.clone(), what }
    }
}

fn refused(status: StatusCode, problem: &Value) -> RemoteError {
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "\nGive a token with --token-env VAR or --token-file FILE",
        _ => "",
    };
    RemoteError::Refused { status, detail: shown(&problem["detail"]), hint }
}

/// A value as text that cannot move the cursor: names come from clients and configurations.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => {
            text.chars().map(|c| if is_harmless(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect()
        }
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(admin: Option<&str>) -> RemoteArgs {
        RemoteArgs { admin: admin.map(str::to_owned), token_env: None, token_file: None, trust: TrustArgs::default() }
    }

    #[test]
    fn the_address_comes_from_flag_environment_or_default() {
        let env: Env = [(ADMIN_VARIABLE, "10.0.0.1:9")].into_iter().collect();
        let address = |flag, env: &Env| args(flag).remote(env).map(|remote| remote.target.to_string());
        assert_eq!(address(Some("http://[::1]:7/"), &env).unwrap(), "http://[::1]:7");
        assert_eq!(address(None, &env).unwrap(), "http://10.0.0.1:9");
        assert_eq!(address(None, &Env::default()).unwrap(), "http://127.0.0.1:8081");
        assert_eq!(address(Some("unix:/run/b.sock"), &env).unwrap(), "unix:/run/b.sock");
        for wrong in ["", "localhost", "https://a:1", "a:1/x", "u@a:1", ":1", "a:70000", "unix:", "unix:b.sock"] {
            assert!(matches!(address(Some(wrong), &env), Err(RemoteError::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_token_must_be_there_and_is_never_shown() {
        let env: Env = [("GOOD", " s3cret\n"), ("BAD", "two words")].into_iter().collect();
        let remote = |name: &str| RemoteArgs { token_env: Some(name.to_owned()), ..args(None) }.remote(&env);
        let good = remote("GOOD").unwrap();
        assert_eq!(good.token.as_ref().unwrap().expose_secret(), "s3cret");
        assert!(!format!("{good:?}").contains("s3cret"));
        for name in ["BAD", "ABSENT"] {
            let error = remote(name).unwrap_err().to_string();
            assert!(!error.contains("two words"), "{error}");
        }
    }

    #[test]
    fn text_from_elsewhere_does_not_move_the_cursor() {
        assert_eq!(shown(&Value::from("a\u{1b}[2J\n\u{202e}é")), "a\\u{1b}[2J\\u{a}\\u{202e}é");
    }
}
