//! Where values come from: flags, variables, the settings file, the defaults, in this order. It owns the merge and what
//! is wrong with the sources themselves (an unknown key, a file that cannot be read); it refuses to judge values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::args::Flags;
use crate::config::home;
use crate::config::mistakes::{Mistake, Source};
use crate::config::names::{self, Kind, SETTINGS, Setting, VARIABLE_PREFIX};

/// The settings file's name below the root, unless another is named.
pub(crate) const FILE: &str = "config.toml";
/// Largest settings file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How a host name becomes addresses; the resolver of the system, or a table in tests.
pub type Lookup<'a> = &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>;

/// Everything that may name a value, passed in so that resolving is a function of its inputs.
pub struct Sources<'a> {
    /// What was typed.
    pub flags: &'a Flags,
    /// The environment's variables with our prefix.
    pub variables: BTreeMap<String, String>,
    /// The user's home folder.
    pub user_home: Option<PathBuf>,
    /// How a host name becomes addresses.
    pub lookup: Lookup<'a>,
}

impl<'a> Sources<'a> {
    /// The sources of this process.
    #[must_use]
    pub fn of_process(flags: &'a Flags) -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .collect();
        let user_home = std::env::var_os("HOME").map(PathBuf::from);
        Self { flags, variables, user_home, lookup: &system_lookup }
    }
}

/// Asks the system's resolver.
fn system_lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    use std::net::ToSocketAddrs;
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// What one setting was given, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// The texts, in their order; one for everything but a list.
    pub(crate) texts: Vec<String>,
    /// Who gave them.
    pub(crate) source: Source,
}

/// Every setting's value as text, and what was wrong on the way.
pub(crate) struct Merged {
    /// By key; a key without value and default is missing.
    pub(crate) given: BTreeMap<&'static str, Given>,
    /// What is wrong with the sources themselves.
    pub(crate) mistakes: Vec<Mistake>,
    /// What is probably not meant, but cannot be judged: variables that may belong to others.
    pub(crate) warnings: Vec<String>,
}

/// Merges all sources.
pub(crate) fn merge(sources: &Sources<'_>) -> Merged {
    let mut merged = Merged { given: BTreeMap::new(), mistakes: Vec::new(), warnings: unknown_variables(sources) };
    for setting in SETTINGS {
        if let Some(given) = from_process(setting, sources).or_else(|| from_default(setting)) {
            merged.given.insert(setting.key, given);
        }
    }
    let Some(file) = settings_file(&mut merged, sources) else { return merged };
    let Some(table) = read_file(&file, &mut merged.mistakes) else { return merged };
    for (key, value) in &table {
        take_from_file(&file, key, value, &mut merged);
    }
    merged
}

/// From the flag, else from the variable.
fn from_process(setting: &'static Setting, sources: &Sources<'_>) -> Option<Given> {
    if let Some(texts) = sources.flags.texts(setting.key) {
        let texts = texts.iter().flat_map(|text| split(setting, text)).collect();
        return Some(Given { texts, source: Source::Flag(setting.flag()) });
    }
    let text = sources.variables.get(&setting.variable())?;
    Some(Given { texts: split(setting, text), source: Source::Variable(setting.variable()) })
}

fn from_default(setting: &'static Setting) -> Option<Given> {
    (!setting.default.is_empty())
        .then(|| Given { texts: split(setting, setting.default), source: Source::Default(setting.key.to_owned()) })
}

fn split(setting: &Setting, text: &str) -> Vec<String> {
    match setting.kind {
        Kind::List => text.split(',').map(|part| part.trim().to_owned()).collect(),
        // The two spellings that shells are used to.
        Kind::Switch if text == "1" => vec!["true".to_owned()],
        Kind::Switch if text == "0" => vec!["false".to_owned()],
        _ => vec![text.to_owned()],
    }
}

