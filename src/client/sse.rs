//! Server-sent events out of a byte stream: lines to events, comments told apart, `[DONE]` recognised. It owns the
//! bound of a line and of an event; it refuses to know what the data mean.

use std::io::{self, BufRead, Read};

/// Largest line, and largest data of one event.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One thing that a stream said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The data of an event, its lines joined by line feeds.
    Data(String),
    /// A comment: the server's way to say that it is still there.
    Ping(String),
    /// The data `[DONE]`: the stream ended as it should.
    Done,
}

/// The events of a stream, in their order; ends at the end of the stream. A stream that ends without [`Event::Done`]
/// was cut, and an event that was not closed by an empty line is not told.
#[derive(Debug)]
pub struct Events<R> {
    reader: R,
    /// Data lines of the event being read.
    data: Option<String>,
}

impl<R: BufRead> Events<R> {
    /// Reads events from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, data: None }
    }

    /// The next line without its end; `None` at the end of the stream.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(EVENT_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        if line.len() > EVENT_BYTES_MAX {
            return Err(too_large());
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        let text = String::from_utf8(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some(text))
    }

    /// Takes one line into account; an event when it completes one.
    fn take(&mut self, line: &str) -> io::Result<Option<Event>> {
        if line.is_empty() {
            return Ok(self.data.take().map(|data| if data == "[DONE]" { Event::Done } else { Event::Data(data) }));
        }
        if let Some(comment) = line.strip_prefix(':') {
            return Ok(Some(Event::Ping(comment.trim_start().to_owned())));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) if data.len() + value.len() >= EVENT_BYTES_MAX => return Err(too_large()),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        Ok(None)
    }
}

impl<R: BufRead> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.line() {
                Ok(None) => return None,
                Ok(Some(line)) => match self.take(&line) {
                    Ok(None) => {}
                    Ok(Some(event)) => return Some(Ok(event)),
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an event is larger than {EVENT_BYTES_MAX} bytes"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn events(text: &str) -> Vec<Event> {
        Events::new(text.as_bytes()).map(Result::unwrap).collect()
    }

    fn data(text: &str) -> Event {
        Event::Data(text.to_owned())
    }

    #[test]
    fn events_comments_and_the_end_are_told_apart_whatever_the_line_ends() {
        for end in ["\n", "\r\n"] {
            let text = [
                ": ping 3",
                "",
                "data: {\"a\":1}",
                "",
                "event: x",
                "id: 7",
                "data:two",
                "data: lines",
                "",
                "data: [DONE]",
                "",
            ];
            let expected = [Event::Ping("ping 3".to_owned()), data("{\"a\":1}"), data("two\nlines"), Event::Done];
            assert_eq!(events(&(text.join(end) + end)), expected);
        }
    }

    #[test]
    fn an_event_that_was_cut_is_not_told() {
        assert_eq!(events("data: a\n\ndata: b\n"), [data("a")]);
        assert_eq!(events(""), []);
    }

    #[test]
    fn a_line_and_an_event_beyond_the_bound_are_errors() {
        let line = format!("data: {}\n\n", "x".repeat(EVENT_BYTES_MAX));
        assert!(Events::new(line.as_bytes()).next().unwrap().is_err());
        let event = format!("data: {}\n", "x".repeat(EVENT_BYTES_MAX / 2)).repeat(3);
        assert!(Events::new(event.as_bytes()).next().unwrap().is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_events_or_an_error_and_splitting_them_changes_nothing(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), size in 1_usize..9
        ) {
            let read = |reader: &mut dyn BufRead| Events::new(reader).map(|event| event.map_err(|_| ())).take(500).collect::<Vec<_>>();
            let whole = read(&mut &bytes[..]);
            let split = read(&mut io::BufReader::with_capacity(size, &bytes[..]));
            assert_eq!(whole, split);
        }
    }
}
