//! Values that are words: addresses, names, paths, filters.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::super::checked::{RateKey, SessionKey};
use super::super::error::{Complaint, closest, quoted};
use super::super::node_url;
use super::{
    Address, ClientKey, FieldName, FilePath, HostName, LogFilter, MethodName, ModelName, Name, Network, NodeUrl,
    PolicyName, PriorName, Scalar, SessionName, UrlPath, Variable,
};
use crate::policy::{self, PolicyId};
use crate::priors;

/// The longest name of a node, route or model.
const NAME_CHARS_MAX: usize = 256;

impl Scalar for Address {
    const FORMAT: &'static str = "socket-address";
    const ALLOWED: &'static str = "IP:PORT, such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::1]:8080\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        text.parse().map(Address).map_err(|_| {
            let meant = match text.rsplit_once(':') {
                Some(("", port)) => format!("0.0.0.0:{port}"),
                Some(("localhost", port)) => format!("127.0.0.1:{port}"),
                Some((host, port)) => format!("[{host}]:{port}"),
                None => format!("127.0.0.1:{text}"),
            };
            let suggestion = meant.parse::<SocketAddr>().is_ok().then(|| quoted(&meant));
            Complaint::new(format!("{} is not an IP address with a port", quoted(text))).suggest(suggestion)
        })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Scalar for FieldName {
    const FORMAT: &'static str = "header-name";
    const ALLOWED: &'static str = "the name of a header field, such as \"x-priority\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let name = http::HeaderName::try_from(text);
        name.map(FieldName).map_err(|_| Complaint::new(format!("{} is not the name of a header field", quoted(text))))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Before the name of a header that tells clients or conversations apart.
const HEADER_PREFIX: &str = "header:";

impl Scalar for ClientKey {
    const FORMAT: &'static str = "client-key";
    const ALLOWED: &'static str = "\"api-key\", \"address\" or \"header:NAME\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let header = |name: &str| http::HeaderName::try_from(name).ok().map(RateKey::Header);
        let key = match text {
            "address" => Some(RateKey::Address),
            "api-key" => Some(RateKey::ApiKey),
            _ => text.strip_prefix(HEADER_PREFIX).and_then(header),
        };
        key.map(ClientKey).ok_or_else(|| {
            let meant = closest(text, ["address", "api-key"]).map(quoted);
            Complaint::new(format!("{} does not tell clients apart", quoted(text))).suggest(meant)
        })
    }

    fn show(&self) -> String {
        match &self.0 {
            RateKey::Address => "address".to_owned(),
            RateKey::ApiKey => "api-key".to_owned(),
            RateKey::Header(name) => format!("{HEADER_PREFIX}{name}"),
        }
    }
}

impl Scalar for SessionName {
    const FORMAT: &'static str = "session-key";
    const ALLOWED: &'static str = "\"header:NAME\", \"cookie:NAME\" or \"body:FIELD\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let is_token = |name: &&str| http::HeaderName::try_from(*name).is_ok();
        let field = |path: &str| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            path.iter().all(|name| !name.is_empty() && name.len() <= NAME_CHARS_MAX).then_some(SessionKey::Body(path))
        };
        let key = match text.split_once(':') {
            Some(("header", name)) => http::HeaderName::try_from(name).ok().map(SessionKey::Header),
            // The names of cookies are made of the same characters as those of headers.
            Some(("cookie", name)) => Some(name).filter(is_token).map(|name| SessionKey::Cookie(name.to_owned())),
            Some(("body", path)) => field(path),
            _ => None,
        };
        key.map(SessionName).ok_or_else(|| Complaint::new(format!("{} names no conversation", quoted(text))))
    }

    fn show(&self) -> String {
        match &self.0 {
            SessionKey::Header(name) => format!("{HEADER_PREFIX}{name}"),
            SessionKey::Cookie(name) => format!("cookie:{name}"),
            SessionKey::Body(path) => format!("body:{}", path.join(".")),
        }
    }
}

impl Scalar for PolicyName {
    const FORMAT: &'static str = "policy";
    const ALLOWED: &'static str = "the name of a policy";

    fn parse(text: &str) -> Result<Self, Complaint> {
        PolicyId::named(text).map(PolicyName).ok_or_else(|| {
            Complaint::new(format!("{} is not a policy", quoted(text)))
                .allowed(policy::names().join(", "))
                .suggest(closest(text, policy::names()).map(quoted))
        })
    }

    fn show(&self) -> String {
        self.0.name().to_owned()
    }
}

impl Scalar for PriorName {
    const FORMAT: &'static str = "prior";
    const ALLOWED: &'static str = "the path of a snapshot, or one that ships with the program";

