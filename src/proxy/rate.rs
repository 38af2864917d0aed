//! Rate limits: who a client is, and what it is told.
//!
//! A client is known by its API key, by a header that something in front sets, or by its address; only a hash of that is
//! kept, with a key of this process, so that nobody can choose whose bucket he shares. What is left is told in the
//! fields of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10) with every answer, and a refusal is a 429.

use std::hash::BuildHasher;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::admission::{Allowance, Standing};
use crate::app::App;
use crate::config::{RateKey, Settings};
use crate::outcome::Sample;
use crate::proxy::forward::Passage;
use crate::proxy::reply::ProxyError;
use crate::request::RequestShape;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Tokens that a client has paid for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    key: u64,
    tokens: u64,
}

impl Charge {
    /// The answer has ended: what the client pays in the end is what it took, as far as the answer told it.
    pub(super) fn settle(self, app: &App, settings: &Settings, sample: &Sample) {
        let told = sample.output_tokens.or((sample.events > 0).then_some(sample.events));
        let Some(output) = told else { return };
        let used = u64::from(sample.usage_prompt_tokens.unwrap_or(sample.prompt_tokens)) + u64::from(output);
        app.rates.settle(self.key, &settings.rate_limit.rules, self.tokens, used);
    }
}

/// Names of the quotas, as in [`Allowance::standings`].
const NAMES: [&str; 2] = ["requests", "tokens"];

impl Passage {
    /// Whether the client may ask for this.
    ///
    /// # Errors
    /// It has used up what it may ask for: the refusal to tell it.
    pub(super) fn within_rate(
        &mut self,
        headers: &HeaderMap,
        client: IpAddr,
        shape: &RequestShape,
    ) -> Result<(), ProxyError> {
        let app = &self.worker.app;
        let limit = &self.settings.rate_limit;
        let key = key_of(&limit.key, headers, client, &app.rate_hash);
        let tokens = match limit.rules.tokens {
            Some(_) => app.balancer.tokens_of(shape),
            None => 0,
        };
        let allowance = app.rates.check(app.clock.now(), key, &limit.rules, tokens);
        self.allowance = Some(allowance);
        match allowance.wait {
            None => {
                self.charge = limit.rules.tokens.map(|_| Charge { key, tokens });
                Ok(())
            }
            Some(wait) => {
                app.telemetry.refused("rate_limited");
                Err(ProxyError::rate_limited(wait))
            }
        }
    }
}

/// A hash of who the client is. One without the key or header that is asked for is known by its address.
fn key_of(key: &RateKey, headers: &HeaderMap, client: IpAddr, hash: &impl BuildHasher) -> u64 {
    let named = match key {
        RateKey::Address => None,
        RateKey::ApiKey => headers.get(header::AUTHORIZATION).or_else(|| headers.get(X_API_KEY)),
        RateKey::Header(name) => headers.get(name),
    };
    match named {
        Some(value) => hash.hash_one(("key", value.as_bytes())),
        None => hash.hash_one(("address", client)),
    }
}

/// Tells the client what it may still ask for; a node's own words of these names go.
pub(super) fn tell(headers: &mut HeaderMap, allowance: &Allowance) {
    let list = |item: fn(&str, &Standing) -> String| {
        let items = NAMES.iter().zip(&allowance.standings);
        let items: Vec<String> = items.filter_map(|(name, standing)| Some(item(name, standing.as_ref()?))).collect();
        HeaderValue::try_from(items.join(", "))
    };
    let policy = list(|name, standing| {
        format!("\"{name}\";q={};w={}", standing.quota.amount, standing.quota.window.as_secs().max(1))
    });
    let present = list(|name, standing| {
        format!("\"{name}\";r={};t={}", standing.remaining, standing.reset.as_secs_f64().ceil() as u64)
    });
    for (name, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, present)] {
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    #[test]
    fn a_client_is_its_key_or_its_address() {
        let hash = RandomState::new();
        let (one, two): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            headers
        };
        let none = HeaderMap::new();
        let of = |key: &RateKey, headers: &HeaderMap, client| key_of(key, headers, client, &hash);
        let (bearer, other) = (with("authorization", "Bearer a"), with("authorization", "Bearer b"));
        assert_eq!(of(&RateKey::ApiKey, &bearer, one), of(&RateKey::ApiKey, &bearer, two));
        assert_ne!(of(&RateKey::ApiKey, &bearer, one), of(&RateKey::ApiKey, &other, one));
        assert_ne!(of(&RateKey::ApiKey, &none, one), of(&RateKey::ApiKey, &none, two));
        assert_eq!(of(&RateKey::Address, &bearer, one), of(&RateKey::Address, &other, one));
        let tenant = RateKey::Header("x-tenant".parse().expect("a name"));
        assert_ne!(of(&tenant, &with("x-tenant", "a"), one), of(&tenant, &with("x-tenant", "b"), one));
    }
}
