//! Errors of the admin API: one shape for all of them (RFC 9457, `application/problem+json`).
//!
//! Also for those that the framework would answer itself with bare text: unknown paths, wrong methods, bodies that
//! are no JSON or the wrong JSON. A client that can read one error can read all. The `type` is always `about:blank`,
//! so that the status says what happened; documents behind made-up addresses would be one more thing to rot.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// Every mistake, where there can be several.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>)]
    errors: Box<[String]>,
    /// What would have been accepted.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>)]
    allowed: Box<[String]>,
    /// What was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    did_you_mean: Option<Box<str>>,
    #[serde(skip)]
    challenge: Option<&'static str>,
    /// When to come back; 0 is not said.
    #[serde(skip)]
    retry_after_s: u32,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into().into(),
            ..Problem::default()
        }
    }

    pub(super) fn errors(self, errors: Vec<String>) -> Problem {
        Problem { errors: errors.into(), ..self }
    }

    /// Lists what is allowed and suggests the nearest to `typed`.
    pub(super) fn allowed(self, typed: &str, allowed: impl IntoIterator<Item = impl Into<String>>) -> Problem {
        let allowed: Vec<String> = allowed.into_iter().map(Into::into).collect();
        let did_you_mean = nearest(typed, &allowed).map(Into::into);
        Problem { allowed: allowed.into(), did_you_mean, ..self }
    }

    /// Suggests the nearest of `known` to `typed` without listing them: there may be thousands.
    pub(super) fn suggest<'a>(self, typed: &str, known: impl IntoIterator<Item = &'a str>) -> Problem {
        let known: Vec<String> = known.into_iter().map(str::to_owned).collect();
        Problem { did_you_mean: nearest(typed, &known).map(Into::into), ..self }
    }

    /// Says how to authenticate.
    pub(super) fn challenge(self, challenge: &'static str) -> Problem {
        Problem { challenge: Some(challenge), ..self }
    }

    /// Says when to come back.
    pub(super) fn retry_after(self, wait: Duration) -> Problem {
        // A time in seconds fits; the cast saturates.
        Problem { retry_after_s: wait.as_secs_f64().ceil().max(1.0) as u32, ..self }
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }
}

/// The nearest of `known`, if at most a third of `typed` is wrong.
fn nearest<'a>(typed: &str, known: &'a [String]) -> Option<&'a str> {
    let typed: String = typed.chars().take(64).collect();
    let bound = (typed.chars().count() / 3).max(1);
    let near = known.iter().map(|known| (strsim::osa_distance(&typed, known), known.as_str()));
    near.filter(|(distance, _)| *distance <= bound).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON))], body).into_response();
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.retry_after_s > 0 {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Problem {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, rejection.body_text())
    }
}

/// A query whose mistakes are problems.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let axum::extract::Query(query) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Query(query))
    }
}

/// A JSON body whose mistakes are problems.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let axum::Json(body) = <axum::Json<T> as FromRequest<S>>::from_request(request, state).await?;
        Ok(Body(body))
    }
}

/// A body that may be absent: nothing at all is none, and anything else must be right, whatever type it claims.
impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

/// The name of a node in the path, percent-decoded.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let axum::extract::Path(name) = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_near_or_absent() {
        let problem = |typed| Problem::new(StatusCode::NOT_FOUND, "x").allowed(typed, ["round-robin", "random"]);
        assert_eq!(problem("round-robbin").did_you_mean.as_deref(), Some("round-robin"));
        assert_eq!(problem("nonsense").did_you_mean, None);
        assert_eq!(problem(&"x".repeat(100_000)).did_you_mean, None);
    }
}
