//! A client that sees every byte: what it sends is written out in the test, what it gets is parsed strictly.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Client<T = TcpStream> {
    pub(super) stream: T,
    /// Bytes received and not yet looked at.
    received: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("the listener accepts"))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(super) fn over(stream: T) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the server reads");
        self.stream.flush().await.expect("the server reads");
    }

    pub(super) async fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.reply().await
    }

    pub(super) async fn post(&mut self, body: &Value) -> Reply {
        self.post_to("/v1/chat/completions", body).await
    }

    pub(super) async fn post_to(&mut self, path: &str, body: &Value) -> Reply {
        self.send(request(path, body)).await;
        self.reply().await
    }

    /// A complete response.
    pub(super) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        match reply.header("content-length") {
            Some(length) => {
                let length: usize = length.parse().expect("a content length is a number");
                reply.body = self.take(length).await;
            }
            None if reply.header("transfer-encoding").is_some() => {
                while let Some(chunk) = self.chunk().await {
                    reply.body.extend(chunk);
                }
            }
            None => {}
        }
        reply
    }

    /// The head of a response.
    pub(super) async fn head(&mut self) -> Reply {
        let end = self.find(b"\r\n\r\n").await;
        let head = String::from_utf8(self.received.drain(..end + 4).collect()).expect("a head is ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let headers = lines.map(|line| line.split_once(": ").expect("a header line"));
        Reply {
            status: status.parse().expect("a status is a number"),
            headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
            body: Vec::new(),
        }
    }

    /// The next chunk of a chunked body; `None` after the last.
    pub(super) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = self.find(b"\r\n").await;
        let line: Vec<u8> = self.received.drain(..end + 2).collect();
        let size = std::str::from_utf8(&line).expect("a chunk size is ASCII").trim();
        let size = usize::from_str_radix(size, 16).expect("a chunk size is hexadecimal");
        let mut chunk = self.take(size + 2).await;
        assert_eq!(chunk.split_off(size), b"\r\n", "a chunk ends with a line break");
        (size > 0).then_some(chunk)
    }

    /// Whether the server has closed the connection, without waiting.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            let read = pin!(self.stream.read(&mut buffer));
            match read.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(count)) => self.received.extend(&buffer[..count]),
            }
        }
    }

    /// Waits for the server to close the connection and returns what it said before.
    pub(super) async fn closed(mut self) -> Vec<u8> {
        let read = self.stream.read_to_end(&mut self.received);
        // A reset is an end too.
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("the server closes the connection");
        self.received
    }

    async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            self.fill().await;
        }
        self.received.drain(..count).collect()
    }

    async fn find(&mut self, needle: &[u8]) -> usize {
        loop {
            if let Some(at) = self.received.windows(needle.len()).position(|window| window == needle) {
                return at;
            }
            self.fill().await;
        }
    }

    async fn fill(&mut self) {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server answers");
        let count = read.expect("the connection is whole");
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&self.received));
        self.received.extend(&buffer[..count]);
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }

    /// The member `error.code`.
    pub(super) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("an envelope with a code").to_owned()
    }

    pub(super) fn events(&self) -> Vec<String> {
        events(&self.body)
    }
}

/// The payloads of a stream's events and its comments, in order.
pub(super) fn events(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).expect("a stream is UTF-8");
    assert!(text.is_empty() || text.ends_with("\n\n"), "the stream ends inside an event: {text:?}");
    let event = |part: &str| part.strip_prefix("data: ").unwrap_or(part).to_owned();
    text.split("\n\n").filter(|part| !part.is_empty()).map(event).collect()
}

/// The text of all chunks of the first answer.
pub(super) fn content(events: &[String]) -> String {
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// A chat body with one user message.
pub(super) fn saying(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }] })
}

/// The same, streamed.
pub(super) fn streaming(text: &str) -> Value {
    let mut body = saying(text);
    body["stream"] = Value::Bool(true);
    body
}

pub(super) fn chat_request(body: &Value) -> String {
    request("/v1/chat/completions", body)
}

fn request(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The text of a whole body of ours.
pub(super) fn body_text(body: impl http_body::Body<Data = bytes::Bytes>) -> String {
    let collected = pin!(http_body_util::BodyExt::collect(body)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Ok(collected)) = collected else { panic!("a whole body is there at once") };
    String::from_utf8(collected.to_bytes().to_vec()).expect("our bodies are UTF-8")
}

/// Whether a new connection is refused.
pub(super) async fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
