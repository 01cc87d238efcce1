//! A line for `curl`, as a request.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

/// Options with a value that do not change the request.
const IGNORED_WITH_VALUE: [&str; 16] = [
    "-o",
    "--output",
    "-m",
    "--max-time",
    "--connect-timeout",
    "-w",
    "--write-out",
    "-x",
    "--proxy",
    "-E",
    "--cert",
    "--key",
    "--cacert",
    "--resolve",
    "--retry",
    "-c",
];

/// Long options without a value that do not change the request.
const IGNORED: [&str; 14] = [
    "--silent",
    "--show-error",
    "--insecure",
    "--location",
    "--verbose",
    "--include",
    "--fail",
    "--compressed",
    "--globoff",
    "--http1.1",
    "--http2",
    "--http3",
    "--no-progress-meter",
    "--path-as-is",
];

/// Returns the request of a URL, of a path, or of a line for `curl`. `host` is the host of a path.
pub(super) fn parse(line: &str, host: Option<&HeaderValue>) -> Result<Request<Bytes>, String> {
    let line = line.trim().replace("\\\r\n", " ").replace("\\\n", " ");
    if !line.starts_with("curl ") {
        return Draft { url: Some(line), ..Draft::default() }.request(host);
    }
    let words = shell_words::split(&line).map_err(|error| format!("the line cannot be split into words: {error}"))?;
    let mut draft = Draft::default();
    let mut words = words.into_iter().skip(1);
    while let Some(word) = words.next() {
        draft.take(&word, &mut words)?;
    }
    draft.request(host)
}

/// A request while its options are read.
#[derive(Default)]
struct Draft {
    url: Option<String>,
    method: Option<String>,
    headers: Vec<(String, String)>,
    data: Option<String>,
    is_head: bool,
    data_in_query: bool,
    is_json: bool,
}

impl Draft {
    /// Takes a word, and the value of an option behind it.
    fn take(&mut self, word: &str, rest: &mut impl Iterator<Item = String>) -> Result<(), String> {
        if !word.starts_with('-') || word == "-" {
            self.url = Some(word.to_owned());
            return Ok(());
        }
        if let Some((name, value)) = word.split_once('=').filter(|_| word.starts_with("--")) {
            return self.option(name, &mut || Ok(value.to_owned()));
        }
        if word.starts_with("--") {
            return self.option(word, &mut || rest.next().ok_or_else(|| format!("{word} needs a value")));
        }
        // Short options may share one word, and a value may follow at once: `-sXPOST`.
        for (at, letter) in word[1..].char_indices() {
            if "skLvifgSnN".contains(letter) {
                continue;
            }
            if matches!(letter, 'I' | 'G') {
                self.option(&format!("-{letter}"), &mut || Ok(String::new()))?;
                continue;
            }
            let attached = &word[1 + at + letter.len_utf8()..];
            let value = &mut || match attached {
                "" => rest.next().ok_or_else(|| format!("-{letter} needs a value")),
                attached => Ok(attached.to_owned()),
            };
            return self.option(&format!("-{letter}"), value);
        }
        Ok(())
    }

    fn option(&mut self, name: &str, value: &mut dyn FnMut() -> Result<String, String>) -> Result<(), String> {
        let mut field = |name: &str, value: String| self.headers.push((name.to_owned(), value));
        match name {
            "--url" => self.url = Some(value()?),
            "-X" | "--request" => self.method = Some(value()?),
            "-I" | "--head" => self.is_head = true,
            "-G" | "--get" => self.data_in_query = true,
            "-H" | "--header" => {
                let line = value()?;
                let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is not a header field"))?;
                field(name.trim(), value.trim().to_owned());
            }
            "-b" | "--cookie" => field("cookie", value()?),
            "-A" | "--user-agent" => field("user-agent", value()?),
            "-e" | "--referer" => field("referer", value()?),
            "-r" | "--range" => field("range", format!("bytes={}", value()?)),
            "-u" | "--user" => field("authorization", format!("Basic {}", STANDARD.encode(value()?))),
            "--oauth2-bearer" => field("authorization", format!("Bearer {}", value()?)),
            "-d" | "--data" | "--data-ascii" | "--data-raw" | "--data-binary" | "--json" => {
                let data = value()?;
                if data.starts_with('@') && name != "--data-raw" {
                    return Err("data from a file cannot be read: give the data itself".into());
                }
                self.is_json |= name == "--json";
                self.data = Some(self.data.take().map_or_else(|| data.clone(), |before| format!("{before}&{data}")));
            }
            name if IGNORED_WITH_VALUE.contains(&name) => drop(value()?),
            name if IGNORED.contains(&name) => {}
            name => return Err(format!("the option {name} is not known here")),
        }
        Ok(())
    }

