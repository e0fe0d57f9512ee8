//! HTTP/1.1 byte by byte over a plain socket: whole requests, half requests, streams read event by event. It speaks only
//! as much as the tests need, so that they see what is on the wire and not what a client library makes of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A read that takes longer than this fails the test.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// One connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// One answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.body))
    }

    /// The `data:` lines of a stream.
    pub fn events(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }
}

/// The body of a chat request whose answer does not end by itself: the tiny model's two tokens that end a text are
/// biased away.
pub fn chat(question: &str, tokens_max: u32, stream: bool) -> String {
    serde_json::json!({
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens_max,
        "temperature": 0,
        "logit_bias": {"0": -100, "2": -100},
        "stream": stream,
    })
    .to_string()
}

impl Connection {
    /// Connects.
    pub fn to(address: SocketAddr) -> Self {
        Self::try_to(address).expect("the listener accepts")
    }

    /// Connects, if anyone listens.
    pub fn try_to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a GET.
    pub fn send_get(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
    }

    /// Sends a JSON body to the chat route.
    pub fn send_chat(&mut self, body: &str) -> io::Result<()> {
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
        self.send(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }

    /// A GET and its answer.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send_get(path)?;
        self.answer()
    }

    /// A chat and its answer.
    pub fn post_chat(&mut self, body: &str) -> io::Result<Answer> {
        self.send_chat(body)?;
        self.answer()
    }

    /// Reads an answer to its end.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let (status, headers) = self.head()?;
        let find = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let mut body = Vec::new();
        if find("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            return Ok(Answer { status, headers, body: self.answer_body()? });
        } else if let Some(length) = find("content-length") {
            body.resize(length.parse().map_err(io::Error::other)?, 0);
            self.stream.read_exact(&mut body)?;
        }
        Ok(Answer { status, headers, body: String::from_utf8(body).map_err(io::Error::other)? })
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok((status, headers)) };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads the chunked body of an answer whose head was read.
    pub fn answer_body(&mut self) -> io::Result<String> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend(chunk);
        }
        String::from_utf8(body).map_err(io::Error::other)
    }

    /// Reads one chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk)?;
        chunk.truncate(length);
        Ok((length > 0).then_some(chunk))
    }

    /// Leaves by a reset: what the server still sends reaches nobody.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.stream.get_ref());
        socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
