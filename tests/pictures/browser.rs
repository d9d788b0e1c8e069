//! Chromium without a window, driven over the DevTools protocol: messages of JSON, each followed by a zero byte, on the descriptors 3
//! and 4. A server on a loopback port has one page, and counts the requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use serde_json::{Value, json};

/// Chromium with one page.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    profile: tempfile::TempDir,
    session: Option<String>,
    number: u64,
    /// Events that came since the page was opened.
    events: Vec<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a page is seen.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub width: u32,
    pub height: u32,
    pub scheme: &'static str,
    pub has_scripts: bool,
}

impl Browser {
    pub fn start() -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let command = "exec chromium --headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars \
                       --force-device-scale-factor=1 --user-data-dir=\"$0\" --remote-debugging-pipe 3<&0 4>&1 </dev/null >&2";
        let mut child = Command::new("sh")
            .args(["-c", command])
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Browser { child, input, output, profile, session: None, number: 0, events: Vec::new() };
        let target = browser.send("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.send("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = Some(attached["sessionId"].as_str().expect("chromium: tests/setup installs it").to_owned());
        for domain in ["Page", "Runtime", "Network", "Log", "DOM"] {
            browser.send(&format!("{domain}.enable"), json!({}));
        }
        assert!(browser.profile.path().exists());
        browser
    }

    fn receive(&mut self) -> Value {
        let mut message = Vec::new();
        self.output.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "chromium has ended; tests/setup installs it");
        serde_json::from_slice(&message).unwrap()
    }

    pub fn send(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut reply = self.receive();
            if reply["id"] == self.number {
                assert!(reply.get("error").is_none(), "{method}: {reply}");
                return reply["result"].take();
            }
            self.events.push(reply);
        }
    }

    /// Opens an address, and waits until it is loaded.
    pub fn open(&mut self, address: &str, view: View) {
        let View { width, height, scheme, has_scripts } = view;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.send("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.send("Emulation.setEmulatedMedia", json!({ "features": features }));
        self.send("Emulation.setScriptExecutionDisabled", json!({ "value": !has_scripts }));
        self.send("Page.navigate", json!({ "url": "about:blank" }));
        self.wait_for_load();
        self.send("Page.navigate", json!({ "url": address }));
        self.wait_for_load();
    }

    fn wait_for_load(&mut self) {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["method"] == "Page.loadEventFired") {
                self.events.remove(at);
                return;
            }
            let event = self.receive();
            self.events.push(event);
        }
    }

    /// Evaluates an expression in the page, and waits for a promise.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.send("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression:.200}: {result}");
        result["result"]["value"].take()
    }

    /// Clicks in the middle of an element, as a mouse does.
    pub fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{ block: 'center', inline: 'center' }});
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let place = self.evaluate(&place);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.send("Input.dispatchMouseEvent", event);
        }
    }

    pub fn type_text(&mut self, text: &str) {
        self.send("Input.insertText", json!({ "text": text }));
    }

    /// Returns errors and warnings: of scripts, of the page's policy, and of the console.
    pub fn problems(&self) -> Vec<String> {
        let is_problem = |event: &&Value| match event["method"].as_str().unwrap_or("") {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Page.javascriptDialogOpening" => true,
            "Log.entryAdded" => event["params"]["entry"]["level"] != "verbose",
            _ => false,
        };
        self.events.iter().filter(is_problem).map(Value::to_string).collect()
    }

    /// Takes a picture of the page's upper part, in PNG.
    pub fn screenshot(&mut self, width: u32, height: u32) -> Vec<u8> {
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let params = json!({ "format": "png", "clip": clip, "captureBeyondViewport": true });
        let picture = self.send("Page.captureScreenshot", params);
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }
}

/// Serves one file for all paths, and counts the requests.
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves these contents until the test ends.
    pub fn start(kind: &'static str, contents: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/page", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut request = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while reader.read_line(&mut request).is_ok_and(|count| count > 2) {}
                if let Some(line) = request.lines().next() {
                    log.lock().unwrap().push(line.to_owned());
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    contents.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&contents));
                let _ = stream.shutdown(std::net::Shutdown::Write).map(|()| stream.read_to_end(&mut Vec::new()));
            }
        });
        Server { address, requests }
    }

    /// Returns whether the file refers to no other one: a browser itself requests an icon for a picture.
    pub fn is_alone(&self) -> bool {
        let requests = self.requests();
        requests.iter().any(|line| line == "GET /page HTTP/1.1")
            && requests.iter().all(|line| ["GET /page HTTP/1.1", "GET /favicon.ico HTTP/1.1"].contains(&line.as_str()))
    }

    /// Returns the requests since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}
