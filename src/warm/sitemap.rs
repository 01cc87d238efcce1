//! The targets in a sitemap: <https://www.sitemaps.org/protocol.html>.

use std::{error, fmt};

use quick_xml::{Reader, escape::unescape, events::Event};

use super::target::InvalidTarget;

/// Returns the URLs of a sitemap.
pub(super) fn urls(xml: &str) -> Result<Vec<String>, InvalidSitemap> {
    let mut reader = Reader::from_str(xml);
    let (mut path, mut urls) = (Vec::new(), Vec::<String>::new());
    loop {
        let event = reader.read_event().map_err(InvalidSitemap::new)?;
        let is_text = is_url(&path);
        let mut push = |text: &str| _ = urls.last_mut().filter(|_| is_text).map(|url| url.push_str(text));
        match event {
            Event::Start(element) => {
                path.push(element.local_name().as_ref().to_owned());
                if path[0] == "sitemapindex" {
                    return Err(InvalidSitemap::new("expected <urlset>: this is an index of sitemaps"));
                }
                if is_url(&path) {
                    urls.push(String::new());
                }
            }
            Event::End(_) => _ = path.pop(),
            Event::Text(text) => push(&text),
            Event::CData(text) => push(&text),
            Event::GeneralRef(name) => push(&unescape(&format!("&{};", &*name)).map_err(InvalidSitemap::new)?),
            Event::Eof if !path.is_empty() => return Err(InvalidSitemap::new("expected the end of <urlset>")),
            Event::Eof if urls.is_empty() => return Err(InvalidSitemap::new("expected <urlset> with <url> and <loc>")),
            Event::Eof => return Ok(urls.iter().map(|url| url.trim().to_owned()).collect()),
            _ => {}
        }
    }
}

/// Returns true within the `<loc>` of a URL. Extensions of the format have elements of the same name elsewhere.
fn is_url(path: &[String]) -> bool {
    path == ["urlset", "url", "loc"]
}

/// A text that is not a sitemap.
#[derive(Debug)]
pub struct InvalidSitemap(Box<dyn error::Error + Send + Sync>);

impl InvalidSitemap {
    fn new(reason: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

impl From<InvalidTarget> for InvalidSitemap {
    fn from(error: InvalidTarget) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for InvalidSitemap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid sitemap: {}", self.0)
    }
}

impl error::Error for InvalidSitemap {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_a_sitemap_are_decoded() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
            <urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
              <url><loc> https://shop.example/a?b=1&amp;c=2 </loc><lastmod>2026-01-01</lastmod>
                <image:image><image:loc>https://shop.example/a.png</image:loc></image:image></url>
              <url><loc><![CDATA[https://shop.example/d]]></loc></url>
            </urlset>"#;
        assert_eq!(urls(xml).expect("a sitemap"), ["https://shop.example/a?b=1&c=2", "https://shop.example/d"]);
    }

    #[test]
    fn other_texts_are_errors_that_name_the_fault() {
        for (xml, want) in [
            ("<sitemapindex><sitemap><loc>x</loc></sitemap></sitemapindex>", "index of sitemaps"),
            ("<html></html>", "expected <urlset> with"),
            ("", "expected <urlset> with"),
            ("<urlset><url><loc>/a</loc>", "expected the end of <urlset>"),
            ("<urlset><url></urlset>", ""),
        ] {
            let error = urls(xml).expect_err(xml).to_string();
            assert!(error.starts_with("invalid sitemap: ") && error.contains(want), "{xml}: {error}");
        }
    }
}
