//! A substitute server that passes on what another one serves, with changed and newly signed narinfos.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use offload::internals::gcrypt::SigningKey;
use sha2::{Digest, Sha256};

/// Changes the part of a narinfo that is signed.
pub type Change = fn(&str) -> String;

/// The server. Its threads end with the test process.
pub struct Liar {
    pub address: SocketAddr,
    change: Arc<Mutex<Change>>,
}

impl Liar {
    /// Starts a server in front of the one at `target`, which signs with this key.
    pub fn start(target: SocketAddr, key: &Path) -> Liar {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let change = Arc::new(Mutex::new(str::to_owned as Change));
        let liar = Liar { address: listener.local_addr().unwrap(), change: Arc::clone(&change) };
        let key = Arc::new(SigningKey::load(key).unwrap());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (key, change) = (Arc::clone(&key), Arc::clone(&change));
                // The client may go at any time.
                thread::spawn(move || serve(client, target, &key, &change));
            }
        });
        liar
    }

    /// Changes all narinfos from now on.
    pub fn tell(&self, change: Change) {
        *self.change.lock().unwrap() = change;
    }
}

/// Answers requests, of which many may come at once.
fn serve(mut client: TcpStream, target: SocketAddr, key: &SigningKey, change: &Mutex<Change>) -> io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?).lines();
    while let Some(line) = requests.next() {
        let line = line?;
        let Some(path) = line.split(' ').nth(1) else { continue };
        while requests.next().transpose()?.is_some_and(|header| !header.is_empty()) {}
        let mut server = TcpStream::connect(target)?;
        write!(server, "GET {path} HTTP/1.0\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
        if !path.ends_with(".narinfo") {
            io::copy(&mut server, &mut client)?;
            return client.shutdown(std::net::Shutdown::Both);
        }
        let mut answer = String::new();
        server.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let body = match body.split_once("Signature: ") {
            Some((text, rest)) => {
                let unsigned = rest.split_once('\n').map_or("", |(_, unsigned)| unsigned);
                signed((change.lock().unwrap())(text), key) + unsigned
            }
            None => body.to_owned(),
        };
        let status = head.lines().next().unwrap_or_default().replace("HTTP/1.0", "HTTP/1.1");
        write!(client, "{status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

/// The text with its signature.
fn signed(text: String, key: &SigningKey) -> String {
    let signature = key.sign(&Sha256::digest(&text).into()).unwrap();
    format!("{text}Signature: 1;liar;{}\n", STANDARD.encode(signature))
}
