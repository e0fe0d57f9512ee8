//! A call as a JSON object: `{"name": …, "arguments": {…}}`, in any order, with `parameters` for `arguments`. Beside
//! these an `id` and a `type` may stand, which say nothing; any other key means that the object is no call, which is
//! known as soon as the key is. Arguments that are a string with an object's JSON in it are that object.

use std::sync::Arc;

use crate::text::answer::Answer;
use crate::text::tools::json::{Read, Scan, Scanner, Text, is_blank};
use crate::text::tools::{Step, Tool, offers};

/// Reads one call behind its `{`.
#[derive(Debug)]
pub(crate) struct Envelope {
    /// What may be called.
    tools: Arc<[Tool]>,
    /// Where in the object we are.
    at: At,
    /// The tool, once it is known.
    name: Option<String>,
    /// Arguments have opened.
    argued: bool,
    /// Arguments that came before the name.
    early: String,
    /// The answer has the call's beginning.
    begun: bool,
}

/// Where in the object we are.
#[derive(Debug)]
enum At {
    /// A key comes.
    Key,
    /// `:` comes.
    Colon(Field),
    /// The value of a key comes.
    Value(Field),
    /// `,` or `}` comes.
    Next,
    /// More of a string.
    Text(Text, String, Role),
    /// More of the arguments.
    Object(Scanner),
    /// More of a string that holds the arguments.
    Wrapped(Text, Inner),
}

/// What a key is for.
#[derive(Debug, Clone, Copy)]
enum Field {
    Name,
    Arguments,
    Other,
}

/// What a string is.
#[derive(Debug, Clone, Copy)]
enum Role {
    Key,
    Name,
    Other,
}

impl Envelope {
    /// Stands behind the `{`.
    pub fn new(tools: &Arc<[Tool]>) -> Self {
        let (name, early) = (None, String::new());
        Self { tools: tools.clone(), at: At::Key, name, argued: false, early, begun: false }
    }

    /// Whether the answer has the call's beginning.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Takes the next character. [`Step::End`] is the `}` of a call.
    pub fn step(&mut self, character: char, answer: &mut Answer) -> Step {
        match (&mut self.at, character) {
            (At::Key | At::Colon(_) | At::Value(_) | At::Next, _) if is_blank(character) => Step::Hold,
            (At::Key, '"') => self.goes_on(At::Text(Text::default(), String::new(), Role::Key)),
            (At::Colon(field), ':') => {
                let field = *field;
                self.goes_on(At::Value(field))
            }
            (At::Value(Field::Name), '"') => self.goes_on(At::Text(Text::default(), String::new(), Role::Name)),
            (At::Value(Field::Other), '"') => self.goes_on(At::Text(Text::default(), String::new(), Role::Other)),
            (At::Value(Field::Arguments), '"') => self.goes_on(At::Wrapped(Text::default(), Inner::Before)),
            (At::Value(Field::Arguments), '{') => {
                self.at = At::Object(Scanner::new());
                self.argue('{', answer)
            }
            (At::Next, ',') => self.goes_on(At::Key),
            (At::Next, '}') if self.begun => Step::End,
            (At::Text(reader, text, role), _) => match (reader.step(character), *role) {
                (Read::Char(character), _) => {
                    text.push(character);
                    Step::Hold
                }
                (Read::Part, _) => Step::Hold,
                (Read::End, role) => {
                    let text = std::mem::take(text);
                    self.said(text, role, answer)
                }
                (Read::Bad, _) => Step::Refuse,
            },
            (At::Object(scanner), _) => match scanner.step(character) {
                Scan::More => self.argue(character, answer),
                Scan::Done => {
                    self.at = At::Next;
                    self.argue(character, answer)
                }
                Scan::Bad => Step::Refuse,
            },
            (At::Wrapped(reader, inner), _) => match reader.step(character) {
                Read::Char(character) => match inner.step(character) {
                    Step::Commit => self.argue(character, answer),
                    blank_or_bad => blank_or_bad,
                },
                Read::Part => Step::Hold,
                Read::End if matches!(inner, Inner::After) => self.goes_on(At::Next),
                Read::End | Read::Bad => Step::Refuse,
            },
            (At::Key | At::Colon(_) | At::Value(_) | At::Next, _) => Step::Refuse,
        }
    }

    fn goes_on(&mut self, next: At) -> Step {
        self.at = next;
        Step::Hold
    }

    /// A string is complete.
    fn said(&mut self, text: String, role: Role, answer: &mut Answer) -> Step {
        match (role, text.as_str()) {
            (Role::Key, "name") if self.name.is_none() => self.goes_on(At::Colon(Field::Name)),
            (Role::Key, "arguments" | "parameters") if !self.argued => self.goes_on(At::Colon(Field::Arguments)),
            (Role::Key, "id" | "type") => self.goes_on(At::Colon(Field::Other)),
            (Role::Name, name) if offers(&self.tools, name) => {
                self.name = Some(text);
                self.at = At::Next;
                self.begin(answer)
            }
            (Role::Other, _) => self.goes_on(At::Next),
            (Role::Key | Role::Name, _) => Step::Refuse,
        }
    }

    fn argue(&mut self, character: char, answer: &mut Answer) -> Step {
        self.argued = true;
        if self.begun {
            answer.arguments(character.encode_utf8(&mut [0; 4]));
            return Step::Commit;
        }
        self.early.push(character);
        self.begin(answer)
    }

    /// Begins the call when both its name is known and its arguments have opened.
    fn begin(&mut self, answer: &mut Answer) -> Step {
        let (Some(name), true) = (&self.name, self.argued) else { return Step::Hold };
        answer.begin(name);
        answer.arguments(&std::mem::take(&mut self.early));
        self.begun = true;
        Step::Commit
    }
}

/// Where in a string that holds arguments we are.
#[derive(Debug)]
enum Inner {
    /// Before their `{`.
    Before,
    /// Among them.
    Inside(Scanner),
    /// Behind their `}`.
    After,
}

impl Inner {
    /// Takes a character that the string stands for, which is a part of the arguments on [`Step::Commit`].
    fn step(&mut self, character: char) -> Step {
        let next = match self {
            Self::Before if character == '{' => Self::Inside(Scanner::new()),
            Self::Before | Self::After if is_blank(character) => return Step::Hold,
            Self::Before | Self::After => return Step::Refuse,
            Self::Inside(scanner) => match scanner.step(character) {
                Scan::More => return Step::Commit,
                Scan::Done => Self::After,
                Scan::Bad => return Step::Refuse,
            },
        };
        *self = next;
        Step::Commit
    }
}
