//! The URI of a machine in Nix's file: `[ssh://|ssh-ng://][USER@]HOST[:PORT][?NAME=VALUE&…]`, with an IPv6 address in
//! brackets, and `%XX` for characters that would have a meaning. Whether the host's name is valid is not checked here.

use super::super::lua::plain;

/// A word of the file, and the column of its first character, from 1.
#[derive(Clone, Copy)]
pub struct Word<'a> {
    pub text: &'a str,
    pub column: u32,
}

/// A column, and the error in it.
pub type ColumnError = (u32, String);

/// The port that ssh uses by default.
pub const SSH_PORT: u16 = 22;

/// The URI of a machine with SSH.
pub struct Uri {
    pub user: Option<String>,
    pub host: String,
    pub port: u16,
    /// The names and values of the parameters.
    pub parameters: Vec<(String, String)>,
    /// The column of the URI in its line.
    pub column: u32,
}

impl Uri {
    /// Reads a URI. Returns `None` if it names another kind of store.
    pub fn parse(word: Word) -> Result<Option<Uri>, ColumnError> {
        let (address, query) = word.text.split_once('?').unwrap_or((word.text, ""));
        let address = match address.split_once("://") {
            Some(("ssh" | "ssh-ng", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(_) => return Ok(None),
            None if address.contains('/') || ["", "auto", "daemon", "local"].contains(&address) => return Ok(None),
            None => address,
        };
        let wrong = |what: &str| (word.column, format!("{what} in '{}'", plain(word.text)));
        let (user, authority) = match address.rsplit_once('@') {
            Some((user, authority)) => (Some(decode(user)), authority),
            None => (None, address),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("expected ']' after an IPv6 address"))?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':').ok_or_else(|| wrong("expected ':' after ']'"))?)),
                }
            }
            // More than one colon: an IPv6 address without its brackets, as Nix once took it.
            None => match authority.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (authority, None),
            },
        };
        if host.is_empty() || user.as_deref() == Some("") {
            return Err(wrong(if host.is_empty() { "expected a host name" } else { "expected an account before '@'" }));
        }
        let port = match port {
            None => SSH_PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| wrong("expected a port from 1 to 65535 after the host"))?,
        };
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty()).map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (decode(name), decode(value))
        });
        let parameters = parameters.collect();
        let host = decode_host(host);
        if [Some(&host), user.as_ref()].into_iter().flatten().any(|text| text.contains(char::is_control)) {
            return Err(wrong("found a control character ('%' and two hexadecimal digits)"));
        }
        Ok(Some(Uri { user, host, port, parameters, column: word.column }))
    }

    /// Removes the parameter `name`, and returns its value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let index = self.parameters.iter().position(|(parameter, _)| parameter == name)?;
        Some(self.parameters.remove(index).1)
    }
}

/// Decodes a host. The zone of an IPv6 address follows `%25` (RFC 6874) or, as Nix also reads it, `%` alone. In the second
/// form, a zone such as `18` or `eb` is not an escape.
fn decode_host(host: &str) -> String {
    let zone = host.split_once('%').filter(|(address, _)| address.contains(':'));
    match zone {
        Some((address, zone)) => {
            let zone = match zone.strip_prefix("25").filter(|zone| !zone.is_empty()) {
                Some(escaped) => decode(escaped),
                None => zone.to_owned(),
            };
            format!("{address}%{zone}")
        }
        None => decode(host),
    }
}

/// Resolves `%XX` in a text. Other text is unchanged; if the result is not UTF-8, the whole text is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { others };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