    fn parse(text: &str) -> Result<Self, Complaint> {
        if text.is_empty() || text.contains('\0') {
            return Err(Complaint::new(format!("{} is not a snapshot", quoted(text))));
        }
        if text.starts_with(priors::PREFIX) && priors::builtin(text).is_none() {
            let shipped = priors::names();
            let complaint = Complaint::new(format!("{} does not ship with this program", quoted(text)));
            let meant = closest(text, shipped.iter().map(String::as_str)).map(quoted);
            return Err(complaint.allowed(format!("a path, or {}", shipped.join(", "))).suggest(meant));
        }
        Ok(PriorName(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for NodeUrl {
    const FORMAT: &'static str = "node-url";
    const ALLOWED: &'static str = "an http:// URL";

    fn parse(text: &str) -> Result<Self, Complaint> {
        node_url::parse_url(text).map(NodeUrl)
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for Network {
    const FORMAT: &'static str = "network";
    const ALLOWED: &'static str = "a network such as \"10.0.0.0/8\" or an address such as \"10.0.0.7\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.map(Network).ok_or_else(|| Complaint::new(format!("{} is not a network", quoted(text))))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Scalar for MethodName {
    const FORMAT: &'static str = "http-method";
    const ALLOWED: &'static str = "a method in capital letters, such as \"POST\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let complaint = || Complaint::new(format!("{} is not a method", quoted(text)));
        // Methods are case-sensitive (RFC 9110, section 9.1): `post` would match nothing, ever.
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(method) if text.chars().all(|c| c.is_ascii_uppercase() || c == '-') => Ok(MethodName(method)),
            Ok(_) => Err(complaint().suggest(Some(quoted(&text.to_uppercase())))),
            Err(_) => Err(complaint()),
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl Scalar for UrlPath {
    const FORMAT: &'static str = "url-path";
    const ALLOWED: &'static str = "an absolute path without a query, such as \"/v1\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let sound = |text: &str| text.parse::<http::uri::PathAndQuery>().is_ok() && !text.contains(['?', '#']);
        if text.starts_with('/') && sound(text) {
            return Ok(UrlPath(text.to_owned()));
        }
        let slashed = format!("/{text}");
        let suggestion = (!text.starts_with('/') && sound(&slashed)).then(|| quoted(&slashed));
        Err(Complaint::new(format!("{} is not a path", quoted(text))).suggest(suggestion))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for Name {
    const FORMAT: &'static str = "name";
    const ALLOWED: &'static str = "1 to 256 visible ASCII characters other than \" \\ ? # % =";

    fn parse(text: &str) -> Result<Self, Complaint> {
        // What would have to be escaped in a metrics label, an admin URL or the short form of a node.
        let sound = |c: char| c.is_ascii_graphic() && !"\"\\?#%=".contains(c);
        if (1..=NAME_CHARS_MAX).contains(&text.len()) && text.chars().all(sound) {
            return Ok(Name(text.to_owned()));
        }
        Err(Complaint::new(format!("{} cannot be a name", quoted(text))))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for HostName {
    const FORMAT: &'static str = "host-name";
    const ALLOWED: &'static str = "a host name without scheme and port, such as \"bellwether.example.org\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let sound = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if (1..=253).contains(&text.len()) && text.chars().all(sound) {
            return Ok(HostName(text.to_owned()));
        }
        Err(Complaint::new(format!("{} is not a host name", quoted(text))))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for ModelName {
    const FORMAT: &'static str = "model-name";
    const ALLOWED: &'static str = "1 to 256 characters without control characters";

    fn parse(text: &str) -> Result<Self, Complaint> {
        if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            return Ok(ModelName(text.to_owned()));
        }
        Err(Complaint::new(format!("{} cannot be the name of a model", quoted(text))))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for Variable {
    const FORMAT: &'static str = "variable";
    const ALLOWED: &'static str = "the name of an environment variable: A to Z, 0 to 9 and _, not the token itself";

    fn parse(text: &str) -> Result<Self, Complaint> {
        let sound = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let starts = text.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
        if starts && text.len() <= NAME_CHARS_MAX && text.chars().all(sound) {
            return Ok(Variable(text.to_owned()));
        }
        // People paste the token here: never show it.
        Err(Complaint::new("the value (not shown) cannot be the name of an environment variable"))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for FilePath {
    const FORMAT: &'static str = "file-path";
    const ALLOWED: &'static str = "the path of a file";

    fn parse(text: &str) -> Result<Self, Complaint> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(Complaint::new("the value (not shown) cannot be a path"));
        }
        Ok(FilePath(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The levels of a log filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Scalar for LogFilter {
    const FORMAT: &'static str = "log-filter";
    const ALLOWED: &'static str = "off, error, warn, info, debug or trace, also per target: \"info,bellwether=debug\"";

    fn parse(text: &str) -> Result<Self, Complaint> {
        for directive in text.split(',') {
            let (target, level) = match directive.trim().split_once('=') {
                Some((target, level)) => (Some(target), level),
                None => (None, directive.trim()),
            };
            let named = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
            // A bare word that is no level would be taken for a target and switch everything else off.
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
                || target.is_some_and(|target| target.is_empty() || !target.chars().all(named))
            {
                let suggestion = closest(level, LEVELS).filter(|meant| *meant != level).map(quoted);
                return Err(Complaint::new(format!("{} is not a log filter", quoted(text))).suggest(suggestion));
            }
        }
        Ok(LogFilter(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_people_write_get_the_right_suggestion() {
        for (given, meant) in [
            (":8080", Some("\"0.0.0.0:8080\"")),
            ("localhost:8080", Some("\"127.0.0.1:8080\"")),
            ("8080", Some("\"127.0.0.1:8080\"")),
            ("::1:8080", Some("\"[::1]:8080\"")),
            ("example.org:8080", None),
        ] {
            assert_eq!(Address::parse(given).expect_err(given).suggestion.as_deref(), meant);
        }
    }

    #[test]
    fn a_log_level_that_does_not_exist_is_not_taken_for_a_target() {
        for good in ["info", "off", "warn,bellwether=debug", "bellwether::proxy=trace"] {
            assert!(LogFilter::parse(good).is_ok(), "{good}");
        }
        assert_eq!(LogFilter::parse("inof").expect_err("typo").suggestion.as_deref(), Some("\"info\""));
        for bad in ["", "verbose", "=info", "a b=info", "info,"] {
            assert!(LogFilter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_in_the_wrong_place_is_not_shown() {
        let complaint = Variable::parse("sk-0123456789abcdef").expect_err("a token");
        assert!(!complaint.to_string().contains("0123"), "{complaint}");
    }
}