    fn request(self, host: Option<&HeaderValue>) -> Result<Request<Bytes>, String> {
        let url = self.url.filter(|url| !url.is_empty()).ok_or("there is no URL")?;
        let url = url.split('#').next().unwrap_or_default().to_owned();
        let has_scheme = url.contains("://");
        let url = if url.starts_with('/') || has_scheme { url } else { format!("http://{url}") };
        let uri: Uri = url.replace(' ', "%20").parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let mut target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let mut content = self.data.unwrap_or_default();
        let mut method = if content.is_empty() { Method::GET } else { Method::POST };
        if self.data_in_query {
            target = format!("{target}{}{content}", if target.contains('?') { "&" } else { "?" });
            (content, method) = (String::new(), Method::GET);
        }
        if self.is_head {
            method = Method::HEAD;
        }
        if let Some(named) = self.method {
            method = named.parse().map_err(|_| format!("{named:?} is not a method"))?;
        }
        let mut request = Request::new(Bytes::from(content.clone()));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|error| format!("{target:?} is not a target: {error}"))?;
        let headers = request.headers_mut();
        let authority = uri.authority().and_then(|authority| authority.as_str().rsplit('@').next());
        let host = match authority {
            Some(authority) => HeaderValue::from_str(authority).ok(),
            None => host.cloned(),
        };
        headers.extend(host.map(|host| (header::HOST, host)));
        for (name, value) in self.headers {
            let field: HeaderName = name.parse().map_err(|_| format!("{name:?} is not the name of a field"))?;
            let value: HeaderValue = value.parse().map_err(|_| format!("the value of {name} is not allowed"))?;
            if field == header::HOST { _ = headers.insert(field, value) } else { _ = headers.append(field, value) }
        }
        if !content.is_empty() {
            let kind = if self.is_json { "application/json" } else { "application/x-www-form-urlencoded" };
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_curl_becomes_its_request() {
        let request = parse(
            "curl -sSL -XPUT 'https://api.example/t/a?b=1#c' -H 'Accept: text/html' -b id=1 \\\n --data-raw '@x' -u a:b",
            None,
        );
        let request = request.expect("a request");
        assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("PUT", "/t/a?b=1"));
        let fields = request.headers();
        let value = |name: &str| fields[name].to_str().expect("text");
        assert_eq!((value("host"), value("accept"), value("cookie")), ("api.example", "text/html", "id=1"));
        assert_eq!((value("authorization"), value("content-type")), ("Basic YTpi", "application/x-www-form-urlencoded"));
        assert_eq!(request.body(), "@x");
    }

    #[test]
    fn path_takes_the_host_of_the_inspector() {
        let host = HeaderValue::from_static("localhost:3000");
        let request = parse(" /t/a ", Some(&host)).expect("a request");
        assert_eq!((request.method(), request.headers()["host"].as_bytes()), (&Method::GET, b"localhost:3000".as_slice()));
        let head = parse("curl -I --url localhost/a -G -d b=1", Some(&host)).expect("a request");
        assert_eq!(
            (head.method(), head.uri().to_string(), &head.headers()["host"]),
            (&Method::HEAD, "/a?b=1".into(), &HeaderValue::from_static("localhost"))
        );
    }

    #[test]
    fn unusable_line_names_its_fault() {
        for (line, fault) in [
            ("curl -X", "-X needs a value"),
            ("curl /a --frobnicate", "--frobnicate is not known"),
            ("curl /a -d @file", "data from a file"),
            ("curl '/a", "split into words"),
            ("curl -s", "no URL"),
            ("curl /a -H novalue", "not a header field"),
        ] {
            let found = parse(line, None).map(|request| format!("{request:?}"));
            assert!(found.as_ref().is_err_and(|error| error.contains(fault)), "{line}: {found:?}");
        }
    }
}
