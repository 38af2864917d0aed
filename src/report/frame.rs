//! What every page has around its figures: one document with its style, and the lines that say how it was made.

use super::svg::escape;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#ffffff;--faint:#5c6670;--line:#d5dae0}\
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--paper:#15181c;--faint:#a9b1ba;--line:#3a4148}}\
@media print{:root{--ink:#000;--paper:#fff;--faint:#444;--line:#bbb}figure,table{break-inside:avoid}}\
body{margin:0 auto;max-width:76rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}\
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}h3{font-size:1rem}\
p,li,h1,h2,figcaption{overflow-wrap:anywhere}p,figcaption{color:var(--faint)}.wide{overflow-x:auto}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}\
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem}\
figure{margin:0}svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:11px system-ui,sans-serif}\
svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--faint);stroke-width:1}\
svg .on{paint-order:stroke;stroke:var(--paper);stroke-width:3px}\
ul.key{list-style:none;margin:.2rem 0;padding:0;display:flex;flex-wrap:wrap;gap:.1rem .8rem;font-size:.85rem}\
ul.key span{display:inline-block;width:.8em;height:.8em;margin-right:.3em;border-radius:2px}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);padding:.6rem;border-radius:4px}\
.wide pre{white-space:pre;overflow-wrap:normal;width:max-content;min-width:100%;box-sizing:border-box;font-size:.8rem}";

/// The document of that title around `body`, which is markup.
pub(super) fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// The last section: the command that makes the page again, and what else there is to say of that.
pub(super) fn made_by(command: &str, remark: &str) -> String {
    format!(
        "<h2>Made by</h2>\n<pre>{}</pre>\n<p>bellwether {}, {}</p>\n",
        escape(command),
        env!("CARGO_PKG_VERSION"),
        escape(remark)
    )
}

/// A table of text.
pub(super) fn table<'a>(columns: impl IntoIterator<Item = &'a str>, rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let head = cells("th", &mut columns.into_iter());
    let row = |row: &Vec<String>| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)));
    let body: String = rows.iter().map(row).collect();
    format!("<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>")
}

/// A chart under its caption, which is markup.
pub(super) fn figure(caption: &str, chart: &str) -> String {
    format!("<figure><figcaption>{caption}</figcaption>{chart}</figure>\n")
}
