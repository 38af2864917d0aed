//! The dashboard: a page that comes with the binary and asks nobody else for anything.
//!
//! Written by hand, without a framework, a chart library or a build step: what runs in an operator's browser with the
//! power to change routing should be readable in the repository as it is served, and the curves it draws are a few
//! hundred points, for which a library would be many times the page. Charts are SVG, because it takes its colours from
//! the style sheet, stays sharp at any width, and is plain elements to a test. The page holds no data and needs no
//! token; what it shows it reads from the API like every other client. The headers forbid it everything that it does
//! not need: scripts and styles from elsewhere or inline, being framed, and turning strings into markup (Trusted Types).

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($path:literal $kind:ident $file:literal),* $(,)?) => {
        /// All of them.
        const ASSETS: &[Asset] = &[$(Asset { path: $path, kind: $kind, text: include_str!($file) }),*];
    };
}

assets! {
    "/" HTML "index.html",
    "/dashboard/style.css" CSS "style.css",
    "/dashboard/icon.svg" SVG "icon.svg",
    "/dashboard/app.js" SCRIPT "app.js",
    "/dashboard/api.js" SCRIPT "api.js",
    "/dashboard/dom.js" SCRIPT "dom.js",
    "/dashboard/chart.js" SCRIPT "chart.js",
    "/dashboard/store.js" SCRIPT "store.js",
    "/dashboard/words.js" SCRIPT "words.js",
    "/dashboard/actions.js" SCRIPT "actions.js",
    "/dashboard/fleet.js" SCRIPT "fleet.js",
    "/dashboard/node.js" SCRIPT "node.js",
    "/dashboard/model.js" SCRIPT "model.js",
    "/dashboard/decisions.js" SCRIPT "decisions.js",
}

/// Whether `path` is a file of the page, which holds no secret.
pub(super) fn is_asset(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// Adds the page to `router`.
pub(super) fn add_to<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    ASSETS
        .iter()
        .fold(router, |router, asset| router.route(asset.path, get(async |head: HeaderMap| serve(asset, &head))))
}

/// Changes with the text: 64-bit FNV-1a, which tells versions apart and no more is asked of it.
fn mark(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("\"{hash:016x}\"")
}

fn serve(asset: &Asset, head: &HeaderMap) -> Response {
    let mark = mark(asset.text);
    let known = head.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == mark.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.kind)], asset.text).into_response()
    };
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        // Asked for anew each time, so that page and binary are never of two versions.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let headers = response.headers_mut();
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if let Ok(mark) = HeaderValue::try_from(mark) {
        headers.insert(header::ETAG, mark);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        ASSETS.iter().find(|asset| asset.path == path).map_or("", |asset| asset.text)
    }

    #[test]
    fn every_file_that_the_page_names_is_there_and_none_is_from_elsewhere() {
        for asset in ASSETS.iter().filter(|asset| asset.kind != SVG) {
            let quoted = asset.text.split(['"', '\'']);
            for name in quoted.filter(|part| part.starts_with("./") || part.starts_with("dashboard/")) {
                let path = format!("/dashboard/{}", name.trim_start_matches("./").trim_start_matches("dashboard/"));
                assert!(is_asset(&path), "{} names {name}", asset.path);
            }
            let foreign = ["http://", "https://", "//cdn", "@import", "url("];
            // The name of SVG elements looks like an address and is none.
            let own = asset.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.iter().any(|word| own.contains(word)), "{} fetches from elsewhere", asset.path);
        }
    }

    #[test]
    fn nothing_turns_text_into_markup_or_code() {
        let sinks = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
            "setHTML",
            "createContextualFragment",
            "srcdoc",
            "localStorage",
            "document.cookie",
        ];
        for asset in ASSETS {
            for sink in sinks {
                assert!(!asset.text.contains(sink), "{} contains {sink}", asset.path);
            }
        }
        let page = text("/");
        assert!(
            !page.contains("style=") && !page.contains(" onclick") && !page.contains("<style"),
            "inline style or script"
        );
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
    }
}