/// Variables with our prefix that are no setting: most likely a slip, but a script may own them.
fn unknown_variables(sources: &Sources<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in sources.variables.keys() {
        let key = name.trim_start_matches(VARIABLE_PREFIX).to_lowercase();
        let keys = SETTINGS.iter().map(|setting| setting.key);
        let Some(nearest) = names::nearest(&key, keys).and_then(names::by_key) else { continue };
        if nearest.key != key {
            let meant = nearest.variable();
            warnings.push(format!("variable {name} is not a setting and was ignored; did you mean {meant}?"));
        }
    }
    warnings
}

/// Decides the root and the settings file, which stand in no file, and writes them back as absolute paths.
fn settings_file(merged: &mut Merged, sources: &Sources<'_>) -> Option<PathBuf> {
    let user = sources.user_home.as_deref();
    let home = merged.given.get_mut("home").expect("the table has a default for it");
    let root = home::expand(Path::new(&home.texts[0]), user);
    home.texts = vec![root.display().to_string()];

    let config = merged.given.get_mut("config").expect("the table has a default for it");
    let path = match config.source {
        Source::Default(_) => root.join(FILE),
        _ => home::expand(Path::new(&config.texts[0]), user),
    };
    config.texts = vec![path.display().to_string()];
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(config.source, Source::Default(_)) => None,
        Err(error) => {
            let wrong = format!("{} cannot be read ({error})", path.display());
            merged.mistakes.push(Mistake::new(&config.source, wrong, "name a settings file that is there"));
            None
        }
        Ok(_) => Some(path),
    }
}

fn read_file(path: &Path, mistakes: &mut Vec<Mistake>) -> Option<toml::Table> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let wrong = match read {
        Err(error) => format!("cannot be read ({error})"),
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => format!("is larger than {FILE_BYTES_MAX} bytes"),
        Ok(_) => match text.parse::<toml::Table>() {
            Ok(table) => return Some(table),
            Err(error) => {
                let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
                format!("is not TOML: line {line}: {}", error.message())
            }
        },
    };
    mistakes.push(Mistake::new(path.display(), wrong, "write one `key = value` a line"));
    None
}

/// One key of the file: unknown ones are mistakes, known ones count unless a flag or variable has spoken.
fn take_from_file(file: &Path, key: &str, value: &toml::Value, merged: &mut Merged) {
    let source = Source::File(file.to_owned(), key.to_owned());
    let Some(setting) = names::by_key(key) else {
        let keys = SETTINGS.iter().filter(|setting| setting.in_file).map(|setting| setting.key);
        let right = match names::nearest(key, keys) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => "`serve --help` lists every key".to_owned(),
        };
        merged.mistakes.push(Mistake::new(&source, "is not a setting", right));
        return;
    };
    if !setting.in_file {
        let right = format!("use {} or {}", setting.flag(), setting.variable());
        merged.mistakes.push(Mistake::new(&source, "cannot stand in the file", right));
        return;
    }
    let Some(texts) = texts_of(value, setting.kind) else {
        let wrong = format!("is {} {}", article(value.type_str()), value.type_str());
        merged.mistakes.push(Mistake::new(&source, wrong, format!("wants {}", setting.kind.wants())));
        return;
    };
    let spoken = merged.given.get(setting.key).is_some_and(|given| !matches!(given.source, Source::Default(_)));
    if !spoken {
        merged.given.insert(setting.key, Given { texts, source });
    }
}

/// A TOML value as the texts that a flag would have carried; `None` where the type cannot be meant.
fn texts_of(value: &toml::Value, kind: Kind) -> Option<Vec<String>> {
    use toml::Value;
    let numeric = matches!(kind, Kind::Seconds(..) | Kind::Count(..) | Kind::Factor(_));
    match (value, kind) {
        (Value::Array(items), Kind::List) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        (Value::String(text), _) if !numeric && kind != Kind::Switch => Some(vec![text.clone()]),
        (Value::Integer(number), Kind::Choice(_)) => Some(vec![number.to_string()]),
        (Value::Integer(number), _) if numeric => Some(vec![number.to_string()]),
        (Value::Float(number), _) if numeric => Some(vec![number.to_string()]),
        (Value::Boolean(on), Kind::Switch) => Some(vec![on.to_string()]),
        _ => None,
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
