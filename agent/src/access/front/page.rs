//! Pure: the pages that the front door itself shows: the index of what runs, and why something is not shown. Plain
//! HTML without scripts. Every word that comes from elsewhere is escaped.

use std::fmt::Write;

use proto::{
    names::{self, sites},
    picture::{Picture, readiness},
};

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><style>\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}\
h1{font-size:1.3rem}h2{font-size:1.1rem;margin:1.5rem 0 .3rem}ul{margin:0;padding-left:1.2rem}small{opacity:.7}\
code{font-family:ui-monospace,monospace}</style>";

/// Lists the sessions with their services; the front door listens on `port`.
pub fn index(picture: &Picture, host: &str, port: u16) -> String {
    let mut body = String::new();
    for (label, id) in names::labels(&picture.shares) {
        let Some(share) = picture.shares.get(&id) else { continue };
        // Writing to a String cannot fail.
        write!(body, "<h2>{}</h2><ul>", escape(&label)).ok();
        for (group, entry) in &share.directory.groups {
            let ready = readiness::behind(picture, share, group.as_str()).len();
            let count = format!("{ready} of {} ready", entry.machines.len());
            for (service, inner) in &entry.services {
                let shown = match sites::name(&picture.shares, id, group, service) {
                    Some(name) => format!("<a href=\"http://{0}:{port}/\">{0}</a>", escape(&name)),
                    None => format!("<code>{group} {service}</code>"),
                };
                write!(body, "<li>{shown} <small>port {inner}, {count}</small></li>").ok();
            }
            if entry.services.is_empty() {
                write!(body, "<li><code>{group}</code> <small>{count}, no services</small></li>").ok();
            }
        }
        body.push_str("</ul>");
    }
    if body.is_empty() {
        body.push_str("<p>No session runs. <code>agent session up topology.toml</code> starts one.</p>");
    }
    let host = escape(host);
    format!(
        "{HEAD}<title>{host}</title></head><body><h1>What runs, seen from {host}</h1>{body}</body></html>\n"
    )
}

/// Says why nothing is shown, and what to do.
pub fn sorry(what: &str, next: &str) -> String {
    let (what, next) = (escape(what), escape(next));
    format!("{HEAD}<title>{what}</title></head><body><h1>{what}</h1><p>{next}</p></body></html>\n")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_no_markup() {
        let page = sorry("there is no session \"<script>alert('x')</script>\"", "a & b");
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)") && page.contains("a &amp; b"), "{page}");
    }
}
