//! A request on its way to a node.
//!
//! What the client said stays in its map of fields. What the proxy adds is kept beside it as text that is ready to be
//! sent: to put six fields into a map and to take them out again cost three thousand instructions a request, and the
//! text is the same for every request of a client but for its ids. A box, as it passes through many hands, and comes back
//! from a node that is full without ever having been copied. Who needs a field that the proxy adds has it from where it
//! was made; it cannot be found in here.

use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, header, request};

use crate::fleet::Node;
use crate::proxy::upload::RequestBody;

/// A request head and body as they go to a node.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// What the client said.
    pub(super) head: request::Parts,
    /// Fields that the proxy adds: names, values and line ends, without the empty line.
    pub(super) told: Vec<u8>,
    pub(super) body: RequestBody,
    /// Whether a node that says that it is full gives it back, if its body allows that.
    pub(super) may_return: bool,
    /// The client's target, while the head has one that is written for a node.
    target: Option<Uri>,
    /// Whether the client named no host, so that the one in the head is a node's.
    hostless: bool,
}

impl From<Request<RequestBody>> for Outgoing {
    fn from(request: Request<RequestBody>) -> Outgoing {
        let (head, body) = request.into_parts();
        Outgoing { head, told: Vec::new(), body, may_return: false, target: None, hostless: false }
    }
}

impl Outgoing {
    /// A request without a body yet, and without anything added.
    pub(super) fn new(head: request::Parts) -> Box<Outgoing> {
        let body = RequestBody::Empty;
        Box::new(Outgoing { head, told: Vec::new(), body, may_return: false, target: None, hostless: false })
    }

    /// The same request once more; `None` if its body streams and so can be sent only once.
    pub(super) fn again(&self) -> Option<Box<Outgoing>> {
        let body = match &self.body {
            RequestBody::Empty => RequestBody::Empty,
            RequestBody::Whole(bytes) => RequestBody::Whole(bytes.clone()),
            RequestBody::Streaming(_) => return None,
        };
        let mut again = self.about(self.head.method.clone(), self.head.uri.clone(), self.head.headers.clone());
        (again.body, again.may_return) = (body, self.may_return);
        Some(again)
    }

    /// Whether it is kept until its answer has begun: a body that streams is gone when it is sent.
    pub(super) fn returns(&self) -> bool {
        self.may_return && !matches!(self.body, RequestBody::Streaming(_))
    }

    /// Another request, without a body, on behalf of the same client.
    pub(super) fn about(&self, method: Method, uri: Uri, fields: HeaderMap) -> Box<Outgoing> {
        let mut other = Outgoing::from(Request::new(RequestBody::Empty));
        (other.head.method, other.head.uri, other.head.headers) = (method, uri, fields);
        other.told.clone_from(&self.told);
        Box::new(other)
    }

    /// Directs it to a node: origin form, base path, `Host`. A request that could not be sent to one may be directed to
    /// another: nothing of the first is left then.
    pub(super) fn address(&mut self, node: &Node, preserve_host: bool) {
        if let Some(target) = self.target.take() {
            self.head.uri = target;
        }
        let uri = &self.head.uri;
        if node.has_base_path || uri.authority().is_some() || uri.path().is_empty() {
            let tail = uri.path_and_query().map_or("/", PathAndQuery::as_str);
            let tail = if tail.starts_with('/') || tail == "*" { tail } else { "/" };
            // Parts of valid URIs make a valid URI; if not, the request goes to the root rather than nowhere.
            let base = node.spec.base_path();
            let addressed = format!("{base}{tail}").parse().unwrap_or(Uri::from_static("/"));
            self.target = Some(std::mem::replace(&mut self.head.uri, addressed));
        }
        self.hostless |= !self.head.headers.contains_key(header::HOST);
        if (!preserve_host || self.hostless)
            && let Ok(host) = HeaderValue::from_str(node.spec.authority())
        {
            self.head.headers.insert(header::HOST, host);
        }
    }
}
